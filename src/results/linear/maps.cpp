// What the maps of linear attentions for images are like, on random queries and keys.
#include <fmt/format.h>

#include "heed/mixers/token_mixer.h"
#include "heed/nn/feature_map.h"
#include "heed/nn/generator.h"
#include "results/linear/experiments.h"

namespace heed::results::linear {
namespace {

using torch::Tensor;

constexpr int64_t kSide = 8, kCells = kSide * kSide, kHeadSize = 16;

Tensor drawn(std::initializer_list<int64_t> sizes, uint64_t seed) {
  return torch::randn(sizes, nn::seeded_generator(seed), torch::kFloat32);
}

/// The map [N, N] of a core of one head: what it makes of values that are unit vectors.
Tensor map_of(const std::string& mixer, nlohmann::json settings, const Tensor& q, const Tensor& k) {
  settings.update({{"dim", kCells}, {"heads", 1}, {"key_dim", kHeadSize}});
  CoreInput in;
  in.q = q.view({1, 1, kCells, kHeadSize});
  in.k = k.view({1, 1, kCells, kHeadSize});
  in.v = torch::eye(kCells).view({1, 1, kCells, kCells});
  in.grid = Grid{{kSide, kSide}};
  torch::NoGradGuard no_grad;
  return make_mixer(mixer, settings)->mix(in)[0][0];
}

Tensor softmax_map(const Tensor& q, const Tensor& k) {
  return torch::softmax(torch::matmul(q, k.t()) / std::sqrt(double(kHeadSize)), 1);
}

/// Linear attention as it is usually normalised: weights divided by their sum.
Tensor linear_map(const Tensor& q, const Tensor& k) {
  const auto map = nn::FeatureMap::elu_plus_one;
  const auto weights = torch::matmul(nn::apply(map, q), nn::apply(map, k).t());
  return weights / weights.sum(1, true);
}

/// Mean entropy of the rows in nats. Weights below zero, which a map may have, count as none.
double entropy(const Tensor& map) {
  const auto p = map.clamp_min(0) / map.clamp_min(0).sum(1, true);
  return -(p * torch::log(p.clamp_min(1e-30))).sum(1).mean().item<double>();
}

/// Pairs of rows that differ by less than rounding of their largest weight.
int64_t equal_rows(const Tensor& map) {
  const auto apart = torch::cdist(map, map, 2, 2 /* differences, not products, which cancel */);
  return ((apart < 1e-5 * map.norm(2, 1).max()).sum().item<int64_t>() - map.size(0)) / 2;
}

int64_t rank_of(const Tensor& matrix) {
  return torch::linalg_matrix_rank(matrix.to(torch::kFloat64), 1e-4).item<int64_t>();
}

}  // namespace

Experiment magnitude() {
  const auto run = [](const Report&) {
    const std::vector<double> scales{0.5, 1, 2, 4, 8, 16};
    Finding finding;
    finding.setup = fmt::format(
        "Entropy of a row's weights in nats, mean over {} queries of {} channels, when queries grow by a factor; "
        "normal queries and keys, three seeds. Linear: elu + 1, divided by the sum of weights. log({}) = {:.2f} is "
        "the most there can be.",
        kCells, kHeadSize, kCells, std::log(double(kCells)));
    Table table{"", {"factor", "softmax", "linear", "`mala`"}, {}};
    std::map<std::string, Figure> fall;
    for (const auto* name : {"softmax", "linear", "mala"}) fall[name].name = fmt::format("fall of entropy, {}", name);
    std::map<double, std::array<double, 3>> means;
    for (uint64_t seed = 0; seed < 3; ++seed) {
      const auto q = drawn({kCells, kHeadSize}, seed), k = drawn({kCells, kHeadSize}, seed + 100);
      const auto entropies = [&](double scale) {
        return std::array<double, 3>{entropy(softmax_map(q * scale, k)), entropy(linear_map(q * scale, k)),
                                     entropy(map_of("mala", {{"rotary", false}}, q * scale, k))};
      };
      for (const auto scale : scales) {
        const auto now = entropies(scale);
        for (size_t i = 0; i < 3; ++i) means[scale][i] += now[i] / 3;
      }
      const auto first = entropies(scales.front()), last = entropies(scales.back());
      fall["softmax"].values.push_back(first[0] - last[0]);
      fall["linear"].values.push_back(first[1] - last[1]);
      fall["mala"].values.push_back(first[2] - last[2]);
    }
    for (const auto scale : scales)
      table.rows.push_back({fmt::format("{:g}", scale), fmt::format("{:.3f}", means[scale][0]),
                            fmt::format("{:.3f}", means[scale][1]), fmt::format("{:.3f}", means[scale][2])});
    finding.tables.push_back(table);
    finding.claims = {exceeds(fall["softmax"], fall["linear"]), exceeds(fall["mala"], fall["linear"])};
    return finding;
  };
  return {"magnitude",
          "Longer queries attend more sharply",
          {"mala"},
          "linear attention normalised by its sum forgets how long a query is; MALA, like softmax, sharpens with it "
          "(arXiv 2507.00698).",
          run};
}

Experiment injectivity() {
  const auto run = [](const Report&) {
    Finding finding;
    finding.setup = fmt::format(
        "{} queries on {} directions, each in two lengths, the second twice the first; ReLU as feature map. Counted "
        "are pairs of queries with the same weights. Three seeds.",
        kCells, kCells / 2);
    std::vector<Figure> same{
        {"equal pairs, linear", {}}, {"equal pairs, inline_attention", {}}, {"equal pairs, softmax", {}}};
    for (uint64_t seed = 0; seed < 3; ++seed) {
      const auto half = drawn({kCells / 2, kHeadSize}, seed);
      const auto q = torch::cat({half, 2 * half}), k = drawn({kCells, kHeadSize}, seed + 100);
      const auto weights = torch::matmul(torch::relu(q), torch::relu(k).t());
      same[0].values.push_back(double(equal_rows(weights / weights.sum(1, true))));
      same[1].values.push_back(
          double(equal_rows(map_of("inline_attention", {{"residual", false}, {"feature_map", "relu"}}, q, k))));
      same[2].values.push_back(double(equal_rows(softmax_map(q, k))));
    }
    Table table{"", {"map", "pairs of equal rows"}, {}};
    for (const auto& figure : same) table.rows.push_back({figure.name.substr(13), figure.text()});
    finding.tables.push_back(table);
    finding.claims = {
        holds("linear attention confuses every such pair", same[0].least() >= double(kCells / 2), same[0].text()),
        holds("InLine attention and softmax confuse none", same[1].most() + same[2].most() == 0,
              same[1].text() + " and " + same[2].text())};
    return finding;
  };
  return {"injectivity",
          "Different queries, different weights",
          {"inline_attention"},
          "linear attention gives collinear queries the same weights; normalised by subtraction it does not "
          "(arXiv 2412.06590).",
          run};
}

Experiment rank() {
  const auto run = [](const Report&) {
    Finding finding;
    finding.setup = fmt::format(
        "{} cells of an image, one head of {} channels for keys and {} for values: the rank (singular values above "
        "1e-4 of the "
        "largest) of what a layer makes of normal inputs, untrained. Three seeds.",
        kCells, kHeadSize, kCells);
    Figure plain{"rank, linear", {}}, raised{"rank, rala", {}}, dense{"rank, softmax", {}};
    for (uint64_t seed = 0; seed < 3; ++seed) {
      torch::manual_seed(static_cast<int64_t>(seed));
      torch::NoGradGuard no_grad;
      const auto q = drawn({kCells, kHeadSize}, seed), k = drawn({kCells, kHeadSize}, seed + 100),
                 v = drawn({kCells, kCells}, seed + 200);
      plain.values.push_back(double(rank_of(torch::matmul(linear_map(q, k), v))));
      dense.values.push_back(double(rank_of(torch::matmul(softmax_map(q, k), v))));
      MixerInput in;
      in.x = drawn({1, kCells, kCells}, seed + 300);
      in.grid = Grid{{kSide, kSide}};
      const auto layer = make_mixer("rala", {{"dim", kCells}, {"heads", 1}, {"key_dim", kHeadSize}, {"rotary", false}});
      raised.values.push_back(double(rank_of(layer->forward(in)[0])));
    }
    finding.tables.push_back({"",
                              {"layer", "rank of the output"},
                              {{"linear", plain.text()}, {"`rala`", raised.text()}, {"softmax", dense.text()}}});
    finding.claims = {exceeds(raised, plain), exceeds(raised, dense, 0.9)};
    return finding;
  };
  return {"rank",
          "The rank of what linear attention gives",
          {"rala"},
          "the output of linear attention has at most the rank of its keys; RALA's modulation of every token lifts it "
          "to that of softmax (arXiv 2411.07635).",
          run};
}

Experiment random_features() {
  const auto run = [](const Report& report) {
    const std::vector<int64_t> counts{64, 256, 1024};
    const std::vector<double> norms{1, 2, 4, 8};
    constexpr uint64_t kSeeds = 5;
    Table table{"", {"norm of queries and keys"}, {}};
    for (const auto m : counts) table.columns.push_back(fmt::format("{} features", m));
    table.columns.push_back("the mean of the values");
    std::vector<std::vector<Figure>> errors;
    for (const double norm : norms) {
      report(double(errors.size()) / double(norms.size()), fmt::format("norm {:g}", norm));
      auto& row = errors.emplace_back(counts.size() + 1);
      for (uint64_t seed = 0; seed < kSeeds; ++seed) {
        const auto scaled = [&](uint64_t which) {
          const auto x = drawn({kCells, kHeadSize}, 3 * seed + which);
          return norm * x / x.norm(2, 1, true);
        };
        const auto q = scaled(1), k = scaled(2), v = drawn({kCells, kCells}, 3 * seed + 3);
        const auto exact = torch::matmul(softmax_map(q, k), v);
        const auto off = [&](const Tensor& map) {
          return ((torch::matmul(map, v) - exact).norm() / exact.norm()).item<double>();
        };
        for (size_t i = 0; i < counts.size(); ++i)
          row[i].values.push_back(
              off(map_of("performer", {{"features", counts[i]}, {"causal", false}, {"seed", seed}}, q, k)));
        row.back().values.push_back(off(torch::full({kCells, kCells}, 1.0 / double(kCells))));
      }
      std::vector<std::string> cells{fmt::format("{:g}", norm)};
      for (size_t i = 0; i < row.size(); ++i) {
        row[i].name = fmt::format("error with {} at a norm of {:g}", table.columns[i + 1], norm);
        cells.push_back(row[i].text());
      }
      table.rows.push_back(std::move(cells));
    }
    return Finding{fmt::format("Attention of {0} queries to {0} keys of {1} channels, all of one norm, and values of a "
                               "normal distribution: relative error of the outputs against softmax, {2} draws.",
                               kCells, kHeadSize, kSeeds),
                   {table},
                   {exceeds(errors[1][0], errors[1][1]), exceeds(errors[1][1], errors[1][2]),
                    exceeds(errors[3][2], errors[0][2], 3), exceeds(errors[2].back(), errors[2][2])}};
  };
  return {"random_features",
          "Random features in the place of the exponential",
          {"performer"},
          "the error falls with the number of features, and explodes with the length of queries and keys (arXiv "
          "2009.14794).",
          run};
}

}  // namespace heed::results::linear
