// Hashed buckets, layers that keep no activations, and a layer of pairs.
#include <fmt/format.h>

#include "bench/memory_meter.h"
#include "bench/units.h"
#include "heed/models/reversible.h"
#include "heed/nn/lsh.h"
#include "mixers/exact/tensor_core.h"
#include "results/learning.h"
#include "results/sparse/experiments.h"
#include "results/timing.h"
#include "tasks/learned_task.h"

namespace heed::results::sparse {
namespace {

using torch::Tensor;

/// Numbers below a modulus; of each: do it and two of the numbers sum to a multiple? About half do.
class ZeroSums final : public tasks::LearnedTask {
 public:
  static constexpr int64_t kLength = 6, kModulus = 31;

  ZeroSums() : LearnedTask("zero_sums") {
    constexpr uint64_t kDraws = 1000;
    double yes = 0;
    for (uint64_t index = 0; index < kDraws; ++index)
      for (const auto label : example(tasks::Split::test, index).labels) yes += double(label);
    const double share = yes / double(kDraws * kLength);
    commoner_ = std::max(share, 1 - share);
  }

  tasks::Face face() const override {
    tasks::Face face;
    face.sight = tasks::Face::Sight::all;
    face.vocabulary = kModulus;
    face.outputs = 2;
    face.length = kLength;
    return face;
  }
  double chance() const override { return commoner_; }

  tasks::Example example(tasks::Split split, uint64_t index) const override {
    auto random = random_of(split, index);
    tasks::Example sample;
    for (int64_t i = 0; i < kLength; ++i) sample.tokens.push_back(int64_t(random.below(kModulus)));
    for (const auto x : sample.tokens) sample.labels.push_back(sums_to_zero(x, sample.tokens));
    return sample;
  }

 private:
  static bool sums_to_zero(int64_t x, const std::vector<int64_t>& all) {
    for (const auto y : all)
      for (const auto z : all)
        if ((x + y + z) % kModulus == 0) return true;
    return false;
  }

