// The cards of other factorisations, and recurrences to compare with: Mamba-2, GRU, LSTM, positional and
// random-feature attention.
#include <gtest/gtest.h>

#include "heed/nn/generator.h"
#include "heed/nn/short_conv.h"
#include "heed/ops/linear_chunk.h"
#include "heed/ops/selective_scan.h"
#include "mixers/linear/linear_support.h"
#include "mixers/linear/random_attention.h"

namespace heed::other_layers_test {
namespace {

using nlohmann::json;
using test::kDouble;
using test::random_tokens;
using test::relative_error;
using test::wide_mixer;
using torch::Tensor;

const auto kWide = torch::TensorOptions(torch::kFloat64);

TEST(Mamba2, IsItsRecurrence) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  const int64_t n = 33, inner = 16, heads = 4, size = 4, states = 5;
  for (const int64_t groups : {1, 2, 4})
    for (const bool norm_first : {false, true}) {
      auto mixer = wide_mixer("mamba2", {{"dim", 8},
                                         {"head_dim", size},
                                         {"state_dim", states},
                                         {"groups", groups},
                                         {"norm_before_gate", norm_first}});
      auto p = mixer->named_parameters();
      p["norm.weight"].uniform_(0.5, 1.5);
      const auto in = random_tokens(1, n, 8);
      const int64_t shared = groups * states, mixed = inner + 2 * shared;
      const auto parts = torch::matmul(in.x, p["in_proj.weight"].t())[0].split_with_sizes({inner, mixed, heads}, 1);
      const auto padded = torch::cat({torch::zeros({3, mixed}, kWide), parts[1]});
      auto conv = p["conv.bias"].expand({n, mixed}).clone();
      for (int64_t i = 0; i < 4; ++i) conv += padded.narrow(0, i, n) * p["conv.weight"][i];
      conv = torch::silu(conv);
      const auto step = torch::softplus(parts[2] + p["step_bias"]), a = -torch::exp(p["a_log"]);
      auto state = torch::zeros({heads, states, size}, kWide);
      std::vector<Tensor> rows;
      for (int64_t t = 0; t < n; ++t) {
        const auto x = conv[t].narrow(0, 0, inner).view({heads, size});
        // Head h belongs to group h / (heads / groups).
        const auto of_group = [&](int64_t first) {
          return conv[t].narrow(0, first, shared).view({groups, states}).repeat_interleave(heads / groups, 0);
        };
        const auto b = of_group(inner), c = of_group(inner + shared);
        state = torch::exp(step[t] * a).view({heads, 1, 1}) * state +
                b.unsqueeze(2) * (step[t].view({heads, 1}) * x).unsqueeze(1);
        rows.push_back((torch::matmul(c.unsqueeze(1), state).squeeze(1) + p["skip"].view({heads, 1}) * x).flatten());
      }
      const auto normed = [&](const Tensor& y) {
        return y * torch::rsqrt(y.square().mean(1, true) + 1e-5) * p["norm.weight"];
      };
      const auto y = torch::stack(rows), gate = torch::silu(parts[0]);
      const auto out = norm_first ? normed(y) * gate : normed(y * gate);
      EXPECT_LT(relative_error(mixer->forward(in)[0], torch::matmul(out, p["o_proj.weight"].t())), kDouble)
          << groups << norm_first;
    }
}

TEST(Mamba2, IsMambasScanWithOneRateAHead) {
  torch::manual_seed(4);
  const int64_t n = 32, heads = 3, size = 4, states = 5, channels = heads * size;
  const auto x = torch::randn({2, n, channels}, kWide), step = torch::rand({2, n, heads}, kWide);
  const auto b = torch::randn({2, n, 1, states}, kWide), c = torch::randn({2, n, 1, states}, kWide);
  const auto rate = -torch::rand({heads}, kWide) * 3;
  const auto scanned =
      ops::selective_scan(x, step.repeat_interleave(size, 2),
                          rate.repeat_interleave(size).unsqueeze(1).expand({channels, states}).contiguous(), b, c);
  const auto by_head = [&](const Tensor& t) { return t.unflatten(2, {heads, -1}).transpose(1, 2); };
  const auto written = by_head(x) * step.transpose(1, 2).unsqueeze(3),
             decay = step.transpose(1, 2) * rate.view({-1, 1});
  const auto read = c.transpose(1, 2), key = b.transpose(1, 2);
  const auto chunked = ops::linear_chunk(read, key, written, decay);
  EXPECT_LT(relative_error(chunked.out.transpose(1, 2).flatten(2), scanned.out), kDouble);
  EXPECT_LT(relative_error(chunked.state.transpose(2, 3).flatten(1, 2), scanned.state), kDouble);
  // The semiseparable matrix L (x) C B^T, L_ij = exp(g_{j+1} + ... + g_i).
  const auto sums = decay.cumsum(2), apart = (sums.unsqueeze(3) - sums.unsqueeze(2)).tril();
  const auto fading = torch::exp(apart).tril();
  EXPECT_LT(relative_error(fading.diagonal(0, 2, 3), torch::ones({2, heads, n})), kDouble);
  const auto matrix = fading * torch::matmul(read, key.transpose(2, 3));
  EXPECT_LT(relative_error(chunked.out, torch::matmul(matrix, written)), kDouble);
}

constexpr int64_t kCell = 7;  // numbers a cell remembers

/// Gates of libtorch's layout: blocks of kCell rows, one a gate, from the token and from what is remembered.
struct CellGates {
  Tensor token, past;
  Tensor of(int64_t gate) const { return token.narrow(0, gate * kCell, kCell) + past.narrow(0, gate * kCell, kCell); }
};

CellGates cell_gates(const torch::OrderedDict<std::string, Tensor>& p, const Tensor& x, const Tensor& h) {
  return {torch::mv(p["cells.weight_ih_l0"], x) + p["cells.bias_ih_l0"],
          torch::mv(p["cells.weight_hh_l0"], h) + p["cells.bias_hh_l0"]};
}

/// What the named mixer of libtorch's cells must give for random tokens, with `step` moving h and c.
void expect_recurrence(const char* name, const std::function<void(const CellGates&, Tensor& h, Tensor& c)>& step) {
  torch::NoGradGuard no_grad;
  auto mixer = wide_mixer(name, {{"dim", 5}, {"hidden", kCell}});
  const auto p = mixer->named_parameters();
  const auto in = random_tokens(1, 9, 5);
  auto h = torch::zeros({kCell}, kWide), c = torch::zeros({kCell}, kWide);
  std::vector<Tensor> rows;
  for (int64_t t = 0; t < in.x.size(1); ++t) {
    step(cell_gates(p, in.x[0][t], h), h, c);
    rows.push_back(torch::mv(p["o_proj.weight"], h));
  }
  EXPECT_LT(relative_error(mixer->forward(in)[0], torch::stack(rows)), kDouble);
}

TEST(Gru, IsItsRecurrence) {
  torch::manual_seed(2);
  expect_recurrence("gru", [](const CellGates& gates, Tensor& h, Tensor&) {
    const auto reset = torch::sigmoid(gates.of(0)), keep = torch::sigmoid(gates.of(1));
    const auto part = [](const Tensor& t) { return t.narrow(0, 2 * kCell, kCell); };
    h = keep * h + (1 - keep) * torch::tanh(part(gates.token) + reset * part(gates.past));
  });
}

TEST(Lstm, IsItsRecurrence) {
  torch::manual_seed(3);
  expect_recurrence("lstm", [](const CellGates& gates, Tensor& h, Tensor& c) {
    c = torch::sigmoid(gates.of(1)) * c + torch::sigmoid(gates.of(0)) * torch::tanh(gates.of(2));
    h = torch::sigmoid(gates.of(3)) * torch::tanh(c);
  });
}

TEST(ShortConv, PackedSequencesBeginAnew) {
  torch::manual_seed(2);
  nn::ShortConv conv(3, 4, true);
  const auto x = torch::randn({1, 11, 3});
  const auto packed = conv(x, nullptr, torch::tensor({0, 2, 2, 11}, torch::kInt64));
  EXPECT_TRUE(torch::allclose(packed.narrow(1, 0, 2), conv(x.narrow(1, 0, 2))));
  EXPECT_TRUE(torch::allclose(packed.narrow(1, 2, 9), conv(x.narrow(1, 2, 9))));
}

TEST(PositionalAttention, KeysAreAsWideAsThereArePositions) {
  const auto table = [](const json& config) {
    return make_mixer("positional_attention", config)->named_parameters()["q_table"].sizes().vec();
  };
  const json config{{"dim", 12}, {"heads", 2}, {"max_length", 9}};
  EXPECT_EQ(table(config), (std::vector<int64_t>{9, 2 * 9}));
  auto narrow = config;
  narrow["key_dim"] = 5;
  EXPECT_EQ(table(narrow), (std::vector<int64_t>{9, 2 * 5}));
}

TEST(PositionalAttention, IsLinearInItsTokens) {
  torch::manual_seed(7);
  auto mixer = wide_mixer("positional_attention", {{"dim", 12}, {"heads", 2}, {"key_dim", 9}, {"max_length", 9}});
  const auto a = random_tokens(3, 9, 12), b = random_tokens(3, 9, 12);
  MixerInput both;
  both.x = 2 * a.x - 0.5 * b.x;
  const auto expected = 2 * mixer->forward(a) - 0.5 * mixer->forward(b);
  EXPECT_LT(relative_error(mixer->forward(both), expected), kDouble);
  torch::NoGradGuard no_grad;
  mixer->named_parameters()["q_table"].zero_();
  const auto out = mixer->forward(a);
  EXPECT_LT(relative_error(out, out.mean(1, true).expand_as(out)), kDouble);
}

TEST(PositionalAttention, WeightsWrittenByHandMakePrefixSums) {
  // Large logits pick a key exactly: head 0 the own token, head 1 the one 2^l before, or an empty scratch token.
  torch::manual_seed(8);
  const int64_t n = 8, positions = n + 1;
  auto x = torch::cat({torch::randn({1, n, 1}, kWide), torch::zeros({1, 1, 1}, kWide)}, 1);
  const auto values = x.clone();
  for (int64_t hop = 1; hop < n; hop *= 2) {
    auto mixer =
        wide_mixer("positional_attention",
                   {{"dim", 1}, {"heads", 2}, {"head_dim", 1}, {"key_dim", positions}, {"max_length", positions}});
    torch::NoGradGuard no_grad;
    auto p = mixer->named_parameters();
    const auto own = torch::eye(positions, kWide);
    auto target = torch::zeros({positions, positions}, kWide);
    for (int64_t i = 0; i < positions; ++i) target[i][i >= hop && i < n ? i - hop : n] = 1;
    p["q_table"].copy_(torch::cat({own, target}, 1) * 1e3);
    p["k_table"].copy_(torch::cat({own, own}, 1));
    p["v_proj.weight"].fill_(1), p["o_proj.weight"].fill_(1);
    MixerInput in;
    in.x = x;
    x = mixer->forward(in);
    x.select(1, n).zero_();
  }
  EXPECT_LT(relative_error(x.narrow(1, 0, n), values.narrow(1, 0, n).cumsum(1)), kDouble);
}

TEST(PositionalAttention, IsItsFormula) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(11);
  constexpr int64_t kTokens = 9, kHeads = 2, kKeys = 5, kDim = 12;
  for (const bool content : {false, true})
    for (const bool causal : {false, true}) {
      auto mixer = wide_mixer("positional_attention", {{"dim", kDim},
                                                       {"heads", kHeads},
                                                       {"key_dim", kKeys},
                                                       {"max_length", kTokens + 3},
                                                       {"content", content},
                                                       {"causal", causal}});
      for (auto& parameter : mixer->parameters()) parameter.normal_(0, 0.5);
      const auto p = mixer->named_parameters();
      const auto in = random_tokens(3, kTokens, kDim);
      const auto by_head = [](const Tensor& t) { return t.unflatten(2, {kHeads, -1}).transpose(1, 2); };
      const auto of = [&](const std::string& name) {
        const auto rows = p[name + "_table"].narrow(0, 0, kTokens).unsqueeze(0);
        return by_head(content ? rows + torch::matmul(in.x, p[name + "_proj.weight"].t()) : rows);
      };
      auto logits = torch::matmul(of("q"), of("k").transpose(2, 3)) / std::sqrt(double(kKeys));
      if (causal) logits = logits.masked_fill(torch::ones({kTokens, kTokens}, torch::kBool).triu(1), -INFINITY);
      const auto read = torch::matmul(torch::softmax(logits, 3), by_head(torch::matmul(in.x, p["v_proj.weight"].t())));
      const auto expected = torch::matmul(read.transpose(1, 2).flatten(2), p["o_proj.weight"].t());
      EXPECT_LT(relative_error(mixer->forward(in), expected), kDouble) << content << causal;
      // Padding is no key, whatever its place.
      auto padded = in;
      padded.key_padding = torch::zeros({3, kTokens}, torch::kBool);
      padded.key_padding->slice(1, 6).fill_(true);
      const auto without = logits.masked_fill(padded.key_padding->view({3, 1, 1, kTokens}), -INFINITY);
      const auto shown =
          torch::matmul(torch::softmax(without, 3), by_head(torch::matmul(in.x, p["v_proj.weight"].t())));
      EXPECT_LT(relative_error(mixer->forward(padded),
                               torch::matmul(shown.transpose(1, 2).flatten(2), p["o_proj.weight"].t())),
                kDouble)
          << content << causal;
    }
}

