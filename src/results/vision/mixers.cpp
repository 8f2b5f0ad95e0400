// Token mixers of a small vision transformer over digits.
#include "results/vision/experiments.h"

namespace heed::results::vision {
namespace {

Learner dense() { return variant("dense", "dense", {{"causal", false}}); }

}  // namespace

Lesson digits(int64_t patch) {
  Lesson lesson;
  lesson.task = "digits";
  lesson.parameters = {{"patch", patch}};
  lesson.model.layers = 2, lesson.model.dim = 64, lesson.model.heads = 2, lesson.model.hidden = 96;
  lesson.training.steps = 300, lesson.training.batch = 32, lesson.training.learning_rate = 3e-3;
  lesson.samples = 360;
  return lesson;
}

Lesson segments(double noise) {
  Lesson lesson;
  lesson.task = "shapes";
  lesson.parameters = {{"answer", "segments"}, {"noise", noise}};
  lesson.model.layers = 1, lesson.model.dim = 32, lesson.model.heads = 2, lesson.model.hidden = 48;
  lesson.training.steps = 400, lesson.training.batch = 16, lesson.training.learning_rate = 3e-3;
  lesson.samples = 128;
  return lesson;
}

Experiment mixers() {
  const auto run = [](const Report& report) {
    const Contest contest(
        digits(2),
        {dense(), plain("multi_axis_attention"), plain("double_window_attention"), plain("halo_attention"),
         plain("dual_attention"), plain("factorization_attention"), plain("aggregated_attention"),
         plain("bilevel_routing_attention"), plain("large_kernel_attention"), plain("context_mixing_conv"),
         plain("spectral_gating"), plain("kolmogorov_arnold_attention"), plain("conv_share_attention"),
         plain("ninformer_gating"), plain("efficient_local_attention"), plain("subspace_attention"),
         plain("activator_glu")},
        report);
    std::vector<Claim> claims;
    for (const char* name : {"multi_axis_attention", "double_window_attention", "halo_attention", "dual_attention",
                             "factorization_attention", "aggregated_attention", "bilevel_routing_attention",
                             "large_kernel_attention", "context_mixing_conv", "spectral_gating"})
      claims.push_back(contest.as_good(name, "dense", 0.01));
    return finding_of(contest, claims);
  };
  return {"mixers",
          "Token mixers side by side",
          {"multi_axis_attention", "double_window_attention", "halo_attention", "dual_attention",
           "factorization_attention", "aggregated_attention", "bilevel_routing_attention", "large_kernel_attention",
           "context_mixing_conv", "spectral_gating", "kolmogorov_arnold_attention", "conv_share_attention",
           "ninformer_gating", "efficient_local_attention", "subspace_attention", "activator_glu"},
          "windows, routes, summaries, large kernels and filters take the place of attention to all without losing.",
          run};
}

Experiment windows() {
  const auto run = [](const Report& report) {
    auto lesson = digits(1);
    lesson.training.steps = 200;
    const auto axes = [](const char* which) {
      return variant(std::string("multi_axis_attention, ") + which, "multi_axis_attention",
                     {{"size", 2}, {"axes", which}});
    };
    const auto parts = [](const char* which) {
      return variant(std::string("dual_attention, ") + which, "dual_attention", {{"size", 2}, {"parts", which}});
    };
    const auto halo = [](int64_t cells) {
      return variant("halo_attention, " + std::to_string(cells), "halo_attention", {{"block", 2}, {"halo", cells}});
    };
    const Contest contest(lesson,
                          {axes("both"), axes("block"), axes("grid"), parts("both"), parts("spatial"), parts("channel"),
                           halo(0), halo(1), halo(2)},
                          report);
    return finding_of(contest, {contest.better("multi_axis_attention, both", "multi_axis_attention, block"),
                                contest.better("multi_axis_attention, both", "multi_axis_attention, grid"),
                                contest.better("dual_attention, both", "dual_attention, spatial"),
                                contest.better("dual_attention, both", "dual_attention, channel"),
                                contest.better("halo_attention, 1", "halo_attention, 0"),
                                contest.better("halo_attention, 2", "halo_attention, 1")});
  };
  return {"windows",
          "What windows of 2 x 2 cells need beside them",
          {"multi_axis_attention", "dual_attention", "halo_attention"},
          "blocks need grids, cells need channels, and a halo helps the more the wider it is.",
          run};
}

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
    const Contest contest(digits(2),
                          {dense(), learned(1), learned(3), shared("whole maps", {{"kernel", 8}}),
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

Experiment bags() {
  const auto run = [](const Report& report) {
    auto lesson = digits(2);
    const Contest contest(lesson, {dense(), plain("ninformer_gating"), plain("activator_glu")}, report);
    return finding_of(
        contest, {contest.better("ninformer_gating", "activator_glu"),
                  contest.as_good("ninformer_gating", "dense", 0.01), contest.as_good("activator_glu", "dense", 0.01)});
  };
  return {"bags",
          "Gates in the place of attention",
          {"ninformer_gating", "activator_glu"},
          "a gate that mixes tokens stands up to attention; one that does not sees a bag of patches, with positions.",
          run};
}

}  // namespace heed::results::vision
