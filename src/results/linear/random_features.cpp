// How many samples a layer of random scores needs, against random features of everything at once.
#include <fmt/format.h>

#include "heed/nn/generator.h"
#include "mixers/linear/random_attention.h"
#include "results/linear/experiments.h"

namespace heed::results::linear {
namespace {

using heed::linear::RandomScores;
using heed::linear::ridge;
using torch::Tensor;

constexpr int64_t kDim = 6, kTokens = 16, kHeads = 64, kTests = 1000;
constexpr double kDeviation = 0.5, kPenalty = 1e-3;

struct Samples {
  Tensor query, keys;  ///< [S, 1, d], [S, N, d] on the unit sphere times sqrt(d)
};

Samples draw(int64_t count, uint64_t seed) {
  auto generator = nn::seeded_generator(seed);
  const auto x = torch::randn({count, kTokens + 1, kDim}, generator, torch::kFloat64);
  const auto sphere = x / x.norm(2, -1, true) * std::sqrt(double(kDim));
  return {sphere.narrow(1, 0, 1), sphere.narrow(1, 1, kTokens)};
}

Tensor direction(uint64_t seed) {
  const auto b = torch::randn({kDim}, nn::seeded_generator(seed), torch::kFloat64);
  return b / b.norm();
}

/// mean_i <b, x_i>^p: of the keys alone.
Tensor symmetric_target(const Samples& s, const Tensor& b, int p) {
  return torch::matmul(s.keys, b).pow(p).mean(1, true);
}

/// mean_i (<x_0, x_i> / sqrt(d))^p <b, x_i>: what the keys mean to the query.
Tensor correlated_target(const Samples& s, const Tensor& b, int p) {
  const auto products = torch::matmul(s.keys, s.query.transpose(1, 2)).squeeze(2) / std::sqrt(double(kDim));
  return (products.pow(p) * torch::matmul(s.keys, b)).mean(1, true);
}

Tensor attention_features(const Samples& s, bool biased, uint64_t seed) {
  const RandomScores scores(kDim, kHeads, kDeviation, biased, seed);
  return scores.features(s.query, s.keys).flatten(1) / std::sqrt(double(kHeads));
}

/// relu(W vec(x_0 .. x_N)), as many features as attention has.
Tensor perceptron_features(const Samples& s, uint64_t seed) {
  const auto flat = torch::cat({s.query, s.keys}, 1).flatten(1);
  const int64_t features = kHeads * (kDim + 1);
  const auto w = torch::randn({flat.size(1), features}, nn::seeded_generator(seed), torch::kFloat64);
  return torch::relu(torch::matmul(flat, w) / std::sqrt(double(flat.size(1)))) / std::sqrt(double(features));
}

using Features = std::function<Tensor(const Samples&)>;
using Target = std::function<Tensor(const Samples&)>;

/// Mean square error on new samples over the variance of the target.
double test_error(const Features& features, const Target& target, int64_t count, uint64_t seed) {
  const auto train = draw(count, 2 * seed), test = draw(kTests, 2 * seed + 1);
  const auto y = target(train), mean = y.mean();
  const auto fit = ridge(features(train), y - mean, kPenalty);
  const auto wanted = target(test);
  const auto error = torch::matmul(features(test), fit) + mean - wanted;
  return (error.square().mean() / wanted.var()).item<double>();
}

}  // namespace

Experiment random_scores() {
  const auto run = [](const Report& report) {
    const std::vector<int64_t> counts{50, 100, 200, 400, 800, 1600};
    const std::vector<int> powers{2, 3};
    constexpr uint64_t kSeeds = 10;
    Finding finding;
    finding.setup = fmt::format(
        "Ridge regression (penalty {:g}) on {} frozen features; a query and {} keys on a sphere in {} dimensions, {} "
        "heads; test error over the variance of the target, mean of {} seeds. Symmetric target: mean of <b, x_i>^p; "
        "correlated: mean of <x_0, x_i>^p <b, x_i>.",
        kPenalty, kHeads * (kDim + 1), kTokens, kDim, kHeads, kSeeds);
    for (size_t which = 0; which < powers.size(); ++which) {
      const int p = powers[which];
      Table table{fmt::format("p = {}", p),
                  {"samples", "symmetric: attention", "symmetric: perceptron", "correlated: biased scores",
                   "correlated: unbiased scores"},
                  {}};
      std::vector<Figure> most(4);
      const std::vector<std::string> names{"error of attention's features", "error of a perceptron's",
                                           "error of biased scores", "error of unbiased scores"};
      for (size_t i = 0; i < 4; ++i) most[i].name = fmt::format("p = {}: {}", p, names[i]);
      for (size_t c = 0; c < counts.size(); ++c) {
        std::array<double, 4> sums{};
        for (uint64_t seed = 0; seed < kSeeds; ++seed) {
          const double done = double(c) + double(seed) / kSeeds;
          report((double(which) + done / double(counts.size())) / double(powers.size()),
                 fmt::format("p = {}, {} samples", p, counts[c]));
          const auto b = direction(seed + 1000);
          const Target symmetric = [&](const Samples&s) { return symmetric_target(s, b, p); },
                       correlated = [&](const Samples&s) { return correlated_target(s, b, p); };
          const Features perceptron = [&](const Samples&s) { return perceptron_features(s, seed); },
                         unbiased = [&](const Samples&s) { return attention_features(s, false, seed); },
                         biased = [&](const Samples&s) { return attention_features(s, true, seed); };
          const std::array<double, 4> errors{
              test_error(unbiased, symmetric, counts[c], seed), test_error(perceptron, symmetric, counts[c], seed),
              test_error(biased, correlated, counts[c], seed), test_error(unbiased, correlated, counts[c], seed)};
          for (size_t i = 0; i < 4; ++i) {
            sums[i] += errors[i] / kSeeds;
            if (c + 1 == counts.size()) most[i].values.push_back(errors[i]);
          }
        }
        std::vector<std::string> row{std::to_string(counts[c])};
        for (const double sum : sums) row.push_back(fmt::format("{:.3f}", sum));
        table.rows.push_back(row);
      }
      finding.tables.push_back(table);
      finding.claims.push_back(exceeds(most[1], most[0]));
      finding.claims.push_back(exceeds(most[3], most[2]));
    }
    return finding;
  };
  return {"random_scores",
          "Samples that a layer of random scores needs",
          {"rf_attention_layer"},
          "for targets that do not depend on the order of tokens, random attention needs fewer samples than random "
          "features of all tokens; scores biased to x_0 . x_i suit functions of it (arXiv 2307.11353).",
          run};
}

}  // namespace heed::results::linear