TEST(PositionalAttention, TokensAndTheirPositionsMayChangePlaces) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(12);
  for (const bool content : {false, true}) {
    const json config{{"dim", 12}, {"heads", 2}, {"key_dim", 5}, {"max_length", 9}, {"content", content}};
    auto mixer = wide_mixer("positional_attention", config), moved = wide_mixer("positional_attention", config);
    test::copy_weights(*moved, *mixer);
    const auto order = torch::randperm(9);
    for (const char* table : {"q_table", "k_table"})
      moved->named_parameters()[table].copy_(mixer->named_parameters()[table].index_select(0, order));
    const auto in = random_tokens(2, 9, 12);
    const auto out = mixer->forward(in);
    EXPECT_LT(relative_error(moved->forward({.x = in.x.index_select(1, order)}), out.index_select(1, order)), kDouble);
    EXPECT_GT(relative_error(mixer->forward({.x = in.x.index_select(1, order)}), out.index_select(1, order)), 1e-3);
  }
}

TEST(PositionalAttention, WeightsWrittenByHandMakePairwiseMinima) {
  // Head 0 reads the own token, head 1 the one 2^l before; an MLP keeps the smaller, a - relu(a - b).
  torch::NoGradGuard no_grad;
  torch::manual_seed(13);
  const int64_t n = 13;
  auto x = torch::randn({2, n, 2}, kWide);
  const auto values = x.select(2, 0).clone();
  int64_t layers = 0;
  for (int64_t hop = 1; hop < n; hop *= 2, ++layers) {
    auto mixer = wide_mixer("positional_attention",
                            {{"dim", 2}, {"heads", 2}, {"head_dim", 1}, {"key_dim", n}, {"max_length", n}});
    auto p = mixer->named_parameters();
    const auto own = torch::eye(n, kWide);
    auto target = torch::zeros({n, n}, kWide);
    for (int64_t i = 0; i < n; ++i) target[i][std::max<int64_t>(i - hop, 0)] = 1;
    p["q_table"].copy_(torch::cat({own, target}, 1) * 1e3 * std::sqrt(double(n)));
    p["k_table"].copy_(torch::cat({own, own}, 1));
    p["v_proj.weight"].copy_(torch::tensor({{1, 0}, {1, 0}}, kWide));
    p["o_proj.weight"].copy_(torch::eye(2, kWide));
    const auto pair = mixer->forward({.x = x});
    x = torch::zeros_like(x);
    x.select(2, 0).copy_(pair.select(2, 0) - torch::relu(pair.select(2, 0) - pair.select(2, 1)));
  }
  EXPECT_EQ(layers, 4);  // ceil(log2 13)
  EXPECT_LT(relative_error(x.select(2, 0), std::get<0>(values.cummin(1))), kDouble);
}

