#include "heed/train/video_colours.h"

#include "train/scheduled_adamw.h"

namespace heed::train {

using torch::Tensor;

namespace {

constexpr double kDecay = 0.01;

template <class T>
Tensor tensor_of(const std::vector<T>& values, std::vector<int64_t> sizes) {
  return torch::tensor(at::ArrayRef<T>(values)).to(torch::kFloat32).view(sizes);
}

}  // namespace

VideoBatch video_batch(const tasks::MovingShapesOptions& o, tasks::Split split, uint64_t first, int64_t size) {
  std::vector<Tensor> lightness, colours, shape;
  for (int64_t b = 0; b < size; ++b) {
    const auto video = tasks::moving_shapes(o, split, first + uint64_t(b));
    lightness.push_back(tensor_of(video.lightness, {o.frames, 1, o.side, o.side}));
    colours.push_back(tensor_of(video.colours, {o.frames, 2, o.side, o.side}));
    shape.push_back(tensor_of(video.first, {o.frames, 1, o.side, o.side}));
  }
  return {torch::stack(lightness), torch::stack(colours), torch::stack(shape)};
}

double train_video_colours(MemoryPropagation& model, const tasks::MovingShapesOptions& videos,
                           const VideoTrainOptions& o, const std::function<void(int64_t, int64_t)>& report) {
  ScheduledAdamW optimizer("video colours", model->parameters(), o.steps, o.learning_rate, kDecay);
  model->train();
  for (int64_t step = 0; step < o.steps; ++step) {
    const auto first = o.seed * 0x100000001ull + uint64_t(step * o.batch);
    const auto batch = video_batch(videos, tasks::Split::train, first, o.batch);
    const auto colours = model->forward(batch.lightness, batch.colours.select(1, 0));
    optimizer.step((colours - batch.colours.slice(1, 1)).square().mean());
    if (report) report(step + 1, o.steps);
  }
  model->eval();
  return optimizer.last_loss();
}

VideoScore score_video_colours(MemoryPropagation& model, const tasks::MovingShapesOptions& videos, int64_t count) {
  torch::NoGradGuard no_grad;
  model->eval();
  const auto batch = video_batch(videos, tasks::Split::test, 0, count);
  const auto colours = model->forward(batch.lightness, batch.colours.select(1, 0));
  const auto back = [&](const Tensor& frames) { return frames.slice(1, videos.hidden_to); };
  const auto where = back(batch.first), right = back(batch.colours);
  const auto mean = [&](const Tensor& error) {
    return ((error.abs() * where).sum() / (2 * where.sum()).clamp_min(1)).item<double>();
  };
  return {mean(colours.slice(1, videos.hidden_to - 1) - right), mean(right)};
}

}  // namespace heed::train
