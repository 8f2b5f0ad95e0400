// Digits as patches, by a vision transformer whose token mixer changes.
#include "results/learning.h"
#include "results/linear/experiments.h"
#include "results/trained_maps.h"

namespace heed::results::linear {
namespace {

Lesson digits_lesson(int64_t patch, int64_t steps) {
  Lesson lesson;
  lesson.task = "digits";
  lesson.parameters = {{"patch", patch}};
  lesson.model.layers = 2, lesson.model.dim = 32, lesson.model.heads = 2, lesson.model.hidden = 64;
  lesson.training.steps = steps, lesson.training.batch = 32, lesson.training.learning_rate = 5e-3;
  lesson.samples = 360;
  return lesson;
}

}  // namespace

Experiment digits() {
  const auto run = [](const Report& report) {
    const auto lesson = digits_lesson(2, 500);
    const auto agent = [](int64_t side) {
      return variant("agent_attention, " + std::to_string(side * side) + " agents", "agent_attention",
                     {{"agent_side", side}});
    };
    // Denominators of so few tokens lie below the 100 at which they end by default.
    const auto scaled = [](const char* name, bool concentration) {
      return variant(name, "l2vit_lga", {{"least_denominator", 0.5}, {"concentration", concentration}});
    };
    const Contest contest(
        lesson,
        {variant("dense", "dense", {{"causal", false}}), variant("linear", "linear_attention", {{"causal", false}}),
         plain("rala"), plain("mala"), scaled("l2vit_lga", true), scaled("l2vit_lga, no concentration", false),
         plain("inline_attention"), variant("inline_attention, no residual", "inline_attention", {{"residual", false}}),
         agent(2), agent(4), agent(7)},
        report);
    return finding_of(contest, {contest.better("rala", "linear"), contest.better("mala", "linear"),
                                contest.better("l2vit_lga", "l2vit_lga, no concentration"),
                                contest.as_good("l2vit_lga", "dense", 0.01),
                                contest.better("inline_attention, no residual", "linear"),
                                contest.better("inline_attention", "inline_attention, no residual"),
                                contest.as_good("agent_attention, 49 agents", "dense", 0.01),
                                contest.as_good("agent_attention, 16 agents", "agent_attention, 4 agents", 0)});
  };
  return {"digits",
          "Linear attention for images",
          {"rala", "mala", "l2vit_lga", "inline_attention", "agent_attention"},
          "rank, magnitude, concentration, injectivity with a local residual, and agents each close the gap between "
          "linear attention and softmax.",
          run};
}

Experiment competing_pixels() {
  const auto run = [](const Report& report) {
    const auto lesson = digits_lesson(1, 1500);
    const std::vector<Learner> learners{
        plain("flow_attention"),
        variant("linear_attention", "linear_attention", {{"causal", false}, {"feature_map", "sigmoid"}}),
        variant("dense", "dense", {{"causal", false}})};
    LayerFigures entropies("entropy", 128,
                           [&](const LayerCall& call) { return mean_entropy(weights_of(call, lesson.model.heads)); });
    const Contest contest(lesson, learners, report, entropies.inspect());
    auto finding =
        finding_of(contest, {contest.better("flow_attention", "linear_attention"),
                             exceeds(entropies.of("linear_attention", 1), entropies.of("flow_attention", 1)),
                             exceeds(entropies.of("linear_attention", 2), entropies.of("flow_attention", 2))});
    finding.setup += " Linear attention has flow attention's sigmoids as features.";
    finding.tables.push_back(entropies.table("Entropy of the weights of pixels, in nats (at most 4.16)", learners));
    return finding;
  };
  return {"competing_pixels",
          "Competition among pixels",
          {"flow_attention"},
          "competition among sources makes their weights less even, and recognises more, than linear attention with "
          "the same features (arXiv 2202.06258).",
          run};
}

Experiment scanned_images() {
  const auto run = [](const Report& report) {
    Lesson lesson;
    lesson.task = "shapes";
    lesson.parameters = {{"answer", "segments"}, {"noise", 0.6}};
    lesson.model.layers = 1, lesson.model.dim = 32, lesson.model.heads = 2, lesson.model.hidden = 48;
    lesson.training.steps = 400, lesson.training.batch = 16, lesson.training.learning_rate = 3e-3;
    lesson.samples = 128;
    const Contest contest(lesson,
                          {plain("ss2d"), variant("blocks", "multi_axis_attention", {{"axes", "block"}}),
                           variant("convolution", "context_mixing_conv", {{"kernel", 3}}),
                           variant("dense", "dense", {{"causal", false}})},
                          report);
    return finding_of(contest, {contest.better("ss2d", "blocks"), contest.better("ss2d", "convolution"),
                                contest.as_good("ss2d", "dense", 0.01)});
  };
  return {"scanned_images",
          "Scans that cross an image",
          {"ss2d"},
          "scans in four directions see the whole image at a linear cost: shapes in noise are found better than by "
          "windows and convolutions (arXiv 2401.10166).",
          run};
}

}  // namespace heed::results::linear
