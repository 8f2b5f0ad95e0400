// Images coloured from a few hints, and videos coloured from their first frame.
#include <fmt/format.h>

#include <array>
#include <cmath>

#include "heed/train/video_colours.h"
#include "results/model_figures.h"
#include "results/vision/experiments.h"

namespace heed::results::vision {
namespace {

using torch::Tensor;

constexpr double kSeen = 2.3 / 110;  // of colours from -1 to 1: a difference in Lab that is just noticed

/// Colours [B, P, 2 patch^2] of patches row by row as images [B, 2, side, side].
Tensor images_of(const Tensor& patches, int64_t side, int64_t patch) {
  const int64_t across = side / patch;
  return patches.view({-1, across, across, 2, patch, patch}).permute({0, 3, 1, 4, 2, 5}).reshape({-1, 2, side, side});
}

/// The mean step from pixel to pixel across borders of patches, by that inside of patches, where `truth` has none.
double border_steps(const Tensor& painted, const Tensor& truth, int64_t patch) {
  std::array<double, 2> sums{}, counts{};
  for (const int64_t axis : {2, 3}) {
    const auto step = [&](const Tensor& t) { return t.diff(1, axis).abs().amax(1).transpose(axis - 1, 2); };
    const auto steps = step(painted), flat = step(truth) == 0;
    for (int64_t i = 0; i < steps.size(2); ++i) {
      const auto across = size_t((i + 1) % patch == 0);
      sums[across] += (steps.select(2, i) * flat.select(2, i)).sum().item<double>();
      counts[across] += double(flat.select(2, i).sum().item<int64_t>());
    }
  }
  return sums[1] / counts[1] / (sums[0] / counts[0]);
}

/// How far from the only hint of an image pixels are seen to change by it, in pixels: the farthest, mean over images.
double range_of_hints(train::TaskModel& model, const train::TaskBatch& hinted, int64_t side, int64_t patch) {
  auto bare = hinted;
  bare.inputs = hinted.inputs.clone();
  bare.inputs.narrow(1, 1, 3).zero_();
  const auto change = answers_of(model, hinted) - answers_of(model, bare);
  const auto seen = images_of(change, side, patch).abs().amax(1) > kSeen;  // [B, side, side]
  const auto mask = hinted.inputs.select(1, 3);
  const auto place = torch::arange(side).to(torch::kFloat32);
  const auto row = (mask.sum(2) * place).sum(1) / mask.sum({1, 2}),
             column = (mask.sum(1) * place).sum(1) / mask.sum({1, 2});
  const auto down = (place - row.unsqueeze(1)).unsqueeze(2), right = (place - column.unsqueeze(1)).unsqueeze(1);
  return ((down.square() + right.square()).sqrt() * seen).flatten(1).amax(1).mean().item<double>();
}

/// Of squared errors of colours from -1 to 1, in dB.
Figure psnr(const Figure& errors) {
  Figure figure{"PSNR, " + errors.name, {}};
  for (const double error : errors.values) figure.values.push_back(10 * std::log10(4 / error));
  return figure;
}

}  // namespace

Experiment hints() {
  const auto run = [](const Report& report) {
    Lesson lesson;
    lesson.task = "colorization";
    lesson.parameters = {{"hints", 16}};
    for (const int64_t count : {1, 4, 16})
      lesson.beyond.push_back(
          {fmt::format("{} hint{}", count, count == 1 ? "" : "s"), {{"hints", count}, {"fixed", true}}});
    lesson.model.layers = 3, lesson.model.dim = 64, lesson.model.heads = 4, lesson.model.hidden = 96;
    lesson.training.steps = 600, lesson.training.batch = 32, lesson.training.learning_rate = 2e-3;
    lesson.samples = 128;
    const auto head = [](const char* name) {
      return on_backbone(std::string(name) + " head", "point_colorization", {{"head", name}});
    };
    Learner local = on_backbone("local convolutions", "point_colorization", {{"head", "convolution"}});
    local.mixer = "large_kernel_attention";
    local.settings = {{"large_kernel_attention", {{"kernel", 5}, {"dilation", 2}}}};
    const std::vector<Learner> learners{head("convolution"), head("linear"), head("attention"), local};
    const auto one_hint = tasks::make_task(lesson.task, {{"hints", 1}, {"fixed", true}});
    const auto one = train::task_batch(*one_hint, tasks::Split::test, 0, lesson.samples);
    const auto some_hints = tasks::make_task(lesson.task, {{"hints", 4}, {"fixed", true}});
    const auto some = train::task_batch(*some_hints, tasks::Split::test, 0, lesson.samples);
    const int64_t side = one_hint->face().height, patch = one_hint->face().patch;
    const std::string borders = "steps at borders, by those inside", reach = "range of a hint";
    ModelFigures figures({borders, reach}, [&](train::TaskModel& model) {
      return std::vector{
          border_steps(images_of(answers_of(model, some), side, patch), images_of(some.targets, side, patch), patch),
          range_of_hints(model, one, side, patch)};
    });
    const Contest contest(lesson, learners, report, figures.inspect());
    Table quality{"Peak signal-to-noise ratio in dB", {"mixer", "1 hint", "4 hints", "16 hints"}, {}};
    for (const auto& learner : learners) {
      auto& row = quality.rows.emplace_back(1, learner.name);
      for (const size_t hints : {1, 2, 3}) row.push_back(psnr(contest.scores(learner.name, hints)).text());
    }
    std::vector<Claim> claims;
    for (const size_t hints : {1, 2, 3})
      claims.push_back(contest.better("convolution head", "local convolutions", hints));
    claims.push_back(contest.better("convolution head", "linear head"));
    claims.push_back(exceeds(figures.of("linear head", borders), figures.of("convolution head", borders)));
    claims.push_back(exceeds(figures.of("convolution head", reach), figures.of("local convolutions", reach)));
    return Finding{
        contest.setup() +
            fmt::format(
                " Steps are those of the colours from pixel to pixel where the truth has none, with 4 hints: 1 "
                "where borders of patches can't be seen. Range: how many pixels from the only hint the farthest "
                "pixel is that it changes by more than 2.3 of 110, as a colour of Lab would be seen to change; "
                "images have {} x {} pixels. A full trial takes 32 x 32 in Lab.",
                side, side),
        {contest.table(), quality, figures.table("Borders of patches, and the range of a hint")},
        claims};
  };
  return {"hints",
          "Colours from a few hints",
          {"point_colorization"},
          "attention carries a hint through its region, further than convolutions do; a head that sees neighbouring "
          "patches paints better than a linear one, and its patches can't be told (arXiv 2207.06831).",
          run};
}

Experiment videos() {
  const auto run = [](const Report& report) {
    constexpr int64_t kSeeds = 3, kTests = 48;
    tasks::MovingShapesOptions clips;
    clips.frames = 16, clips.hidden_from = 3, clips.hidden_to = 10;
    struct Kind {
      const char* name;
      bool memory, local, recurrent;
    };
    const std::vector<Kind> kinds{{"memory and local attention", true, true, true},
                                  {"recurrent state alone", false, false, true},
                                  {"local attention alone", false, true, false}};
    std::vector<Figure> errors;
    double grey = 0;
    Table table{"", {"what carries colours", "error on the shape that came back"}, {}};
    for (const auto& kind : kinds) {
      auto& error = errors.emplace_back(Figure{kind.name, {}});
      for (int64_t seed = 0; seed < kSeeds; ++seed) {
        MemoryPropagationConfig config;
        config.channels = 24, config.key = 12, config.every = 3;
        config.memory = kind.memory, config.local = kind.local, config.recurrent = kind.recurrent;
        torch::manual_seed(seed);
        MemoryPropagation model(config);
        train::VideoTrainOptions training;
        training.seed = uint64_t(seed);
        train::train_video_colours(model, clips, training, [&](int64_t done, int64_t total) {
          const double before = double((errors.size() - 1) * kSeeds + size_t(seed));
          report((before + double(done) / double(total)) / double(kinds.size() * kSeeds), kind.name);
        });
        const auto score = train::score_video_colours(model, clips, kTests);
        error.values.push_back(score.error);
        grey = score.grey;
      }
      table.rows.push_back({kind.name, error.text()});
    }
    table.rows.push_back({"grey", fmt::format("{:.3g}", grey)});
    const Figure without{"grey", {grey}};
    auto claims =
        std::vector{exceeds(errors[1], errors[0]), exceeds(errors[2], errors[1]), exceeds(without, errors[0], 1.25)};
    claims[0].text = "memory and local attention better than a recurrent state alone";
    claims[1].text = "a recurrent state better than local attention alone";
    claims[2].text = "memory and local attention better than grey by a quarter: without it nothing was learned";
    return Finding{
        fmt::format("Videos of two moving shapes, {} frames of {} x {} pixels; one is hidden in frames {} to "
                    "{}. Mean absolute error of its colours afterwards, on {} test videos; {} steps of 8 "
                    "videos, {} seeds. Features come from a small convolutional encoder that is trained with "
                    "the rest, not from a large frozen model.",
                    clips.frames, clips.side, clips.side, clips.hidden_from, clips.hidden_to - 1, kTests,
                    train::VideoTrainOptions{}.steps, kSeeds),
        {table},
        claims};
  };
  return {"videos",
          "Colours of a shape that was hidden",
          {"memory_propagation"},
          "a memory of past frames and attention to the last one keep colours better than a recurrent state, and that "
          "better than attention to the last frame alone.",
          run};
}

}  // namespace heed::results::vision
