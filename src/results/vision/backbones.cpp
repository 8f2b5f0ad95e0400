// Whole models of images against each other, at equal parameters.
#include "results/vision/experiments.h"

namespace heed::results::vision {

Experiment words() {
  const auto run = [](const Report& report) {
    const Contest contest(
        digits(4), {on_backbone("vit", "vit"), on_backbone("words in patches", "transformer_in_transformer")}, report);
    return finding_of(contest, {contest.better("words in patches", "vit")});
  };
  return {"words",
          "Words inside large patches",
          {"transformer_in_transformer"},
          "attention inside patches tells what one linear map of a patch does not.",
          run};
}

Experiment skips() {
  const auto run = [](const Report& report) {
    auto lesson = segments(0.6);
    const auto net = [](const char* name, const char* reuse, int64_t exchanges) {
      return on_backbone(name, "cross_contextual_attention",
                         {{"reuse", reuse}, {"exchanges", exchanges}, {"depth", 1}});
    };
    const Contest contest(lesson,
                          {net("plain skips", "none", 0), net("weights used again", "sum", 0),
                           net("tokens exchanged", "none", 2), net("both", "sum", 2)},
                          report);
    return finding_of(contest,
                      {contest.as_good("weights used again", "plain skips", 0.005),
                       contest.better("tokens exchanged", "plain skips"), contest.better("both", "plain skips")});
  };
  return {"skips",
          "Skips of a U-Net, under noise",
          {"cross_contextual_attention"},
          "the encoder's attention helps the decoder's, and global tokens help where contrast is low.",
          run};
}

Experiment one_body() {
  const auto run = [](const Report& report) {
    auto lesson = digits(1);
    lesson.model.layers = 1, lesson.model.dim = 32, lesson.model.hidden = 32;
    lesson.training.steps = 200;
    const Contest contest(lesson,
                          {on_backbone("pyramid", "pyramid"),
                           on_backbone("a body a stage", "medusa_attention", {{"shared", false}, {"width", 4}}),
                           on_backbone("one body", "medusa_attention", {{"width", 4}})},
                          report);
    return finding_of(contest,
                      {contest.as_good("one body", "pyramid", 0.005), contest.better("one body", "a body a stage")});
  };
  return {
      "one_body",
      "One body, gates at all scales",
      {"medusa_attention"},
      "gates from one look at the whole image do not cost accuracy, and do more than gates that look for themselves.",
      run};
}

Experiment overview() {
  const auto run = [](const Report& report) {
    auto lesson = digits(1);
    lesson.model.layers = 1, lesson.model.dim = 32, lesson.model.hidden = 32;
    lesson.training.steps = 200;
    const Contest contest(
        lesson,
        {on_backbone("pyramid", "pyramid"), on_backbone("no context", "overlock", {{"context", false}}),
         on_backbone("context", "overlock")},
        report);
    return finding_of(contest, {contest.better("context", "no context"), contest.as_good("context", "pyramid", 0)});
  };
  return {"overview",
          "A look at the whole before a closer one",
          {"context_mixing_conv"},
          "kernels made from affinities to an overview are better than kernels made without it.",
          run};
}

Experiment branches() {
  const auto run = [](const Report& report) {
    auto lesson = digits(2);
    lesson.training.steps = 250;
    const auto dual = [](const char* name, bool local, bool pairs) {
      return on_backbone(name, "dual_cross_attention_learning", {{"local", local}, {"pairs", pairs}, {"share", 0.3}});
    };
    const Contest contest(lesson,
                          {dual("self-attention", false, false), dual("with a local branch", true, false),
                           dual("with pairs", false, true), dual("both", true, true)},
                          report);
    return finding_of(contest,
                      {contest.better("with a local branch", "self-attention"),
                       contest.better("with pairs", "self-attention"), contest.better("both", "self-attention")});
  };
  return {"branches",
          "Branches beside self-attention",
          {"dual_cross_attention_learning"},
          "asking again with what is looked at most, and being distracted in training, help to tell fine differences.",
          run};
}

}  // namespace heed::results::vision
