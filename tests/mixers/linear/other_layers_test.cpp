// The cards of other factorisations, and recurrences to compare with: Mamba-2, GRU, LSTM, Combiner, Grassmann,
// positional and random-feature attention.
#include <gtest/gtest.h>

#include "heed/mixers/token_mixer.h"
#include "heed/nn/short_conv.h"
#include "heed/ops/linear_chunk.h"
#include "heed/ops/selective_scan.h"
#include "mixers/linear/random_attention.h"
#include "support/torch_support.h"

namespace heed::other_layers_test {
namespace {

using nlohmann::json;
using test::kDouble;
using test::relative_error;
using torch::Tensor;

const auto kWide = torch::TensorOptions(torch::kFloat64);

std::shared_ptr<TokenMixer> wide(const char* name, const json& config) {
  auto mixer = make_mixer(name, config);
  mixer->eval();
  mixer->to(torch::kFloat64);
  return mixer;
}

MixerInput random_tokens(int64_t batch, int64_t n, int64_t dim) {
  MixerInput in;
  in.x = torch::randn({batch, n, dim}, kWide);
  return in;
}

TEST(Mamba2, IsItsRecurrence) {
  torch::manual_seed(1);
  const int64_t n = 33, inner = 16, heads = 4, size = 4, states = 5;
  auto mixer = wide("mamba2", {{"dim", 8}, {"head_dim", size}, {"state_dim", states}});
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

/// Gates of libtorch's layout: blocks of `size` rows, one a gate, from the token and from what is remembered.
struct CellGates {
  Tensor token, past;
  Tensor of(int64_t gate, int64_t size) const {
    return token.narrow(0, gate * size, size) + past.narrow(0, gate * size, size);
  }
};

CellGates cell_gates(const torch::OrderedDict<std::string, Tensor>& p, const Tensor& x, const Tensor& h) {
  return {torch::mv(p["cells.weight_ih_l0"], x) + p["cells.bias_ih_l0"],
          torch::mv(p["cells.weight_hh_l0"], h) + p["cells.bias_hh_l0"]};
}

TEST(Gru, IsItsRecurrence) {
  torch::manual_seed(2);
  torch::NoGradGuard no_grad;
  const int64_t n = 9, size = 7;
  auto mixer = wide("gru", {{"dim", 5}, {"hidden", size}});
  const auto p = mixer->named_parameters();
  const auto in = random_tokens(1, n, 5);
  auto h = torch::zeros({size}, kWide);
  std::vector<Tensor> rows;
  for (int64_t t = 0; t < n; ++t) {
    const auto gates = cell_gates(p, in.x[0][t], h);
    const auto reset = torch::sigmoid(gates.of(0, size)), keep = torch::sigmoid(gates.of(1, size));
    const auto fresh =
        torch::tanh(gates.token.narrow(0, 2 * size, size) + reset * gates.past.narrow(0, 2 * size, size));
    h = keep * h + (1 - keep) * fresh;
    rows.push_back(torch::mv(p["o_proj.weight"], h));
  }
  EXPECT_LT(relative_error(mixer->forward(in)[0], torch::stack(rows)), kDouble);
}

TEST(Lstm, IsItsRecurrence) {
  torch::manual_seed(3);
  torch::NoGradGuard no_grad;
  const int64_t n = 9, size = 7;
  auto mixer = wide("lstm", {{"dim", 5}, {"hidden", size}});
  const auto p = mixer->named_parameters();
  const auto in = random_tokens(1, n, 5);
  auto h = torch::zeros({size}, kWide), c = torch::zeros({size}, kWide);
  std::vector<Tensor> rows;
  for (int64_t t = 0; t < n; ++t) {
    const auto gates = cell_gates(p, in.x[0][t], h);
    c = torch::sigmoid(gates.of(1, size)) * c + torch::sigmoid(gates.of(0, size)) * torch::tanh(gates.of(2, size));
    h = torch::sigmoid(gates.of(3, size)) * torch::tanh(c);
    rows.push_back(torch::mv(p["o_proj.weight"], h));
  }
  EXPECT_LT(relative_error(mixer->forward(in)[0], torch::stack(rows)), kDouble);
}

TEST(ShortConv, PackedSequencesBeginAnew) {
  torch::manual_seed(2);
  nn::ShortConv conv(3, 4, true);
  const auto x = torch::randn({1, 11, 3});
  const auto packed = conv(x, nullptr, torch::tensor({0, 2, 2, 11}, torch::kInt64));
  EXPECT_TRUE(torch::allclose(packed.narrow(1, 0, 2), conv(x.narrow(1, 0, 2))));
  EXPECT_TRUE(torch::allclose(packed.narrow(1, 2, 9), conv(x.narrow(1, 2, 9))));
}

TEST(Combiner, SpansOfOneTokenOrOfAllAreDenseAttention) {
  torch::manual_seed(3);
  const auto draw = [] { return torch::randn({2, 3, 26, 8}, kWide); };
  const CoreInput in{draw(), draw(), draw()};
  for (const bool causal : {true, false}) {
    const auto expected = wide("dense", {{"dim", 24}, {"heads", 3}, {"causal", causal}})->mix(in);
    for (const char* form : {"fixed", "axial"})
      for (const int64_t span : {1, 26, 100}) {
        auto mixer = wide("combiner", {{"dim", 24}, {"heads", 3}, {"span", span}, {"causal", causal}, {"form", form}});
        EXPECT_LT(relative_error(mixer->mix(in), expected), kDouble)
            << form << " span " << span << " causal " << causal;
      }
  }
}

// Rows of 5 tokens; what sums up a row is asked for by the row's own token in the query's column.
TEST(Combiner, AnAxialRowIsSummedUpForEveryColumn) {
  torch::manual_seed(5);
  const int64_t n = 22, span = 5;
  const auto draw = [&] { return torch::randn({1, 1, n, 8}, kWide); };
  const CoreInput in{draw(), draw(), draw()};
  const auto q = in.q[0][0], k = in.k[0][0], v = in.v[0][0];
  for (const bool causal : {true, false}) {
    auto mixer = wide("combiner", {{"dim", 8}, {"heads", 1}, {"span", span}, {"causal", causal}, {"form", "axial"}});
    const auto out = mixer->mix(in)[0][0];
    for (int64_t i = 0; i < n; ++i) {
      std::vector<Tensor> keys, values;
      const int64_t row = i / span;
      for (int64_t r = 0; r * span < n; ++r) {
        const int64_t begin = r * span, end = std::min(n, begin + span), asking = begin + i % span;
        if (r == row) {
          const int64_t last = causal ? i + 1 : end;
          keys.push_back(k.slice(0, begin, last));
          values.push_back(v.slice(0, begin, last));
        } else if ((!causal || r < row) && asking < n) {
          const auto weights = torch::softmax(torch::mv(k.slice(0, begin, end), q[asking]) / std::sqrt(8.0), 0);
          keys.push_back(torch::mv(k.slice(0, begin, end).t(), weights).unsqueeze(0));
          values.push_back(torch::mv(v.slice(0, begin, end).t(), weights).unsqueeze(0));
        }
      }
      const auto weights = torch::softmax(torch::mv(torch::cat(keys), q[i]) / std::sqrt(8.0), 0);
      EXPECT_LT(relative_error(out[i], torch::mv(torch::cat(values).t(), weights)), kDouble) << i << " " << causal;
    }
  }
}

// Token i sees itself and the blocks of the binary expansion of i; on the other side, those of what is left.
TEST(Combiner, ALogsparseTokenSeesEveryOtherOnce) {
  torch::manual_seed(7);
  const int64_t n = 21;
  const auto draw = [&] { return torch::randn({1, 1, n, 8}, kWide); };
  const CoreInput in{draw(), draw(), draw()};
  const auto q = in.q[0][0], k = in.k[0][0], v = in.v[0][0];
  for (const bool causal : {true, false}) {
    auto mixer = wide("combiner", {{"dim", 8}, {"heads", 1}, {"causal", causal}, {"form", "logsparse"}});
    const auto out = mixer->mix(in)[0][0];
    for (int64_t i = 0; i < n; ++i) {
      std::vector<Tensor> keys{k.slice(0, i, i + 1)}, values{v.slice(0, i, i + 1)};
      int64_t seen = 1;
      const auto add = [&](int64_t begin, int64_t end) {
        const auto pooled = q.slice(0, begin, end).amax(0);
        const auto weights = torch::softmax(torch::mv(k.slice(0, begin, end), pooled) / std::sqrt(8.0), 0);
        keys.push_back(k.slice(0, begin, end).amax(0, true));
        values.push_back(torch::mv(v.slice(0, begin, end).t(), weights).unsqueeze(0));
        seen += end - begin;
      };
      for (int64_t size = 1; size < n; size *= 2) {
        const int64_t block = i / size;
        if (block % 2 == 1) add((block - 1) * size, block * size);
        if (!causal && block % 2 == 0 && (block + 1) * size < n)
          add((block + 1) * size, std::min(n, (block + 2) * size));
      }
      ASSERT_EQ(seen, causal ? i + 1 : n);
      const auto weights = torch::softmax(torch::mv(torch::cat(keys), q[i]) / std::sqrt(8.0), 0);
      EXPECT_LT(relative_error(out[i], torch::mv(torch::cat(values).t(), weights)), kDouble) << i << " " << causal;
    }
  }
}

class CombinerForm : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, CombinerForm, testing::Values("fixed", "axial", "logsparse"));

TEST_P(CombinerForm, StepsEqualTheWholeAndPaddingIsNotSeen) {
  torch::manual_seed(6);
  torch::NoGradGuard no_grad;
  const nlohmann::json config{{"dim", 12}, {"heads", 2}, {"span", 4}, {"form", GetParam()}};
  auto mixer = wide("combiner", config);
  MixerInput in;
  in.x = torch::randn({2, 19, 12}, kWide);
  const auto whole = mixer->forward(in);
  auto state = mixer->make_state(2);
  std::vector<Tensor> parts;
  for (int64_t at = 0, count = 1; at < 19; at += count, count = at % 6 + 1) {
    MixerInput part;
    part.x = in.x.slice(1, at, std::min<int64_t>(19, at + count));
    parts.push_back(mixer->forward(part, state.get()));
  }
  EXPECT_LT(relative_error(torch::cat(parts, 1), whole), kDouble);
  for (const bool causal : {true, false}) {
    auto both = config;
    both["causal"] = causal;
    auto padded = wide("combiner", both);
    in.key_padding = torch::zeros({2, 19}, torch::kBool);
    in.key_padding->slice(1, 5, 11).fill_(true);
    const auto before = padded->forward(in);
    auto changed = in;
    changed.x = in.x.clone();
    changed.x.slice(1, 5, 11).add_(4);
    const auto after = padded->forward(changed);
    EXPECT_TRUE(torch::equal(after.slice(1, 0, 5), before.slice(1, 0, 5)));
    EXPECT_TRUE(torch::equal(after.slice(1, 11), before.slice(1, 11))) << causal;
  }
}

TEST(Combiner, ARegionWeighsAsOneTokenOfEqualOnes) {
  torch::manual_seed(4);
  const auto equal = torch::randn({1, 1, 1, 8}, kWide).expand({1, 1, 20, 8});
  const auto place = torch::arange(20, kWide).view({1, 1, 20, 1}).expand({1, 1, 20, 8});
  auto mixer = wide("combiner", {{"dim", 8}, {"heads", 1}, {"span", 5}});
  // Token 17 sees tokens 15 to 17 and the means 2, 7 and 12 of three regions.
  const auto out = mixer->mix({equal, equal, place});
  EXPECT_NEAR(out[0][0][17][0].item<double>(), (15 + 16 + 17 + 2 + 7 + 12) / 6.0, 1e-9);
  auto counted = wide("combiner", {{"dim", 8}, {"heads", 1}, {"span", 5}, {"count_regions", true}});
  EXPECT_NEAR(counted->mix({equal, equal, place})[0][0][17][0].item<double>(), 17 / 2.0, 1e-9);
}

TEST(CausalGrassmann, ParallelTokensHaveFiniteGradients) {
  torch::manual_seed(5);
  auto mixer = wide("causal_grassmann", {{"dim", 12}, {"rank", 5}, {"lags", {1, 3}}});
  MixerInput in;
  in.x = torch::randn({1, 1, 12}, kWide).expand({1, 9, 12}).clone().requires_grad_();
  const auto grad = torch::autograd::grad({mixer->forward(in).square().sum()}, {in.x})[0];
  EXPECT_TRUE(test::all_finite(grad));
}

TEST(CausalGrassmann, IsItsFormula) {
  torch::manual_seed(6);
  auto mixer = wide("causal_grassmann", {{"dim", 6}, {"rank", 4}, {"lags", {1, 3}}, {"norm", false}});
  auto p = mixer->named_parameters();
  const auto in = random_tokens(1, 10, 6);
  torch::NoGradGuard no_grad;
  const auto z = torch::matmul(in.x[0], p["reduce.weight"].t()) + p["reduce.bias"];
  std::vector<Tensor> rows;
  for (int64_t t = 0; t < 10; ++t) {
    auto sum = torch::zeros({6}, kWide);
    int64_t count = 0;
    for (const int64_t lag : {1, 3}) {
      if (t < lag) continue;
      const auto u = z[t], v = z[t - lag];
      const auto wedge = torch::outer(u, v) - torch::outer(v, u);
      const auto plane = torch::stack({wedge[0][1], wedge[0][2], wedge[0][3], wedge[1][2], wedge[1][3], wedge[2][3]});
      // Pluecker's relation.
      EXPECT_NEAR((plane[0] * plane[5] - plane[1] * plane[4] + plane[2] * plane[3]).item<double>(), 0, 1e-12);
      sum += torch::matmul(p["lift.weight"], plane / plane.norm()) + p["lift.bias"];
      ++count;
    }
    const auto g = sum / std::max<int64_t>(count, 1);
    const auto alpha =
        torch::sigmoid(torch::matmul(p["gate_proj.weight"], torch::cat({in.x[0][t], g})) + p["gate_proj.bias"]);
    rows.push_back(alpha * in.x[0][t] + (1 - alpha) * g);
  }
  EXPECT_LT(relative_error(mixer->forward(in)[0], torch::stack(rows)), kDouble);
}

TEST(CausalGrassmann, KnowsPlanesNotTheVectorsThatSpanThem) {
  torch::manual_seed(7);
  const int64_t rank = 5;
  // With the identity in front, two tokens are the two vectors; alpha = 0 leaves the lifted plane.
  auto mixer = wide("causal_grassmann", {{"dim", rank}, {"rank", rank}, {"lags", {1}}, {"norm", false}});
  torch::NoGradGuard no_grad;
  auto p = mixer->named_parameters();
  p["reduce.weight"].copy_(torch::eye(rank, kWide)), p["reduce.bias"].zero_();
  p["gate_proj.weight"].zero_(), p["gate_proj.bias"].fill_(-1e3);
  p["lift.bias"].zero_();
  const auto u = torch::randn({rank}, kWide), v = torch::randn({rank}, kWide);
  const auto lifted = [&](const Tensor& now, const Tensor& before) {
    MixerInput in;
    in.x = torch::stack({before, now}).unsqueeze(0);
    return mixer->forward(in)[0][1];
  };
  const auto plane = lifted(u, v);
  EXPECT_LT(relative_error(lifted(v, u), -plane), kDouble);
  EXPECT_LT(relative_error(lifted(3 * u, 0.5 * v), plane), kDouble);
  EXPECT_LT(relative_error(lifted(u, v + 0.7 * u), plane), kDouble);
  EXPECT_LT(relative_error(lifted(u - 2 * v, v), plane), kDouble);
  EXPECT_LT(lifted(u, u).norm().item<double>(), 1e-6);
  // Coordinates have length 1: Lagrange's identity.
  const auto wedge = torch::outer(u, v) - torch::outer(v, u);
  const auto pairs = torch::triu_indices(rank, rank, 1, torch::kInt64);
  const auto coordinates = wedge.index({pairs[0], pairs[1]});
  const double squared = (u.dot(u) * v.dot(v) - u.dot(v) * u.dot(v)).item<double>();
  EXPECT_NEAR(coordinates.square().sum().item<double>(), squared, 1e-12 * squared);
  EXPECT_LT(relative_error(plane, torch::mv(p["lift.weight"], coordinates / std::sqrt(squared))), kDouble);
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
  auto mixer = wide("positional_attention", {{"dim", 12}, {"heads", 2}, {"key_dim", 9}, {"max_length", 9}});
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
    auto mixer = wide("positional_attention",
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