constexpr int64_t kPoint = 5, kMatrices = 4, kDraw = 3;

/// The scores' matrices of kDraw [kMatrices, kPoint + 1, kPoint + 1].
Tensor matrices(double deviation, bool biased) {
  auto w = torch::randn({kMatrices, kPoint + 1, kPoint + 1}, nn::seeded_generator(kDraw), kWide) * deviation;
  for (int64_t i = 0; biased && i < kPoint; ++i) w.select(1, i).select(1, i).add_(1);
  return w;
}

TEST(RandomFeatureAttention, IsReluAttentionOverTheNumberOfKeys) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(14);
  constexpr int64_t kTokens = 9;
  for (const bool biased : {false, true}) {
    auto layer =
        wide_mixer("rf_attention_layer",
                   {{"dim", kPoint}, {"heads", kMatrices}, {"deviation", 0.7}, {"biased", biased}, {"seed", kDraw}});
    const auto in = random_tokens(2, kTokens, kPoint);
    // Rectified attention that divides by nothing: a head's queries are turned by its matrix, its values by v_m.
    auto relu = wide_mixer("diag_attention", {{"dim", kMatrices * (kPoint + 1)},
                                              {"heads", kMatrices},
                                              {"block", kTokens},
                                              {"normalizer", "relu"},
                                              {"causal", false},
                                              {"scale", 1.0}});
    const auto point = torch::cat({in.x, torch::ones({2, kTokens, 1}, kWide)}, 2).unsqueeze(1);
    const auto k = point.expand({2, kMatrices, kTokens, kPoint + 1}).contiguous();
    const auto v = torch::matmul(point, layer->named_parameters()["values"]) / double(kTokens);
    const auto expected = relu->mix({torch::matmul(point, matrices(0.7, biased)), k, v}).sum(1);
    EXPECT_LT(relative_error(layer->forward(in), expected), kDouble) << biased;
  }
}

