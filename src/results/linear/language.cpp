// The next byte of a real text, and how steady training is.
#include <fmt/format.h>

#include <algorithm>

#include "bench/units.h"
#include "heed/error.h"
#include "heed/nn/generator.h"
#include "results/learning.h"
#include "results/linear/experiments.h"
#include "results/timing.h"
#include "results/trained_maps.h"

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

/// How a training went: the largest gradient of any projection to queries and keys at each step, and the losses.
struct Course {
  std::vector<double> gradients, losses;
  bool diverged = false;

  double tail() const {
    auto sorted = gradients;
    std::sort(sorted.begin(), sorted.end());
    return sorted.back() / sorted[sorted.size() / 2];
  }
  /// By how much the loss rose above its least value so far, at most; infinite where it ended as no number.
  double rise() const {
    double least = INFINITY, most = diverged ? INFINITY : 0;
    for (const double loss : losses) {
      least = std::min(least, loss);
      most = std::max(most, loss - least);
    }
    return most;
  }
};

Course course_of(const Learner& learner, int64_t layers, double rate, uint64_t seed, int64_t steps) {
  const auto lesson = bytes_lesson(steps, 1);
  const auto task = tasks::make_task(lesson.task, lesson.parameters);
  auto options = lesson.model;
  options.layers = layers, options.mixer = learner.mixer, options.settings = learner.settings, options.seed = seed;
  const auto model = train::make_task_model(*task, options);
  std::vector<torch::Tensor> watched;
  for (const auto& parameter : model->module().named_parameters())
    if (parameter.key().find("q_proj") != std::string::npos || parameter.key().find("k_proj") != std::string::npos)
      watched.push_back(parameter.value());
  auto training = lesson.training;
  training.learning_rate = rate, training.clip = 0, training.seed = seed;
  Course course;
  try {
    train::train_task(*model, *task, training, [&](const train::TaskStep& step) {
      double most = 0;
      for (const auto& parameter : watched) most = std::max(most, parameter.grad().abs().max().item<double>());
      course.gradients.push_back(most);
      course.losses.push_back(step.loss / std::log(2.0));
      return true;
    });
  } catch (const Error& error) {
    require(loss_is_no_number(error), "{}", error.what());
    course.diverged = true;
  }
  return course;
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
        "parameters, learn `byte_lm` in {} steps of {} tokens at a rate of 3e-3 in samples of so many. Bits a byte on "
        "test text, two "
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
    const std::vector<Learner> learners{{"LLLL", "norm_attention", {}},
                                        {"DDLL", "diag_attention+diag_attention+norm_attention+norm_attention", blocks},
                                        {"LLDD", "norm_attention+norm_attention+diag_attention+diag_attention", blocks},
                                        {"DDDD", "diag_attention", blocks}};
    LayerFigures distances("distance", 16,
                           [&](const LayerCall& call) { return mean_distance(weights_of(call, lesson.model.heads)); });
    const Contest contest(lesson, learners, report, distances.inspect());
    auto finding = finding_of(
        contest, {contest.better("DDLL", "LLLL"), contest.as_good("DDLL", "LLDD", 0),
                  contest.as_good("DDLL", "DDDD", 0), exceeds(distances.of("LLLL", 1), distances.of("DDLL", 1)),
                  exceeds(distances.of("LLLL", 2), distances.of("DDLL", 2))});
    finding.tables.push_back(distances.table("Mean distance of what is attended to, in tokens", learners));
    return finding;
  };
  return {"local_then_linear",
          "Local attention below, linear attention above",
          {"diag_attention", "norm_attention"},
          "early layers of blocks (D) and late linear ones (L) are better than any other order, and attend nearer in "
          "early layers than linear ones do (arXiv 2210.10340).",
          run};
}

