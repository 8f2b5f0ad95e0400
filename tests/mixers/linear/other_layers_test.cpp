// The cards of other factorisations, and recurrences to compare with: Mamba-2, GRU, LSTM, positional and
// random-feature attention.
#include <gtest/gtest.h>

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
  torch::manual_seed(1);
  const int64_t n = 33, inner = 16, heads = 4, size = 4, states = 5;
  auto mixer = wide_mixer("mamba2", {{"dim", 8}, {"head_dim", size}, {"state_dim", states}});
  auto p = mixer->named_parameters();
  const auto in = random_tokens(1, n, 8);
  torch::NoGradGuard no_grad;
  const auto parts =
      torch::matmul(in.x, p["in_proj.weight"].t())[0].split_with_sizes({inner, inner + 2 * states, heads}, 1);
  const auto padded = torch::cat({torch::zeros({3, inner + 2 * states}, kWide), parts[1]});
  auto conv = p["conv.bias"].expand({n, inner + 2 * states}).clone();
  for (int64_t i = 0; i < 4; ++i) conv += padded.narrow(0, i, n) * p["conv.weight"][i];
  conv = torch::silu(conv);
  const auto step = torch::softplus(parts[2] + p["step_bias"]), a = -torch::exp(p["a_log"]);
  auto state = torch::zeros({heads, states, size}, kWide);
  std::vector<Tensor> rows;
  for (int64_t t = 0; t < n; ++t) {
    const auto x = conv[t].narrow(0, 0, inner).view({heads, size});
    const auto b = conv[t].narrow(0, inner, states), c = conv[t].narrow(0, inner + states, states);
    state = torch::exp(step[t] * a).view({heads, 1, 1}) * state +
            b.view({1, states, 1}) * (step[t].view({heads, 1}) * x).unsqueeze(1);
    rows.push_back((torch::matmul(c, state) + p["skip"].view({heads, 1}) * x).flatten());
  }
  const auto gated = torch::stack(rows) * torch::silu(parts[0]);
  const auto normed = gated * torch::rsqrt(gated.square().mean(1, true) + 1e-5) * p["norm.weight"];
  EXPECT_LT(relative_error(mixer->forward(in)[0], torch::matmul(normed, p["o_proj.weight"].t())), kDouble);
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
