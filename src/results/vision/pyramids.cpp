// Token mixers in a pyramid of stages.
#include "results/vision/experiments.h"

namespace heed::results::vision {

Experiment pyramids() {
  const auto run = [](const Report& report) {
    auto lesson = shapes();
    lesson.parameters = {{"side", 16}, {"noise", 0.05}};
    lesson.model.backbone = "pyramid";
    lesson.training.batch = 16, lesson.training.steps = 1000, lesson.training.learning_rate = 1e-3;
    const auto sized = [](const char* name, const nlohmann::json& settings) { return variant(name, name, settings); };
    const Contest contest(
        lesson,
        {dense(), sized("multi_axis_attention", {{"size", 4}}), sized("halo_attention", {{"block", 4}, {"halo", 1}}),
         sized("aggregated_attention", {{"side", 8}, {"bias_hidden", 32}}),
         sized("large_kernel_attention", {{"kernel", 5}, {"dilation", 2}}), plain("activator_glu")},
        report);
    std::vector<Claim> claims;
    for (const char* name :
         {"multi_axis_attention", "halo_attention", "aggregated_attention", "large_kernel_attention"})
      claims.push_back(contest.as_good(name, "dense", 0.01));
    auto finding = finding_of(contest, claims);
    finding.setup +=
        " Stages of 8 x 8, 4 x 4, 2 x 2 cells and one; blocks and grids of 4 x 4. activator_glu mixes no "
        "cells: what it reaches the convolutions between stages do.";
    return finding;
  };
  return {"pyramids",
          "Token mixers in a pyramid of four stages",
          {"multi_axis_attention", "halo_attention", "aggregated_attention", "large_kernel_attention"},
          "where stages bring far cells together, local mixers need no attention to all.",
          run};
}

}  // namespace heed::results::vision