Experiment bounded_gradients() {
  const auto run = [](const Report& report) {
    constexpr int64_t kSteps = 150;
    constexpr uint64_t kSeeds = 3;
    const std::vector<double> rates{1e-2, 3e-2, 1e-1};
    const std::vector<Learner> learners{variant("a norm", "norm_attention", {{"feature_map", "elu_plus_one"}}),
                                        variant("a denominator", "linear_attention", {{"feature_map", "elu_plus_one"}}),
                                        variant("a denominator, ReLU", "linear_attention", {{"feature_map", "relu"}})};
    Finding finding;
    finding.setup = fmt::format(
        "Decoders of four layers of 64 channels learn `byte_lm` in {} steps of 16 x 128 bytes without clipping, at "
        "three rates; linear attention with elu + 1 or ReLU as features, its output normalised or divided by the sum "
        "of weights. Tail: the largest gradient of the projections to queries and keys over its median over steps; "
        "rise: by how much the loss rose above the least so far, at most, in bits. Three seeds.",
        kSteps);
    Table table{"", {"output", "rate", "tail of gradients", "rise of the loss", "loss at the end"}, {}};
    std::map<std::string, std::vector<Figure>> tails, rises;  // of rates
    const double runs = double(learners.size() * rates.size()) * kSeeds;
    double done = 0;
    int64_t diverged = 0;
    for (const auto& learner : learners)
      for (const double rate : rates) {
        const auto name = [&](const char* what) { return fmt::format("{} with {} at {:g}", what, learner.name, rate); };
        Figure tail{name("tail"), {}}, rise{name("rise"), {}}, end{"", {}};
        for (uint64_t seed = 0; seed < kSeeds; ++seed, ++done) {
          report(done / runs, fmt::format("{} at {:g}, seed {}", learner.name, rate, seed));
          const auto course = course_of(learner, 4, rate, seed, kSteps);
          tail.values.push_back(course.tail());
          rise.values.push_back(course.rise());
          end.values.push_back(course.losses.back());
          if (&learner == &learners.front()) diverged += course.diverged;
        }
        table.rows.push_back({learner.name, fmt::format("{:g}", rate), tail.text(), rise.text(), end.text()});
        tails[learner.name].push_back(tail);
        rises[learner.name].push_back(rise);
      }
    finding.tables.push_back(table);
    for (size_t i = 1; i < learners.size(); ++i)
      for (size_t r = 0; r < rates.size(); ++r) {
        finding.claims.push_back(exceeds(tails[learners[i].name][r], tails["a norm"][r]));
        finding.claims.push_back(exceeds(rises[learners[i].name][r], rises["a norm"][r]));
      }
    finding.claims.push_back(holds("no training with a norm diverges", diverged == 0, std::to_string(diverged)));
    return finding;
  };
  return {"bounded_gradients",
          "A norm in the place of the denominator",
          {"norm_attention"},
          "the denominator of linear attention has unbounded gradients, a norm of the output has not (arXiv "
          "2210.10340).",
          run};
}

Experiment normalised_features() {
  const auto run = [](const Report& report) {
    constexpr int64_t kSteps = 120;
    constexpr uint64_t kSeeds = 3;
    const std::vector<double> rates{3e-3, 3e-2};
    const std::vector<int64_t> lengths{256, 1024, 4096, 8192};
    const nlohmann::json bare{{"positions", "none"}};
    const std::vector<Learner> learners{variant("kernelized_rpe", "kernelized_rpe", bare),
                                        variant("performer", "performer", bare), plain("dense")};
    Finding finding;
    finding.setup = fmt::format(
        "Decoders of two layers of 64 channels learn `byte_lm` in {} steps of 16 x 128 bytes without clipping. "
        "`kernelized_rpe`: random features of normalised queries and keys, times learned factors of distance; "
        "`performer`: random features of queries and keys as they are; `dense`: softmax with rotary positions. Rise: "
        "by how much the loss rose above the least so far, at most, in bits. Three seeds. Time: forward of a layer of "
        "64 channels and 4 heads, float32.",
        kSteps);
    Table table{"", {"mixer", "rate", "rise of the loss", "loss at the end"}, {}};
    std::map<std::string, std::vector<Figure>> rises, ends;  // of rates
    double done = 0;
    for (const auto& learner : learners)
      for (const double rate : rates) {
        Figure rise{fmt::format("rise with {} at {:g}", learner.name, rate), {}},
            end{fmt::format("loss with {} at {:g}", learner.name, rate), {}};
        for (uint64_t seed = 0; seed < kSeeds; ++seed, ++done) {
          report(done / double(learners.size() * rates.size() * kSeeds), fmt::format("{} at {:g}", learner.name, rate));
          const auto course = course_of(learner, 2, rate, seed, kSteps);
          rise.values.push_back(course.rise());
          end.values.push_back(course.diverged ? INFINITY : course.losses.back());
        }
        table.rows.push_back({learner.name, fmt::format("{:g}", rate), rise.text(), end.text()});
        rises[learner.name].push_back(rise), ends[learner.name].push_back(end);
      }
    Table time{"Time", {"tokens", "`kernelized_rpe`", "`dense`"}, {}};
    std::vector<double> ratios;
    for (const auto length : lengths) {
      MixerInput in;
      in.x = torch::randn({1, length, 64}, nn::seeded_generator(1), torch::kFloat32);
      const auto seconds = [&](const char* name, const nlohmann::json& settings) {
        const auto mixer = make_mixer(name, settings);
        return cost_of([&] { mixer->forward(in); }).seconds;
      };
      const nlohmann::json sizes{{"dim", 64}, {"heads", 4}, {"max_length", lengths.back()}};
      const double fast = seconds("kernelized_rpe", sizes), dense = seconds("dense", sizes);
      ratios.push_back(dense / fast);
      time.rows.push_back({std::to_string(length), bench::time_text(fast), bench::time_text(dense)});
    }
    finding.tables = {table, time};
    for (size_t r = 0; r < rates.size(); ++r)
      finding.claims.push_back(exceeds(rises["performer"][r], rises["kernelized_rpe"][r]));
    auto close = exceeds(ends["dense"][0], ends["kernelized_rpe"][0], 1 / 1.05);
    close.text = "kernelized_rpe follows dense attention, up to 5 % of the loss at the lower rate";
    finding.claims.push_back(close);
    finding.claims.push_back(holds(fmt::format("at {} tokens kernelized_rpe is faster than dense", lengths.back()),
                                   ratios.back() > 1, fmt::format("{:.2f}x", ratios.back())));
    return finding;
  };
  return {"normalised_features",
          "Random features of normalised queries and keys",
          {"kernelized_rpe"},
          "normalised queries and keys, and factors of distance, keep random features stable in training, where "
          "unnormalised ones spike, and close to softmax; by FFT they are faster for long texts (arXiv 2106.12566).",
          run};
}

