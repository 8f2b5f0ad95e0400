// The next byte of a real text, and how steady training is.
#include <fmt/format.h>

#include <algorithm>

#include "results/learning.h"
#include "results/linear/experiments.h"

namespace heed::results::linear {
namespace {

Lesson bytes_lesson(int64_t steps, int64_t seeds) {
  Lesson lesson;
  lesson.task = "byte_lm";
  lesson.parameters = {{"context", 128}};
  lesson.model.dim = 64, lesson.model.heads = 4, lesson.model.hidden = 128;
  lesson.training.steps = steps, lesson.training.batch = 16, lesson.training.learning_rate = 3e-3;
  lesson.seeds = seeds, lesson.samples = 64;
  return lesson;
}

/// A decoder of TransNormerLLM: SRMSNorm and SGLU around a mixer of that name with settings.
Learner transnormer(const std::string& name, const std::string& mixer, const nlohmann::json& settings = {}) {
  auto learner = variant(name, mixer, settings.is_null() ? nlohmann::json::object() : settings);
  learner.block = "transnormer";
  return learner;
}

/// The largest gradient of any projection to queries and keys, in every training, and its median over steps.
struct Gradients {
  double largest = 0;
  std::vector<double> steps;
};

Gradients gradients_of(const std::string& mixer, const nlohmann::json& settings, double rate, uint64_t seed,
                       int64_t steps) {
  auto lesson = bytes_lesson(steps, 1);
  const auto task = tasks::make_task(lesson.task, lesson.parameters);
  auto options = lesson.model;
  options.mixer = mixer, options.settings = {{mixer, settings}}, options.seed = seed;
  const auto model = train::make_task_model(*task, options);
  std::vector<torch::Tensor> watched;
  for (const auto& parameter : model->module().named_parameters())
    if (parameter.key().find("q_proj") != std::string::npos || parameter.key().find("k_proj") != std::string::npos)
      watched.push_back(parameter.value());
  auto training = lesson.training;
  training.learning_rate = rate, training.clip = 0, training.seed = seed;
  Gradients found;
  train::train_task(*model, *task, training, [&](const train::TaskStep&) {
    double most = 0;
    for (const auto& parameter : watched) most = std::max(most, parameter.grad().abs().max().item<double>());
    found.steps.push_back(most);
    found.largest = std::max(found.largest, most);
    return true;
  });
  std::sort(found.steps.begin(), found.steps.end());
  return found;
}

}  // namespace

Experiment language() {
  const auto run = [](const Report& report) {
    const Contest contest(
        bytes_lesson(300, 2),
        {plain("dense"), transnormer("tnl", "tnl"), transnormer("transnormer_llm", "transnormer_llm"), plain("gla"),
         variant("gla, a gate a head", "gla", {{"gate", "head"}}), variant("gla, no gate", "gla", {{"gate", "none"}}),
         plain("deltanet"), plain("causal_grassmann"), variant("combiner, spans of 16", "combiner", {{"span", 16}}),
         variant("window of 16", "sliding_window", {{"window", 16}}), plain("mamba"), plain("kernelized_rpe")},
        report);
    const double few_percent = 0.05 * contest.scores("dense").mean();
    return finding_of(
        contest,
        {contest.as_good("tnl", "dense", few_percent), contest.as_good("transnormer_llm", "dense", few_percent),
         contest.better("gla", "gla, a gate a head"), contest.better("gla, a gate a head", "gla, no gate"),
         contest.as_good("deltanet", "dense", few_percent),
         // 15 % of perplexity a byte are log2(1.15) bits.
         contest.as_good("causal_grassmann", "dense", std::log2(1.15)),
         contest.better("combiner, spans of 16", "window of 16"),
         contest.as_good("kernelized_rpe", "dense", few_percent)});
  };
  return {
      "language",
      "Language models of linear cost",
      {"tnl", "transnormer_llm", "gla", "deltanet", "causal_grassmann", "combiner", "kernelized_rpe"},
      "linear attention with a decay, per-channel gates, the delta rule and random features with relative positions "
      "each come close to softmax; gates by channel are better than by head, and those than none.",
      run};
}

Experiment transnormer_pieces() {
  const auto run = [](const Report& report) {
    const Contest contest(bytes_lesson(300, 3),
                          {transnormer("transnormer_llm", "transnormer_llm"),
                           transnormer("without decay", "transnormer_llm", {{"decay", "none"}}),
                           transnormer("without LRPE", "transnormer_llm", {{"lrpe", false}}),
                           transnormer("without gate", "transnormer_llm", {{"gate", "none"}})},
                          report);
    return finding_of(
        contest,
        {contest.better("transnormer_llm", "without decay"), contest.as_good("transnormer_llm", "without LRPE", 0),
         contest.as_good("transnormer_llm", "without gate", 0), contest.better("without LRPE", "without decay"),
         contest.better("without gate", "without decay")});
  };
  return {"transnormer_pieces",
          "What TransNormerLLM is made of",
          {"transnormer_llm"},
          "decay, learned rotations and the gate each help, the decay most (arXiv 2307.14995).",
          run};
}

Experiment transnormer_lengths() {
  const auto run = [](const Report& report) {
    constexpr int64_t kTokensOfAStep = 6144, kSteps = 150;
    const std::vector<int64_t> lengths{128, 512, 1536};
    Finding finding;
    finding.setup = fmt::format(
        "Decoders of two layers of 64 channels: TransNormerLLM (SRMSNorm, SGLU, lightning attention) and Llama's, "
        "equal "
        "parameters, learn `byte_lm` in {} steps of {} tokens in samples of so many. Bits a byte on test text, two "
        "seeds; tokens a second of training.",
        kSteps, kTokensOfAStep);
    std::map<std::string, std::vector<double>> speed;
    for (size_t i = 0; i < lengths.size(); ++i) {
      auto lesson = bytes_lesson(kSteps, 2);
      lesson.parameters = {{"context", lengths[i]}};
      lesson.training.batch = kTokensOfAStep / lengths[i];
      lesson.samples = 8 * kTokensOfAStep / lengths[i];
      const Contest contest(lesson, {transnormer("tnl", "tnl"), plain("dense")}, [&](double share, const auto& what) {
        report((double(i) + share) / double(lengths.size()), fmt::format("{} tokens, {}", lengths[i], what));
      });
      auto table = contest.table();
      table.title = fmt::format("{} tokens a sample", lengths[i]);
      finding.tables.push_back(table);
      auto claim = contest.as_good("tnl", "dense", 0.05 * contest.scores("dense").mean());
      claim.text += fmt::format(", {} tokens", lengths[i]);
      finding.claims.push_back(claim);
      for (const char* name : {"tnl", "dense"}) speed[name].push_back(contest.tokens_per_second(name));
    }
    const auto kept = [&](const char* name) { return speed[name].back() / speed[name].front(); };
    finding.claims.push_back(holds("tnl keeps its speed from 128 to 1536 tokens, dense does not",
                                   kept("tnl") > 0.85 && kept("dense") < 0.85,
                                   fmt::format("{:.2f} and {:.2f} of it", kept("tnl"), kept("dense"))));
    return finding;
  };
  return {"transnormer_lengths",
          "One speed for every length",
          {"tnl"},
          "a decoder of lightning attention predicts as well as one of softmax attention, at a speed that does not "
          "depend on the length (arXiv 2405.17381).",
          run};
}

Experiment local_then_linear() {
  const auto run = [](const Report& report) {
    auto lesson = bytes_lesson(300, 2);
    lesson.model.layers = 4;
    const std::map<std::string, nlohmann::json> blocks{{"diag_attention", {{"block", 32}}}};
    const Contest contest(lesson,
                          {{"LLLL", "norm_attention", {}},
                           {"DDLL", "diag_attention+diag_attention+norm_attention+norm_attention", blocks},
                           {"LLDD", "norm_attention+norm_attention+diag_attention+diag_attention", blocks},
                           {"DDDD", "diag_attention", blocks}},
                          report);
    return finding_of(contest, {contest.better("DDLL", "LLLL"), contest.as_good("DDLL", "LLDD", 0),
                                contest.as_good("DDLL", "DDDD", 0)});
  };
  return {"local_then_linear",
          "Local attention below, linear attention above",
          {"diag_attention", "norm_attention"},
          "early layers of blocks (D) and late linear ones (L) are better than any other order (arXiv 2210.10340).",
          run};
}

Experiment bounded_gradients() {
  const auto run = [](const Report& report) {
    constexpr int64_t kSteps = 150;
    constexpr double kRate = 1e-2;
    Finding finding;
    finding.setup = fmt::format(
        "Largest gradients of the projections to queries and keys over {} steps of `byte_lm` at a rate of {:g}, "
        "without clipping, as a multiple of their median over steps; three seeds. Denominator: linear attention with "
        "ReLU features divided by its sum of weights (`performer`, 64 features).",
        kSteps, kRate);
    Figure norm{"tail with a norm", {}}, denominator{"tail with a denominator", {}};
    Table table{"", {"mixer", "seed", "median", "largest"}, {}};
    const auto add = [&](const char* mixer, const nlohmann::json& settings, uint64_t seed, Figure& tail) {
      const auto found = gradients_of(mixer, settings, kRate, seed, kSteps);
      const double median = found.steps[found.steps.size() / 2];
      tail.values.push_back(found.largest / median);
      table.rows.push_back(
          {mixer, std::to_string(seed), fmt::format("{:.3g}", median), fmt::format("{:.3g}", found.largest)});
    };
    for (uint64_t seed = 0; seed < 3; ++seed) {
      report(double(seed) / 3, fmt::format("seed {}", seed));
      add("norm_attention", nlohmann::json::object(), seed, norm);
      add("performer", {{"features", 64}, {"feature_kind", "relu"}}, seed, denominator);
    }
    finding.tables.push_back(table);
    finding.claims = {exceeds(denominator, norm)};
    return finding;
  };
  return {"bounded_gradients",
          "A norm in the place of the denominator",
          {"norm_attention"},
          "the denominator of linear attention has unbounded gradients, a norm of the output has not (arXiv "
          "2210.10340).",
          run};
}

}  // namespace heed::results::linear
