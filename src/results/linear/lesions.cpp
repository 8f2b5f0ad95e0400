// Lesions among distractors, found by U-Nets whose blocks see more or less of the image.
#include <fmt/format.h>

#include "results/linear/experiments.h"
#include "results/model_figures.h"

namespace heed::results::linear {
namespace {

constexpr int64_t kLooks = 16;
constexpr double kMass = 0.95;

/// The least share of the pixels that hold kMass of the gradient of the middle patch's answer.
double field(train::TaskModel& model, const tasks::Task& task) {
  const torch::AutoGradMode with_gradients(true);
  auto batch = train::task_batch(task, tasks::Split::test, 0, kLooks);
  batch.inputs.requires_grad_();
  const int64_t across = task.face().height / task.face().patch, middle = across * across / 2 + across / 2;
  const auto answer = model.answers(model.hidden(batch)).select(1, middle);
  const auto pull = torch::autograd::grad({(answer.select(1, 1) - answer.select(1, 0)).sum()}, {batch.inputs})[0];
  const auto shares = std::get<0>(pull.abs().mean(0).flatten().sort(0, true));
  const auto held = shares.cumsum(0) / shares.sum();
  return (held < kMass).to(torch::kFloat64).mean().item<double>();
}

}  // namespace

Experiment lesions() {
  const auto run = [](const Report& report) {
    Lesson lesson;
    lesson.task = "lesions";
    lesson.model.backbone = "unet", lesson.model.backbone_settings = {{"scales", 2}};
    lesson.model.layers = 1, lesson.model.dim = 24, lesson.model.heads = 2, lesson.model.hidden = 48;
    lesson.training.steps = 1000, lesson.training.batch = 8, lesson.training.learning_rate = 3e-3;
    lesson.samples = 128;
    const std::shared_ptr<tasks::Task> task = tasks::make_task(lesson.task, lesson.parameters);
    const std::string overlap = "Dice", seen = "pixels that matter";
    ModelFigures figures({overlap, seen}, [&](train::TaskModel& model) {
      return std::vector{dice(model, *task, lesson.samples), field(model, *task)};
    });
    const Contest contest(
        lesson,
        {variant("SS2D", "ss2d", {{"state_dim", 4}}), variant("convolutions", "convolution", {{"kernel", 3}}),
         variant("windows", "multi_axis_attention", {{"axes", "block"}, {"size", 4}})},
        report, figures.inspect());
    return Finding{
        contest.setup() +
            fmt::format(" One or two ellipses, the lesions, and two rectangles of as large an area, in noise; of every "
                        "patch: is it a lesion? U-Nets of two scales (16 and 8 patches a side) whose three blocks have "
                        "scans in four directions, convolutions of 3 x 3, or attention in windows of 4 x 4 patches. "
                        "Dice of patches on the test images, all of them together. Pixels that matter: the least share "
                        "of the image that holds {:g} % of the gradient of the middle patch's answer, over {} images. "
                        "A full trial takes a mask of pixels; this is one of patches. Time against the side of an "
                        "image: see what one cell sees.",
                        100 * kMass, kLooks),
        {contest.table(), figures.table("What is found, and what is looked at")},
        {exceeds(figures.of("SS2D", seen), figures.of("convolutions", seen)),
         exceeds(figures.of("SS2D", seen), figures.of("windows", seen)),
         reaches(figures.of("SS2D", overlap), figures.of("convolutions", overlap), 0.01),
         reaches(figures.of("SS2D", overlap), figures.of("windows", overlap), 0.01),
         exceeds(figures.of("SS2D", overlap), figures.of("windows", overlap))}};
  };
  return {
      "lesions",
      "Lesions among distractors",
      {"ss2d"},
      "scans in four directions let a U-Net see more of an image than convolutions and windows do, and find lesions "
      "as well or better (arXiv 2406.03430, 2401.10166).",
      run};
}

}  // namespace heed::results::linear