Experiment feature_kinds() {
  const auto run = [](const Report& report) {
    const auto features = [](const char* name, const char* kind) {
      return variant(name, "performer", {{"features", 64}, {"feature_kind", kind}});
    };
    const Contest contest(bytes_lesson(500, 2),
                          {features("positive features", "softmax"), features("ReLU features", "relu"), plain("dense")},
                          report);
    const double few_percent = 0.05 * contest.scores("dense").mean();
    auto finding = finding_of(contest, {contest.better("ReLU features", "positive features"),
                                        contest.as_good("positive features", "dense", few_percent),
                                        contest.as_good("ReLU features", "dense", few_percent)});
    finding.setup += " 64 features a head.";
    return finding;
  };
  return {"feature_kinds",
          "Random features of softmax, and of ReLU",
          {"performer"},
          "both kinds of random features come close to softmax attention, and those of a ReLU, which stand for no "
          "softmax, learn better (arXiv 2009.14794).",
          run};
}

Experiment lag_pairs() {
  const auto run = [](const Report& report) {
    const std::vector<int64_t> lengths{512, 2048, 8192};
    const Contest contest(
        bytes_lesson(200, 2),
        {plain("causal_grassmann"), variant("tokens at the same lags", "causal_grassmann", {{"pairs", "concatenated"}}),
         plain("dense")},
        report);
    const auto mixer = make_mixer("causal_grassmann", {{"dim", 64}});
    Table time{"Forward of a layer", {"tokens", "time"}, {}};
    std::vector<double> seconds;
    for (const auto length : lengths) {
      MixerInput in;
      in.x = torch::randn({1, length, 64}, nn::seeded_generator(1), torch::kFloat32);
      seconds.push_back(cost_of([&] { mixer->forward(in); }).seconds);
      time.rows.push_back({std::to_string(length), bench::time_text(seconds.back())});
    }
    // 15 % of perplexity a byte are log2(1.15) bits.
    auto finding = finding_of(contest, {contest.as_good("causal_grassmann", "dense", std::log2(1.15)),
                                        contest.better("causal_grassmann", "tokens at the same lags")});
    finding.tables.push_back(time);
    const double grown = seconds.back() / seconds.front();
    finding.claims.push_back(holds("time grows like the length, up to a factor of 1.5", grown < 1.5 * 16,
                                   fmt::format("{:.1f}x for 16x the tokens", grown)));
    return finding;
  };
  return {
      "lag_pairs",
      "Planes of two tokens",
      {"causal_grassmann"},
      "the plane that a token and an earlier one span says more than the two tokens through a perceptron of as many "
      "parameters, and comes close to attention at a linear cost (arXiv 2512.19428).",
      run};
}

}  // namespace heed::results::linear
