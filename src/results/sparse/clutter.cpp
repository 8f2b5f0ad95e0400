#include "results/sparse/clutter.h"

#include "heed/models/vision_backbone.h"
#include "heed/train/distilled_model.h"
#include "tasks/clutter.h"
#include "train/scheduled_adamw.h"

namespace heed::results::sparse {

using torch::Tensor;

Clutter clutter(tasks::Split split, uint64_t first, int64_t count) {
  static const tasks::ClutterTask task({{"side", kCanvas}, {"patch", kPatch}, {"pieces", kPieces}});
  constexpr int64_t kAcross = tasks::ClutterTask::kDigit / kPatch;
  Clutter drawn{torch::empty({count, 1, kCanvas, kCanvas}), torch::empty({count}, torch::kInt64),
                torch::zeros({count, kPatchSide, kPatchSide}, torch::kBool)};
  for (int64_t b = 0; b < count; ++b) {
    auto one = task.draw(split, first + uint64_t(b));
    drawn.pixels[b][0] = torch::from_blob(one.example.values.data(), {kCanvas, kCanvas});
    drawn.labels[b] = one.example.labels[0];
    drawn.digit[b].narrow(0, one.row / kPatch, kAcross).narrow(1, one.column / kPatch, kAcross).fill_(true);
  }
  drawn.digit = drawn.digit.flatten(1);
  return drawn;
}

VisionTransformer clutter_model(const LayerPlan& plan, uint64_t seed, bool class_token) {
  VisionSpec spec;
  spec.image_height = spec.image_width = kCanvas, spec.patch = kPatch;
  spec.base.dim = 64, spec.base.heads = spec.base.kv_heads = 4, spec.base.head_dim = 16, spec.base.hidden = 128;
  spec.base.max_length = kPatches + (class_token ? 1 : 0);
  spec.base.block = vision_block();
  spec.base.layers.assign(4, plan);
  auto config = vision_config(spec);
  config.class_token = class_token;
  torch::manual_seed(int64_t(seed));
  return VisionTransformer(config);
}

void train_clutter(VisionTransformer& model, int64_t steps, uint64_t seed, double rate,
                   const std::function<void(int64_t)>& step, VisionTransformer teacher) {
  constexpr int64_t kBatch = 32;
  train::ScheduledAdamW optimizer("clutter", model->parameters(), steps, rate, 0.05);
  model->train();
  for (int64_t s = 0; s < steps; ++s) {
    const auto batch = clutter(tasks::Split::train, (seed << 32) + uint64_t(s * kBatch), kBatch);
    const auto tokens = model->forward(batch.pixels, uint64_t(s)), logits = model->logits(tokens);
    auto loss = torch::cross_entropy_loss(logits, batch.labels);
    if (teacher) {
      torch::NoGradGuard no_grad;
      const auto shown = teacher->forward(batch.pixels), wanted = teacher->logits(shown);
      torch::AutoGradMode learns(true);
      loss = loss + train::distillation_loss(logits, wanted, tokens, shown);
    }
    optimizer.step(loss);
    step(s);
  }
  model->eval();
}

double clutter_accuracy(VisionTransformer& model) {
  torch::NoGradGuard no_grad;
  model->eval();
  const auto test = clutter(tasks::Split::test, 0, 360);
  return (model->logits(model->forward(test.pixels)).argmax(1) == test.labels)
      .to(torch::kFloat64)
      .mean()
      .item<double>();
}

}  // namespace heed::results::sparse
