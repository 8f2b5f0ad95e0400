// Token mixers of a small vision transformer over digits, alone and among clutter.
#include "results/vision/experiments.h"

namespace heed::results::vision {

Learner dense() { return variant("dense", "dense", {{"causal", false}}); }

Lesson digits(int64_t patch) {
  Lesson lesson;
  lesson.task = "digits";
  lesson.parameters = {{"patch", patch}};
  lesson.model.layers = 2, lesson.model.dim = 64, lesson.model.heads = 2, lesson.model.hidden = 96;
  lesson.training.steps = 300, lesson.training.batch = 32, lesson.training.learning_rate = 3e-3;
  lesson.samples = 360;
  return lesson;
}

Lesson clutter() {
  Lesson lesson;
  lesson.task = "clutter";
  lesson.model.layers = 2, lesson.model.dim = 64, lesson.model.heads = 4, lesson.model.hidden = 128;
  lesson.training.steps = 400, lesson.training.batch = 32, lesson.training.learning_rate = 2e-3;
  lesson.samples = 720;
  return lesson;
}

Lesson far_marks() {
  Lesson lesson;
  lesson.task = "marks";
  lesson.parameters = {{"side", 9}, {"distance", 6}};
  lesson.model.layers = 2, lesson.model.dim = 32, lesson.model.heads = 2, lesson.model.hidden = 64;
  lesson.training.steps = 300, lesson.training.batch = 32, lesson.training.learning_rate = 3e-3;
  lesson.samples = 500;
  return lesson;
}

Lesson shapes() {
  Lesson lesson;
  lesson.task = "shapes";
  lesson.parameters = {{"side", 24}};
  lesson.model.layers = 1, lesson.model.dim = 32, lesson.model.heads = 2, lesson.model.hidden = 64;
  lesson.training.steps = 400, lesson.training.batch = 16, lesson.training.learning_rate = 2e-3;
  lesson.samples = 500;
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
    const auto sized = [](const char* name, const nlohmann::json& settings) { return variant(name, name, settings); };
    const nlohmann::json windows{{"size", 3}}, places{{"max_length", 81}};
    const auto kernel = [](int64_t size, int64_t dilation) {
      return variant("large_kernel_attention, " + std::to_string(size), "large_kernel_attention",
                     {{"kernel", size}, {"dilation", dilation}});
    };
    const Contest contest(
        far_marks(),
        {dense(), sized("multi_axis_attention", windows), sized("dual_attention", windows),
         plain("factorization_attention"), sized("aggregated_attention", {{"side", 9}, {"bias_hidden", 32}}),
         sized("bilevel_routing_attention", {{"regions", 3}, {"top", 2}}), kernel(21, 3), plain("context_mixing_conv"),
         sized("spectral_gating", {{"height", 9}, {"width", 9}}), sized("ninformer_gating", places),
         sized("mlp_mixer", places), sized("double_window_attention", windows),
         sized("halo_attention", {{"block", 3}, {"halo", 1}}), kernel(5, 2), plain("activator_glu")},
        report);
    std::vector<Claim> claims;
    for (const char* name : {"multi_axis_attention", "dual_attention", "factorization_attention",
                             "aggregated_attention", "bilevel_routing_attention", "large_kernel_attention, 21",
                             "context_mixing_conv", "spectral_gating", "ninformer_gating", "mlp_mixer"})
      claims.push_back(contest.as_good(name, "dense", 0.02));
    auto finding = finding_of(contest, claims);
    finding.setup +=
        " Marks are 6 cells apart or more, windows and regions have 3 x 3 cells. The last four mixers are "
        "controls that see no whole image: in two layers shifted windows reach 4 cells, a kernel of 5 reaches "
        "6, blocks with a halo of 1 reach 6 from the side of a block and less from elsewhere, single cells "
        "none; what one mark tells is a guess's 0.5. The others see all, and what falls short in as many "
        "steps as attention may still learn: the rate and the steps were chosen for attention. "
        "ninformer_gating, context_mixing_conv and mlp_mixer have more parameters than the rest, however "
        "narrow their channel mixers are. Full trials take CIFAR.";
    return finding;
  };
  return {"mixers",
          "Token mixers side by side, where far places must meet",
          {"multi_axis_attention", "dual_attention", "factorization_attention", "aggregated_attention",
           "bilevel_routing_attention", "large_kernel_attention", "context_mixing_conv", "spectral_gating",
           "ninformer_gating", "mlp_mixer", "double_window_attention", "halo_attention", "activator_glu"},
          "grids, routes, summaries, large kernels and filters take the place of attention to all without losing.",
          run};
}

Experiment bags() {
  const auto run = [](const Report& report) {
    auto lesson = digits(2);
    lesson.beyond = {{"patches shuffled", {{"shuffled", true}}}};
    lesson.training.steps = 800, lesson.training.learning_rate = 2e-3;  // attention learns slower than the others
    /// The papers' gates have no positions, and one norm a block.
    const auto without_positions = [](const char* mixer, bool shared_norm) {
      std::map<std::string, nlohmann::json> settings;
      if (std::string(mixer) != "activator_glu") settings[mixer] = {{"max_length", 16}};
      return Learner{mixer, mixer, settings, "vit", {{"positions", false}, {"shared_norm", shared_norm}}};
    };
    const Contest contest(lesson,
                          {dense(), without_positions("mlp_mixer", false), without_positions("ninformer_gating", true),
                           without_positions("activator_glu", true)},
                          report);
    const auto shuffled = contest.scores("activator_glu", 1), whole = contest.scores("activator_glu");
    const auto unchanged = holds("activator_glu the same when patches are shuffled", shuffled.values == whole.values,
                                 shuffled.text() + " against " + whole.text());
    std::vector<Claim> claims{contest.better("ninformer_gating", "mlp_mixer"),
                              contest.better("ninformer_gating", "dense"),
                              contest.as_good("activator_glu", "dense", 0.01),
                              contest.as_good("activator_glu", "mlp_mixer", 0.01), unchanged};
    for (const char* name : {"dense", "mlp_mixer", "ninformer_gating"}) {
      claims.push_back(exceeds(contest.scores(name), contest.scores(name, 1)));
      claims.back().text = std::string(name) + " worse when patches are shuffled";
    }
    auto finding = finding_of(contest, claims);
    finding.setup +=
        " All but dense have no positions, as in the papers; ninformer_gating and activator_glu have one norm "
        "a block. A full trial takes CIFAR.";
    return finding;
  };
  return {
      "bags",
      "Gates in the place of attention",
      {"ninformer_gating", "activator_glu", "mlp_mixer"},
      "a gate made by a mixer of tokens is better than the mixer and than attention; one that mixes no tokens stands "
      "up to both, and sees a bag of patches (arXiv 2403.02411, 2405.15953).",
      run};
}

}  // namespace heed::results::vision