  double commoner_ = 0;
};

/// 24 symbols to be written again: every one is 25 places away.
Lesson copies() {
  Lesson lesson;
  lesson.task = "copy";
  lesson.parameters = {{"length", 24}, {"symbols", 12}};
  lesson.model.heads = 2;
  lesson.training.steps = 500, lesson.training.batch = 32, lesson.training.learning_rate = 3e-3;
  lesson.seeds = 2;
  return lesson;
}

}  // namespace

Experiment hashed_copies() {
  const auto run = [](const Report& report) {
    const auto rounds = [](int64_t count) {
      return variant(fmt::format("reformer, {} round{}", count, count == 1 ? "" : "s"), "reformer",
                     {{"rounds", count}, {"buckets", 8}, {"chunk", 4}});
    };
    const Contest contest(copies(), {rounds(1), rounds(2), rounds(4), rounds(8), plain("dense")}, report);
    return finding_of(contest, {contest.better("reformer, 4 rounds", "reformer, 1 round"),
                                contest.as_good("reformer, 8 rounds", "reformer, 4 rounds", 0.02),
                                contest.as_good("reformer, 8 rounds", "dense", 0.05)});
  };
  return {"hashed_copies",
          "Copying through hashed buckets",
          {"reformer"},
          "with more rounds of hashing, attention in buckets copies as well as full attention (arXiv 2001.04451).",
          run};
}

Experiment reversible_layers() {
  const auto run = [](const Report& report) {
    constexpr int64_t kTokens = 512, kDim = 64;
    const std::vector<int64_t> depths{2, 4, 8, 16};
    std::vector<int64_t> kept, again;
    Table table{"", {"layers", "activations kept", "reversible"}, {}};
    for (const auto depth : depths) {
      report(double(kept.size()) / double(depths.size()), fmt::format("{} layers", depth));
      TransformerConfig config;
      config.dim = kDim, config.heads = config.kv_heads = 4, config.head_dim = 16, config.hidden = 128;
      config.layers.assign(size_t(depth), {"reformer", {{"rounds", 2}, {"chunk", 32}}});
      torch::nn::Module owner;
      torch::manual_seed(0);
      auto blocks = make_blocks(owner, config, true, torch::kFloat32);
      const auto x = nn::seeded_normal({4, kTokens, kDim}, 1).set_requires_grad(true);
      // Gradients are there before the count begins: they are as many as the weights.
      for (auto& parameter : owner.parameters()) parameter.mutable_grad() = torch::zeros_like(parameter);
      const auto most = [&](const auto& forward) {
        bench::MemoryMeter meter;
        forward().square().mean().backward();
        return meter.peak();
      };
      MixerInput input;
      input.x = x;
      kept.push_back(most([&] { return run_blocks(blocks, input); }));
      again.push_back(most([&] { return run_reversible_blocks(blocks, input); }));
      table.rows.push_back({std::to_string(depth), bench::bytes_text(kept.back()), bench::bytes_text(again.back())});
    }
    return Finding{fmt::format("Forward and backward of 4 sequences of {} tokens through layers of `reformer`, {} "
                               "channels: most memory held at once.",
                               kTokens, kDim),
                   {table},
                   {holds("memory of reversible layers grows by less than a quarter from 2 layers to 16",
                          double(again.back()) < 1.25 * double(again.front()),
                          fmt::format("{:.2f}x", double(again.back()) / double(again.front()))),
                    holds("that of kept activations grows with the layers, at least fivefold",
                          double(kept.back()) > 5 * double(kept.front()),
                          fmt::format("{:.1f}x", double(kept.back()) / double(kept.front())))}};
  };
  return {"reversible_layers",
          "Layers that keep no activations",
          {"reformer"},
          "the memory of training does not depend on the depth (arXiv 2001.04451).",
          run};
}

Experiment triples() {
  const auto run = [](const Report& report) {
    constexpr int64_t kSteps = 1200, kBatch = 128, kSamples = 512;
    constexpr double kRate = 3e-3;
    const ZeroSums task;
    struct Kind {
      const char *name, *mixer;
      nlohmann::json settings;
      double share;  ///< of the time of both
    };
    const std::vector<Kind> kinds{{"pairs (tensor_attention)", "tensor_attention", nlohmann::json::object(), 0.7},
                                  {"tokens (dense)", "dense", {{"causal", false}}, 0.3}};
    Table table{"", {"a query attends to", "score", "parameters"}, {}};
    std::vector<Figure> scores;
    int64_t parameters = 0;
    double done = 0;
    for (const auto& kind : kinds) {
      train::TaskModelOptions options;
      options.mixer = kind.mixer, options.settings = {{kind.mixer, kind.settings}};
      options.layers = 1, options.dim = 64, options.heads = 4, options.hidden = 128, options.parameters = parameters;
      const auto model = train::make_task_model(task, options);
      if (parameters == 0) parameters = model->parameters();
      train::TaskTrainOptions training;
      training.steps = kSteps, training.batch = kBatch, training.learning_rate = kRate;
      train::train_task(*model, task, training, [&](const auto& step) {
        if (step.step % 10 == 0)
          report(done + 0.9 * kind.share * double(step.step) / double(kSteps), fmt::format("loss {:.3f}", step.loss));
        return true;
      });
      done += 0.9 * kind.share;
      scores.push_back(share(kind.name, train::score_task(*model, task, tasks::Split::test, kSamples).score,
                             double(kSamples * ZeroSums::kLength)));
      table.rows.push_back({kind.name, scores.back().text(), std::to_string(model->parameters())});
    }
    table.rows.push_back({"nothing: the commoner answer", fmt::format("{:.3g}", task.chance()), "-"});
    // The polynomial in the place of the exponential, as entries grow.
    report(0.92, "polynomials");
    const int64_t n = 128, size = 4;
    Table series{"Polynomial of degree 4 against the exact sum over pairs: 128 tokens, a head of 4 channels",
                 {"largest entry", "relative error"},
                 {}};
    std::vector<double> errors;
    const auto normal = [&](uint64_t seed) { return nn::seeded_normal({1, 1, n, size}, seed); };
    torch::NoGradGuard no_grad;
    const auto polynomial = [&](const Tensor& q, const exact::TupleKeys& keys) {
      std::vector<Tensor> sums;
      return exact::polynomial_tuple_attention(q, keys, 4, false, sums);
    };
    for (const double scale : {0.5, 1.0, 1.5, 2.0}) {
      const auto bounded = [&](uint64_t seed) { return scale * torch::tanh(normal(seed)); };
      const auto q = bounded(1);
      const exact::TupleKeys keys{{bounded(2), bounded(3)}, {normal(4), normal(5)}, {}};
      const auto wanted = exact::tuple_attention(q, keys, false);
      errors.push_back(((polynomial(q, keys) - wanted).norm() / wanted.norm()).item<double>());
      series.rows.push_back({fmt::format("{:g}", scale), bench::error_text(errors.back())});
    }
    Table times{"Time of both", {"tokens", "exact", "polynomial"}, {}};
    std::vector<double> ratios;
    for (const int64_t length : {64, 128, 256}) {
      const auto drawn = [&](uint64_t seed) { return 0.5 * nn::seeded_normal({1, 1, length, size}, seed); };
      const auto q = drawn(1);
      const exact::TupleKeys keys{{drawn(2), drawn(3)}, {drawn(4), drawn(5)}, {}};
      const double all = cost_of([&] { exact::tuple_attention(q, keys, false); }).seconds,
                   few = cost_of([&] { polynomial(q, keys); }).seconds;
      ratios.push_back(all / few);
      times.rows.push_back({std::to_string(length), bench::time_text(all), bench::time_text(few)});
    }
    const Figure guess{"the commoner answer", {task.chance()}};
    return Finding{
        fmt::format(
            "{} numbers below {}: of each, whether it and two of the numbers sum to a multiple. One layer of "
            "64 channels, equal parameters, {} steps of {} samples at a rate of {:g}, one seed; {} test samples.",
            ZeroSums::kLength, ZeroSums::kModulus, kSteps, kBatch, kRate, kSamples),
        {table, series, times},
        {exceeds(scores[0], scores[1]),
         reaches({"twice as far from a guess as tokens", {scores[0].mean() - guess.mean()}},
                 {"tokens", {2 * (scores[1].mean() - guess.mean())}}, 0),
         holds("the polynomial's error grows with the entries", std::is_sorted(errors.begin(), errors.end()),
               fmt::format("{} to {}", bench::error_text(errors.front()), bench::error_text(errors.back()))),
         holds("its gain in time grows with the length", ratios.back() > ratios.front(),
               fmt::format("{:.1f}x to {:.1f}x", ratios.front(), ratios.back()))}};
  };
  return {"triples",
          "Attention to pairs of tokens",
          {"tensor_attention"},
          "one layer that attends to pairs finds triples of numbers that one of ordinary attention of the same size "
          "does not; for bounded entries a polynomial stands for the exponential (arXiv 2310.04064, which is "
          "theoretical).",
          run};
}

}  // namespace heed::results::sparse
