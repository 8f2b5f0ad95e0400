#include "heed/train/masked_images.h"

#include "heed/error.h"
#include "heed/nn/patches.h"
#include "heed/train/task_batch.h"
#include "train/scheduled_adamw.h"

namespace heed::train {

using torch::Tensor;

namespace {

constexpr double kDecay = 0.05;

}  // namespace

double train_masked_images(VisionTransformer& model, const tasks::Task& task, const MaskedImageOptions& o,
                           const std::function<void(int64_t, int64_t)>& report) {
  const auto& c = model->config();
  require(task.face().input == tasks::Face::Input::image, "{}: its samples are no images", task.name());
  require(o.share > 0 && o.share < 1, "a share of {} hidden patches; above 0 and below 1 is accepted", o.share);
  const int64_t patches = c.patches(), rows = c.image_height / c.patch_height;
  const auto hidden_patches = std::clamp<int64_t>(std::llround(o.share * double(patches)), 1, patches - 1);
  torch::manual_seed(int64_t(o.seed));
  torch::nn::Linear paint(c.dim, c.channels * c.patch_height * c.patch_width);
  auto parameters = model->parameters();
  for (const auto& parameter : paint->parameters()) parameters.push_back(parameter);
  ScheduledAdamW optimizer("masked images", parameters, o.steps, o.learning_rate, kDecay);
  model->train();
  for (int64_t step = 0; step < o.steps; ++step) {
    const auto first = o.seed * 0x100000001ull + uint64_t(step * o.batch);
    const auto pixels = task_batch(task, tasks::Split::train, first, o.batch).inputs;
    const auto order = torch::rand({o.batch, patches}).argsort(int64_t{1});
    const auto hidden = (order < hidden_patches).to(torch::kFloat32);  // as many of every image
    const auto cells = torch::ones({o.batch, patches, 1, c.patch_height, c.patch_width});
    const auto mask =
        nn::from_patches(cells * hidden.view({o.batch, patches, 1, 1, 1}), rows, c.patch_height, c.patch_width);
    const auto states = model->forward(pixels * (1 - mask), uint64_t(step)).slice(1, int64_t(c.class_token));
    const auto painted = nn::from_patches(paint(states), rows, c.patch_height, c.patch_width);
    const auto loss = ((painted - pixels).square() * mask).sum() / (mask.sum() * c.channels);
    // In units of what painting the mean colour of the batch would cost.
    optimizer.step(loss / pixels.var().clamp_min(1e-12));
    if (report) report(step + 1, o.steps);
  }
  model->eval();
  return optimizer.last_loss();
}

}  // namespace heed::train
