// Digits as patches, by a vision transformer whose token mixer changes.
#include "results/learning.h"
#include "results/linear/experiments.h"

namespace heed::results::linear {

Experiment digits() {
  const auto run = [](const Report& report) {
    Lesson lesson;
    lesson.task = "digits";
    lesson.parameters = {{"patch", 2}};
    lesson.model.layers = 2, lesson.model.dim = 32, lesson.model.heads = 2, lesson.model.hidden = 64;
    lesson.training.steps = 500, lesson.training.batch = 32, lesson.training.learning_rate = 5e-3;
    lesson.samples = 360;
    const auto agent = [](int64_t side) {
      return variant("agent_attention, " + std::to_string(side * side) + " agents", "agent_attention",
                     {{"agent_side", side}});
    };
    const Contest contest(
        lesson,
        {variant("dense", "dense", {{"causal", false}}),
         variant("linear", "performer", {{"features", 16}, {"causal", false}}), plain("rala"), plain("mala"),
         plain("l2vit_lga"), variant("l2vit_lga, no concentration", "l2vit_lga", {{"concentration", false}}),
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

}  // namespace heed::results::linear
