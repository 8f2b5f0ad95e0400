// Copying, delayed and selective: what must be kept, and for how long.
#include "results/learning.h"
#include "results/linear/experiments.h"

namespace heed::results::linear {
namespace {

Lesson sequence_lesson(const char* task, nlohmann::json parameters, int64_t steps) {
  Lesson lesson;
  lesson.task = task, lesson.parameters = std::move(parameters);
  lesson.training.steps = steps, lesson.training.learning_rate = 3e-3;
  return lesson;
}

}  // namespace

Experiment selection() {
  const auto run = [](const Report& report) {
    auto lesson = sequence_lesson("selective_copy", {{"length", 16}, {"marked", 4}, {"symbols", 8}}, 2000);
    lesson.training.learning_rate = 1e-3;
    lesson.beyond = {{"32 places", {{"length", 32}}}, {"64 places", {{"length", 64}}}};
    const Contest contest(lesson, {plain("mamba"), plain("s4d"), plain("mamba2"), plain("seqboat")}, report);
    return finding_of(contest, {contest.better("mamba", "s4d"), contest.better("mamba", "s4d", 1),
                                contest.better("mamba", "s4d", 2), contest.as_good("mamba2", "mamba", 0.05),
                                contest.as_good("seqboat", "s4d", 0.05), contest.better("seqboat", "s4d", 1)});
  };
  return {"selection",
          "Copying what is marked",
          {"mamba", "s4d", "mamba2", "seqboat"},
          "a state space whose step depends on the token copies what is marked and goes on doing so in longer samples; "
          "one of the same size that is the same at every token does not (arXiv 2312.00752).",
          run};
}

Experiment induction() {
  const auto run = [](const Report& report) {
    auto lesson = sequence_lesson("induction", {{"length", 24}, {"symbols", 8}}, 1000);
    lesson.training.batch = 64;
    lesson.beyond = {{"48 bytes", {{"length", 48}}}, {"192 bytes", {{"length", 192}}}};
    const Contest contest(lesson, {plain("mamba"), plain("s4d"), plain("dense")}, report);
    return finding_of(contest, {contest.better("mamba", "s4d"), contest.better("mamba", "s4d", 1),
                                contest.better("mamba", "dense", 2)});
  };
  return {"induction",
          "What followed last time",
          {"mamba", "s4d"},
          "a selective state space learns induction and extrapolates its length; S4D and attention with rotary "
          "positions do not "
          "(arXiv 2312.00752).",
          run};
}

Experiment state_spaces() {
  const auto run = [](const Report& report) {
    auto lesson = sequence_lesson("copy", {{"length", 16}, {"symbols", 10}}, 600);
    lesson.seeds = 3;
    const Contest contest(
        lesson,
        {plain("s4"), variant("s4d, lin", "s4d", {{"init", "lin"}}), variant("s4d, inv", "s4d", {{"init", "inv"}}),
         variant("s4d, real", "s4d", {{"init", "real"}}), plain("lstm")},
        report);
    return finding_of(contest, {contest.as_good("s4d, lin", "s4", 0.05), contest.as_good("s4d, inv", "s4", 0.05),
                                contest.better("s4d, lin", "s4d, real"), contest.better("s4", "lstm")});
  };
  return {"state_spaces",
          "Diagonal state spaces",
          {"s4", "s4d"},
          "diagonal state spaces of complex poles are as good as S4; with real poles, which can't oscillate, they are "
          "worse (arXiv 2206.11893). An LSTM needs more steps to copy than S4 does.",
          run};
}

Experiment far_copies() {
  const auto run = [](const Report& report) {
    auto lesson = sequence_lesson("mqar", {{"vocabulary", 128}, {"length", 64}, {"pairs", 4}, {"power", 1.0}}, 600);
    lesson.model.heads = 2, lesson.seeds = 2;
    const Contest contest(lesson,
                          {variant("combiner, spans of 8", "combiner", {{"span", 8}}),
                           variant("blocks of 8", "diag_attention", {{"block", 8}}), plain("dense")},
                          report);
    return finding_of(contest, {contest.better("combiner, spans of 8", "blocks of 8"),
                                contest.as_good("combiner, spans of 8", "dense", 0.05)});
  };
  return {"far_copies",
          "Recall across spans",
          {"combiner"},
          "a token that sees its span directly and others through their sums attends to everything; one that sees "
          "its span alone does not (arXiv 2107.05768).",
          run};
}

Experiment nested_lists() {
  const auto run = [](const Report& report) {
    auto lesson =
        sequence_lesson("listops", {{"max_depth", 4}, {"max_args", 4}, {"min_length", 16}, {"max_length", 64}}, 500);
    const Contest contest(lesson, {plain("flow_attention"), plain("linear_attention"), plain("dense")}, report);
    return finding_of(contest, {contest.better("flow_attention", "linear_attention"),
                                contest.as_good("flow_attention", "dense", 0.02)});
  };
  return {"nested_lists",
          "Competition among sources",
          {"flow_attention"},
          "conserved flows make sources compete, which linear attention lacks (arXiv 2202.06258).",
          run};
}

}  // namespace heed::results::linear