TEST(RandomFeatureAttention, TheBiasLetsProductsIn) {
  torch::manual_seed(15);
  const auto q = torch::randn({4, 1, kPoint}, kWide), keys = torch::randn({4, 12, kPoint}, kWide);
  const linear::RandomScores products(kPoint, 1, 0, true, kDraw);
  const auto shares = torch::relu(torch::matmul(q, keys.transpose(1, 2))) / 12;
  const auto expected = torch::matmul(shares, torch::cat({keys, torch::ones({4, 12, 1}, kWide)}, 2)).unsqueeze(1);
  EXPECT_LT(relative_error(products.features(q, keys), expected), kDouble);
}

TEST(RandomFeatureAttention, OneKeyIsARandomFeatureNetwork) {
  torch::manual_seed(16);
  const auto q = torch::randn({20, 1, kPoint}, kWide), key = torch::randn({20, 1, kPoint}, kWide);
  const linear::RandomScores scores(kPoint, kMatrices, 0.5, false, kDraw);
  // relu of a linear map of the products of (x_0, 1) and (x_1, 1), times (x_1, 1).
  const auto a = linear::with_one(q).squeeze(1), b = linear::with_one(key).squeeze(1);
  const auto products = (a.unsqueeze(2) * b.unsqueeze(1)).flatten(1);
  const auto hidden = torch::relu(torch::matmul(products, matrices(0.5, false).flatten(1).t()));
  EXPECT_LT(relative_error(scores.features(q, key).squeeze(1), hidden.unsqueeze(2) * b.unsqueeze(1)), kDouble);
}

