// Images coloured from a few hints, and videos coloured from their first frame.
#include <fmt/format.h>

#include "heed/train/video_colours.h"
#include "results/vision/experiments.h"

namespace heed::results::vision {

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
    const Contest contest(lesson, {head("convolution"), head("linear"), head("attention"), local}, report);
    return finding_of(contest, {contest.better("convolution head", "local convolutions", 1),
                                contest.better("convolution head", "local convolutions", 2),
                                contest.better("convolution head", "local convolutions", 3),
                                contest.better("convolution head", "linear head")});
  };
  return {"hints",
          "Colours from a few hints",
          {"point_colorization"},
          "attention carries a hint through its region, further than convolutions do; a head that sees neighbouring "
          "patches paints better than a linear one.",
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
