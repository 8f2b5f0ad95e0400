// Gates, kernels, filters and operators in the place of attention over digits.
#include "results/vision/experiments.h"

namespace heed::results::vision {

Experiment gates() {
  const auto run = [](const Report& report) {
    const auto groups = [](int64_t count) {
      return variant("subspace_attention, " + std::to_string(count), "subspace_attention", {{"groups", count}});
    };
    const Contest contest(digits(2),
                          {groups(1), groups(2), groups(4),
                           variant("efficient_local_attention", "efficient_local_attention", {{"norm_groups", 16}}),
                           plain("activator_glu")},
                          report);
    return finding_of(contest, {contest.better("subspace_attention, 2", "subspace_attention, 1"),
                                contest.better("subspace_attention, 4", "subspace_attention, 1"),
                                contest.better("efficient_local_attention", "activator_glu")});
  };
  return {"gates",
          "Gates from maps and strips",
          {"subspace_attention", "efficient_local_attention"},
          "several maps over subspaces of the channels do more than one; gates from strips see where things are.",
          run};
}

Experiment kernels() {
  const auto run = [](const Report& report) {
    auto lesson = digits(1);
    lesson.training.steps = 200;
    const auto large = [](int64_t kernel, int64_t dilation) {
      return variant("large_kernel_attention, " + std::to_string(kernel), "large_kernel_attention",
                     {{"kernel", kernel}, {"dilation", dilation}});
    };
    const auto mixing = [](int64_t kernel) {
      return variant("context_mixing_conv, " + std::to_string(kernel), "context_mixing_conv", {{"kernel", kernel}});
    };
    const Contest contest(lesson, {large(5, 2), large(9, 3), large(21, 3), mixing(3), mixing(7)}, report);
    return finding_of(contest, {contest.better("large_kernel_attention, 21", "large_kernel_attention, 5"),
                                contest.better("context_mixing_conv, 7", "context_mixing_conv, 3"),
                                contest.as_good("context_mixing_conv, 7", "large_kernel_attention, 21", 0)});
  };
  return {"kernels",
          "Large kernels",
          {"large_kernel_attention", "context_mixing_conv"},
          "larger kernels are better, and kernels that cells make for themselves better than fixed ones.",
          run};
}

Experiment spectra() {
  const auto run = [](const Report& report) {
    auto lesson = digits(1);
    lesson.model.layers = 4;
    lesson.training.steps = 400;
    const nlohmann::json size{{"height", 8}, {"width", 8}};
    const auto mixed = [&](const char* name, const char* layers) {
      return Learner{name, layers, {{"spectral_gating", size}, {"dense", {{"causal", false}}}}, {}, {}};
    };
    const Contest contest(
        lesson,
        {mixed("attention", "dense"), mixed("one spectral layer", "spectral_gating+dense+dense+dense"),
         mixed("two spectral layers", "spectral_gating+spectral_gating+dense+dense"),
         mixed("spectral", "spectral_gating")},
        report);
    return finding_of(contest, {contest.as_good("two spectral layers", "attention", 0),
                                contest.as_good("two spectral layers", "spectral", 0)});
  };
  return {"spectra",
          "Early layers filter, later layers attend",
          {"spectral_gating"},
          "a mixture of spectral layers and attention is no worse than either alone.",
          run};
}

Experiment operators() {
  const auto run = [](const Report& report) {
    const auto learned = [](int64_t frequencies) {
      return variant("kolmogorov_arnold_attention, " + std::to_string(frequencies), "kolmogorov_arnold_attention",
                     {{"max_length", 16}, {"frequencies", frequencies}});
    };
    const auto shared = [](const char* name, const nlohmann::json& settings) {
      return variant(std::string("conv_share_attention, ") + name, "conv_share_attention", settings);
    };
    const Contest contest(
        digits(2),
        {variant("dense", "dense", {{"causal", false}}), learned(1), learned(3), shared("whole maps", {{"kernel", 8}}),
         shared("smaller kernels", {{"kernel", 5}}), shared("same", {{"padding", "same"}})},
        report);
    return finding_of(contest, {contest.better("kolmogorov_arnold_attention, 3", "dense"),
                                contest.as_good("conv_share_attention, whole maps", "dense", 0.02),
                                contest.better("conv_share_attention, whole maps", "conv_share_attention, same")});
  };
  return {
      "operators",
      "Other operators than softmax and linear maps",
      {"kolmogorov_arnold_attention", "conv_share_attention"},
      "learned functions of scores help small models; kernels as large as the maps are linear maps, and padded ones "
      "are not.",
      run};
}

}  // namespace heed::results::vision