/// E[F(x) . F(x')] of one random matrix, by the expectation of the product of two rectified Gaussians (arc-cosine
/// kernel of degree 1): queries [S, 1, d], keys [S, N, d] and others [S', ...] -> [S, S'].
Tensor expected_kernel(const Tensor& q, const Tensor& k, const Tensor& other_q, const Tensor& other_k,
                       double deviation) {
  const auto a = linear::with_one(q).squeeze(1), b = linear::with_one(other_q).squeeze(1), x = linear::with_one(k),
             y = linear::with_one(other_k);
  const auto products = torch::einsum("sid,tjd->stij", {x, y});
  // Scores are Gaussian with deviations and covariance of the products' lengths and angles.
  const auto lengths = torch::einsum("s,si,t,tj->stij", {a.norm(2, 1), x.norm(2, 2), b.norm(2, 1), y.norm(2, 2)});
  const auto cosine = (torch::matmul(a, b.t()).view({a.size(0), b.size(0), 1, 1}) * products / lengths).clamp(-1, 1);
  const auto angle = torch::acos(cosine);
  const auto rectified = lengths * (torch::sin(angle) + (M_PI - angle) * cosine) * (deviation * deviation / (2 * M_PI));
  return (rectified * products).mean({2, 3});
}

TEST(RandomFeatureAttention, ManyMatricesAreARidgeOverTheirKernel) {
  torch::manual_seed(17);
  constexpr int64_t kTrain = 24, kTest = 40, kKeys = 3, kSize = 3, kSeeds = 6;
  constexpr double kDeviation = 0.5, kPenalty = 0.1;
  const auto draw = [](int64_t samples, int64_t count) {
    return torch::nn::functional::normalize(torch::randn({samples, count, kSize}, kWide),
                                            torch::nn::functional::NormalizeFuncOptions().dim(2));
  };
  const auto q = draw(kTrain, 1), k = draw(kTrain, kKeys), test_q = draw(kTest, 1), test_k = draw(kTest, kKeys);
  const auto y = torch::randn({kTrain, 1}, kWide);
  const auto kernel = expected_kernel(q, k, q, k, kDeviation);
  const auto limit = torch::matmul(expected_kernel(test_q, test_k, q, k, kDeviation),
                                   torch::linalg_solve(kernel + kPenalty * torch::eye(kTrain, kWide), y));
  std::vector<double> errors;
  for (const int64_t count : {64, 1024, 16384}) {
    double sum = 0;
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      const linear::RandomScores scores(kSize, count, kDeviation, false, seed);
      const auto features = [&](const Tensor& queries, const Tensor& keys) {
        return scores.features(queries, keys).flatten(1) / std::sqrt(double(count));
      };
      const auto found = torch::matmul(features(test_q, test_k), linear::ridge(features(q, k), y, kPenalty));
      sum += relative_error(found, limit) / kSeeds;
    }
    errors.push_back(sum);
  }
  // Errors fall by 4 a step, as M^(-1/2) does.
  for (size_t i = 1; i < errors.size(); ++i) {
    EXPECT_LT(errors[i], errors[i - 1] / 2) << errors[i];
    EXPECT_GT(errors[i], errors[i - 1] / 8) << errors[i];
  }
  EXPECT_LT(errors.back(), 0.05);
}

TEST(RandomFeatureAttention, ForgetsTheOrderOfKeys) {
  torch::manual_seed(9);
  const linear::RandomScores scores(5, 30, 0.5, false, 1);
  const auto q = torch::randn({4, 1, 5}, kWide), keys = torch::randn({4, 12, 5}, kWide);
  const auto order = torch::randperm(12);
  EXPECT_LT(relative_error(scores.features(q, keys.index_select(1, order)), scores.features(q, keys)), kDouble);
}

TEST(RandomFeatureAttention, RidgeIsAStationaryPoint) {
  torch::manual_seed(10);
  for (const int64_t features : {7, 40}) {
    const auto f = torch::randn({20, features}, kWide), y = torch::randn({20, 2}, kWide);
    const auto w = linear::ridge(f, y, 0.3).requires_grad_();
    const auto loss = (torch::matmul(f, w) - y).square().sum() + 0.3 * w.square().sum();
    EXPECT_LT(torch::autograd::grad({loss}, {w})[0].norm().item<double>(), 1e-9) << features;
  }
}

}  // namespace
}  // namespace heed::other_layers_test
