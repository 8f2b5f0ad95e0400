// The cards of linear attention over sequences, against their formulas in double.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/nn/feature_map.h"
#include "heed/nn/positions.h"
#include "heed/nn/random_features.h"
#include "heed/ops/delta_chunk.h"
#include "mixers/linear/linear_support.h"

namespace heed::linear_attention_test {
namespace {

using nlohmann::json;
using test::copy_weights;
using test::kDouble;
using test::random_core;
using test::relative_error;
using test::wide_mixer;
using torch::Tensor;

TEST(LightningAttention, IsAMaskOfDecays) {
  torch::manual_seed(1);
  const auto in = random_core(4, 37, 6, 6);
  for (const bool causal : {true, false}) {
    auto mixer = wide_mixer("lightning_attention", {{"dim", 24}, {"heads", 4}, {"causal", causal}});
    const auto place = torch::arange(37, torch::kFloat64);
    const auto distance = place.unsqueeze(1) - place.unsqueeze(0);
    const auto slopes = torch::tensor({0.25, 0.0625, 0.015625, 0.00390625}, torch::kFloat64).view({4, 1, 1});
    auto decays = torch::exp(-slopes * distance.abs());
    if (causal) decays = decays.tril();
    const auto expected = torch::matmul(torch::matmul(in.q, in.k.transpose(2, 3)) * decays, in.v);
    EXPECT_LT(relative_error(mixer->mix(in), expected), kDouble) << "causal " << causal;
  }
}

TEST(LightningAttention, OnesGiveGeometricSums) {
  auto sums = [](bool decay) {
    auto mixer = wide_mixer("lightning_attention", {{"dim", 1}, {"heads", 1}, {"decay", decay}});
    const auto ones = torch::ones({1, 1, 20, 1}, torch::kFloat64);
    return mixer->mix({ones, ones, ones}).flatten();
  };
  const auto t = torch::arange(1, 21, torch::kFloat64);
  EXPECT_LT(relative_error(sums(false), t), kDouble);
  const double lambda = std::exp(-1.0 / 256);  // ALiBi's slope of one head
  EXPECT_LT(relative_error(sums(true), (1 - torch::pow(lambda, t)) / (1 - lambda)), 1e-9);
}

TEST(NormAttention, ForgetsTheScaleOfValues) {
  torch::manual_seed(2);
  auto mixer = wide_mixer("norm_attention", {{"dim", 24}, {"heads", 3}});
  MixerInput in;
  in.x = torch::randn({2, 31, 24}, torch::kFloat64);
  const auto before = mixer->forward(in);
  torch::NoGradGuard no_grad;
  mixer->named_parameters()["v_proj.weight"].mul_(1e3);
  // eps of the norm, 1e-6, against mean squares of the outputs that the scale leaves above 1e-2.
  EXPECT_LT(relative_error(mixer->forward(in), before), 1e-3);
}

TEST(DiagAttention, IsDenseInsideABlock) {
  torch::manual_seed(3);
  MixerInput in;
  in.x = torch::randn({2, 45, 24}, torch::kFloat64).requires_grad_();
  auto dense = wide_mixer("dense", {{"dim", 24}, {"heads", 4}});
  auto whole = wide_mixer("diag_attention", {{"dim", 24}, {"heads", 4}, {"block", 45}});
  auto diag = wide_mixer("diag_attention", {{"dim", 24}, {"heads", 4}, {"block", 16}});
  copy_weights(*whole, *dense), copy_weights(*diag, *dense);
  EXPECT_LT(relative_error(whole->forward(in), dense->forward(in)), kDouble);
  const auto out = diag->forward(in);
  for (int64_t begin = 0; begin < 45; begin += 16) {
    MixerInput part;
    part.x = in.x.slice(1, begin, std::min<int64_t>(begin + 16, 45));
    EXPECT_LT(relative_error(out.slice(1, begin, begin + 16), dense->forward(part)), kDouble) << begin;
  }
  const auto grad = torch::autograd::grad({out.slice(1, 16, 32).sum()}, {in.x})[0];
  EXPECT_EQ(grad.slice(1, 0, 16).abs().max().item<double>(), 0);
  EXPECT_EQ(grad.slice(1, 32).abs().max().item<double>(), 0);
}

TEST(DiagAttention, RectifiedWeightsAreNotNormalised) {
  torch::manual_seed(4);
  auto mixer = wide_mixer("diag_attention", {{"dim", 24}, {"heads", 4}, {"block", 8}, {"normalizer", "relu"}});
  const auto in = random_core(4, 21, 6, 6);
  const auto block = torch::arange(21).div(8, "floor");
  const auto same = (block.unsqueeze(1) == block.unsqueeze(0)).to(torch::kFloat64).tril();
  const auto weights = torch::relu(torch::matmul(in.q, in.k.transpose(2, 3)) / std::sqrt(6.0)) * same;
  EXPECT_LT(relative_error(mixer->mix(in), torch::matmul(weights, in.v)), kDouble);
}

TEST(Gla, AnOpenGateForgetsNothing) {
  torch::manual_seed(5);
  auto gated = wide_mixer("gla", {{"dim", 24}, {"heads", 2}}),
       open = wide_mixer("gla", {{"dim", 24}, {"heads", 2}, {"gate", "none"}});
  copy_weights(*gated, *open);
  {
    torch::NoGradGuard no_grad;
    gated->named_parameters()["decay_up.bias"].fill_(1e3);
  }
  MixerInput in;
  in.x = torch::randn({2, 70, 24}, torch::kFloat64);
  EXPECT_LT(relative_error(gated->forward(in), open->forward(in)), kDouble);
}

TEST(Gla, EqualChannelsAreOneGateAHead) {
  torch::manual_seed(6);
  auto channel = wide_mixer("gla", {{"dim", 24}, {"heads", 2}}),
       head = wide_mixer("gla", {{"dim", 24}, {"heads", 2}, {"gate", "head"}});
  copy_weights(*head, *channel);
  {
    torch::NoGradGuard no_grad;
    auto of_head = head->named_parameters(), of_channel = channel->named_parameters();
    for (const char* key : {"decay_up.weight", "decay_up.bias"}) {
      of_head[key].normal_();
      of_channel[key].copy_(of_head[key].repeat_interleave(of_channel[key].size(0) / 2, 0));
    }
    of_head["decay_down.weight"].copy_(of_channel["decay_down.weight"]);
  }
  MixerInput in;
  in.x = torch::randn({2, 70, 24}, torch::kFloat64);
  EXPECT_LT(relative_error(channel->forward(in), head->forward(in)), kDouble);
}

TEST(DeltaNet, OverwritesWhatAKeyHeld) {
  torch::manual_seed(7);
  auto mixer = wide_mixer("deltanet", {{"dim", 8}, {"heads", 1}});
  const auto key = torch::randn({1, 1, 1, 8}, torch::kFloat64);
  const auto v = torch::randn({1, 1, 3, 8}, torch::kFloat64);
  const auto keys = key.expand({1, 1, 3, 8});
  const auto read = mixer->mix({keys, keys, v});
  // Every reading returns the newest value, by queries of length 8^(-1/2); eps of the unit keys is 1e-6 of their
  // squared length.
  EXPECT_LT(relative_error(read * std::sqrt(8.0), v), 1e-5);
}

TEST(DeltaNet, OrthogonalKeysAreLinearAttention) {
  torch::manual_seed(8);
  auto delta = wide_mixer("deltanet", {{"dim", 8}, {"heads", 1}});
  const auto k = 100 * torch::eye(8, torch::kFloat64).view({1, 1, 8, 8});
  const auto q = torch::randn({1, 1, 8, 8}, torch::kFloat64), v = torch::randn({1, 1, 8, 8}, torch::kFloat64);
  const auto unit = q / q.norm(2, 3, true) / std::sqrt(8.0);
  const auto expected = torch::matmul(torch::matmul(unit, k.transpose(2, 3) / 100).tril(), v);
  EXPECT_LT(relative_error(delta->mix({q, k, v}), expected), 1e-5);
}

/// Per head [H, N, size] of x [N, C] under a matrix of p.
Tensor by_head(const torch::OrderedDict<std::string, Tensor>& p, const std::string& name, const Tensor& x,
               int64_t heads) {
  return torch::matmul(x, p[name + ".weight"].t()).unflatten(1, {heads, -1}).transpose(0, 1);
}

/// t [H, N, size] with each row's mean square 1, side by side [N, H size], times weight [size].
Tensor normed_heads(const Tensor& t, const Tensor& weight) {
  const auto normed = t * torch::rsqrt(t.square().mean(2, true) + 1e-5) * weight;
  return normed.transpose(0, 1).flatten(1);
}

/// Uniform numbers in place of ones and zeros.
void scatter(TokenMixer& mixer) {
  torch::NoGradGuard no_grad;
  for (auto& p : mixer.parameters()) p.uniform_(-1, 1);
}

TEST(DeltaNet, IsItsRecurrence) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(22);
  constexpr int64_t kTokens = 37, kHeads = 2, kSize = 6, kDim = kHeads * kSize;
  for (const bool doubled : {false, true})
    for (const bool gated : {false, true}) {
      auto mixer = wide_mixer("deltanet", {{"dim", kDim},
                                           {"heads", kHeads},
                                           {"conv", 3},
                                           {"negative_eigenvalues", doubled},
                                           {"decay", gated},
                                           {"gate", gated}});
      scatter(*mixer);
      const auto p = mixer->named_parameters();
      const auto in = test::random_tokens(1, kTokens, kDim);
      const auto x = in.x[0];
      const auto mixed = [&](const std::string& name) {
        const auto before = torch::constant_pad_nd(torch::matmul(x, p[name + "_proj.weight"].t()), {0, 0, 2, 0});
        auto sum = torch::zeros({kTokens, kDim}, torch::kFloat64);
        for (int64_t i = 0; i < 3; ++i) sum += before.narrow(0, i, kTokens) * p[name + "_conv.weight"][i];
        return torch::silu(sum).view({kTokens, kHeads, kSize}).transpose(0, 1);
      };
      const auto unit = [](const Tensor& t) { return t / (t.square().sum(2, true) + 1e-6).sqrt(); };
      const auto q = unit(mixed("q")), k = unit(mixed("k")), v = mixed("v");
      const auto beta = torch::sigmoid(by_head(p, "beta_proj", x, kHeads)) * (doubled ? 2 : 1);  // [H, N, 1]
      auto keep = torch::ones_like(beta);
      if (gated) keep = torch::sigmoid(by_head(p, "decay_proj", x, kHeads) + p["decay_proj.bias"].view({kHeads, 1, 1}));
      auto state = torch::zeros({kHeads, kSize, kSize}, torch::kFloat64);
      std::vector<Tensor> rows;
      for (int64_t t = 0; t < kTokens; ++t) {
        const auto at = [&](const Tensor& of) { return of.narrow(1, t, 1); };  // [H, 1, size]
        state = at(keep) * state;
        state = state + torch::matmul(at(k).transpose(1, 2), at(beta) * (at(v) - torch::matmul(at(k), state)));
        rows.push_back(torch::matmul(at(q) / std::sqrt(double(kSize)), state));
      }
      auto out = normed_heads(torch::cat(rows, 1), p["norm.weight"]);
      if (gated) out = out * torch::silu(torch::matmul(x, p["gate_proj.weight"].t()));
      EXPECT_LT(relative_error(mixer->forward(in)[0], torch::matmul(out, p["o_proj.weight"].t())), kDouble)
          << doubled << gated;
    }
}

TEST(DeltaNet, AProductOfReflectionsIsOneOfLowRank) {
  torch::manual_seed(23);
  constexpr int64_t kTokens = 21, kSize = 8;
  const auto k = torch::nn::functional::normalize(torch::randn({kTokens, kSize}, torch::kFloat64));
  const auto beta = 2 * torch::rand({kTokens}, torch::kFloat64), eye = torch::eye(kSize, torch::kFloat64);
  auto product = eye;
  for (int64_t t = 0; t < kTokens; ++t) product = torch::matmul(eye - beta[t] * torch::outer(k[t], k[t]), product);
  // W = (I + stril(diag(beta) K K^T))^-1 diag(beta) K
  const auto scaled = beta.unsqueeze(1) * k;
  const auto w = torch::matmul(
      torch::inverse(torch::eye(kTokens, torch::kFloat64) + torch::matmul(scaled, k.t()).tril(-1)), scaled);
  EXPECT_LT(relative_error(eye - torch::matmul(k.t(), w), product), kDouble);
  const auto each = [](const Tensor& t) { return t.unsqueeze(0).unsqueeze(0); };
  for (const int64_t chunk : {1, 5, 64}) {
    ops::DeltaChunkOptions options;
    options.chunk = chunk;
    const auto moved =
        ops::delta_chunk(each(k), each(k), each(torch::zeros_like(k)), each(beta), {}, each(eye), options).state;
    EXPECT_LT(relative_error(moved[0][0], product), kDouble) << chunk;
  }
}

TEST(Gla, IsItsRecurrence) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(24);
  constexpr int64_t kTokens = 41, kHeads = 2, kKeys = 3, kSize = 6, kDim = kHeads * kSize;
  for (const char* gate : {"channel", "head"})
    for (const double least : {-0.3, -1e4}) {
      auto mixer = wide_mixer("gla", {{"dim", kDim},
                                      {"heads", kHeads},
                                      {"gate", gate},
                                      {"gate_rank", 5},
                                      {"gate_temperature", 2.0},
                                      {"least_log_decay", least}});
      scatter(*mixer);
      const auto p = mixer->named_parameters();
      const auto in = test::random_tokens(1, kTokens, kDim);
      const auto x = in.x[0];
      const auto q = by_head(p, "q_proj", x, kHeads), k = by_head(p, "k_proj", x, kHeads),
                 v = by_head(p, "v_proj", x, kHeads);
      ASSERT_EQ(q.size(2), kKeys);
      const auto logits =
          torch::matmul(torch::matmul(x, p["decay_down.weight"].t()), p["decay_up.weight"].t()) + p["decay_up.bias"];
      const auto share = torch::pow(torch::sigmoid(logits), 0.5);
      const auto clamped = share < std::exp(least);
      // The clamp is at work in the first of the two, and leaves others alone.
      EXPECT_EQ(clamped.any().item<bool>(), least > -1);
      EXPECT_FALSE(clamped.all().item<bool>());
      const auto keep =
          share.clamp_min(std::exp(least)).unflatten(1, {kHeads, -1}).permute({1, 2, 0});  // [H, D or 1, N]
      auto state = torch::zeros({kHeads, kKeys, kSize}, torch::kFloat64);
      std::vector<Tensor> rows;
      for (int64_t t = 0; t < kTokens; ++t) {
        const auto at = [&](const Tensor& of) { return of.narrow(1, t, 1); };
        state = keep.narrow(2, t, 1) * state + torch::matmul(at(k).transpose(1, 2), at(v));
        rows.push_back(torch::matmul(at(q) / std::sqrt(double(kKeys)), state));
      }
      const auto out = normed_heads(torch::cat(rows, 1), p["norm.weight"]) *
                       torch::silu(torch::matmul(x, p["gate_proj.weight"].t()));
      EXPECT_LT(relative_error(mixer->forward(in)[0], torch::matmul(out, p["o_proj.weight"].t())), kDouble)
          << gate << least;
    }
}

TEST(Gla, AClosedChannelForgetsWhatWasBefore) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(25);
  constexpr int64_t kTokens = 50, kClosed = 29;
  auto mixer = wide_mixer("gla", {{"dim", 12}, {"heads", 2}, {"gate_rank", 1}, {"gate_temperature", 1.0}});
  auto p = mixer->named_parameters();
  // Channel 0 of the tokens closes channel 1 of head 0 where it is large, and no other.
  p["decay_down.weight"].zero_()[0][0] = -1e4;
  p["decay_up.weight"].zero_()[1][0] = 1;
  p["decay_up.bias"].fill_(2);
  // Head 0 reads channel 1 alone.
  for (const int64_t row : {0, 2}) p["q_proj.weight"][row].zero_();
  auto in = test::random_tokens(1, kTokens, 12);
  in.x.select(2, 0).zero_();
  in.x[0][kClosed][0] = 1;
  auto changed = in;
  changed.x = in.x.clone();
  changed.x.slice(1, 0, kClosed).slice(2, 1).normal_();
  // Of the outputs, what head 0 gives: the first half of the joined heads.
  p["o_proj.weight"].copy_(torch::eye(12, torch::kFloat64));
  const auto out = mixer->forward(in).slice(2, 0, 6), other = mixer->forward(changed).slice(2, 0, 6);
  EXPECT_TRUE(test::all_finite(out));
  EXPECT_TRUE(torch::equal(out.slice(1, kClosed), other.slice(1, kClosed)));
  EXPECT_GT(relative_error(out.select(1, kClosed - 1), other.select(1, kClosed - 1)), 1e-3);
}

TEST(Based, IsSoftmaxForSmallScores) {
  torch::manual_seed(9);
  auto in = random_core(2, 30, 16, 8);
  in.q = in.q * 0.1, in.k = in.k * 0.1;
  const auto expected_logits = torch::matmul(in.q, in.k.transpose(2, 3)) / 4;
  ASSERT_LT(expected_logits.abs().max().item<double>(), 0.1);
  const auto hidden = torch::ones({30, 30}, torch::kBool).triu(1);
  const auto expected = torch::matmul(torch::softmax(expected_logits.masked_fill(hidden, -INFINITY), 3), in.v);
  auto mixer = wide_mixer("based", {{"dim", 16}, {"heads", 2}});
  // exp(s) - (1 + s + s^2 / 2) is below 0.1^3 / 6 e^0.1.
  EXPECT_LT(relative_error(mixer->mix(in), expected), 1e-3);
}

TEST(BaseConv, IsAGatedConvolution) {
  torch::manual_seed(9);
  torch::NoGradGuard no_grad;
  auto mixer = wide_mixer("base_conv", {{"dim", 5}});
  auto p = mixer->named_parameters();
  MixerInput in;
  in.x = torch::randn({2, 9, 5}, torch::kFloat64);
  const auto u = torch::matmul(in.x, p["in_proj.weight"].t());
  const auto before = torch::constant_pad_nd(u.narrow(2, 0, 10), {0, 0, 2, 0}), taps = p["conv.weight"];
  auto sum = torch::zeros({2, 9, 10}, torch::kFloat64);
  for (int64_t i = 0; i < 3; ++i) sum += before.narrow(1, i, 9) * taps[i];
  const auto expected = torch::matmul(torch::silu(sum) * u.narrow(2, 10, 10), p["o_proj.weight"].t());
  EXPECT_LT(relative_error(mixer->forward(in), expected), kDouble);
}

TEST(TaylorFeatures, MultiplyToTheSeries) {
  torch::manual_seed(10);
  const auto q = torch::randn({50, 7}, torch::kFloat64), k = torch::randn({50, 7}, torch::kFloat64);
  const auto s = (q * k).sum(1) / std::sqrt(7.0);
  const auto features = nn::taylor_features(q);
  EXPECT_EQ(features.size(1), 1 + 7 + 28);
  EXPECT_LT(relative_error((features * nn::taylor_features(k)).sum(1), 1 + s + s * s / 2), kDouble);
}

TEST(Performer, FeaturesEstimateTheExponential) {
  torch::manual_seed(11);
  const auto q = torch::randn({8}, torch::kFloat64) * 0.2, k = torch::randn({8}, torch::kFloat64) * 0.2;
  constexpr int64_t kDraws = 4000, kRows = 32;
  const auto estimates = [&](bool orthogonal) {
    std::vector<double> all;
    for (int64_t draw = 0; draw < kDraws; ++draw) {
      const auto rows = orthogonal ? nn::orthogonal_rows(kRows, 8, draw).to(torch::kFloat64)
                                   : torch::randn({kRows, 8}, torch::kFloat64);
      const auto logits = nn::positive_feature_logits(q, rows) + nn::positive_feature_logits(k, rows);
      all.push_back(torch::exp(logits).mean().item<double>());
    }
    return torch::tensor(all, torch::kFloat64);
  };
  const double expected = std::exp((q * k).sum().item<double>());
  const auto orthogonal = estimates(true), independent = estimates(false);
  const double error = orthogonal.std().item<double>() / std::sqrt(double(kDraws));
  EXPECT_NEAR(orthogonal.mean().item<double>(), expected, 3 * error);
  EXPECT_LT(orthogonal.var().item<double>(), independent.var().item<double>());
}

TEST(Performer, CausalIsTheMaskedProductOfFeatures) {
  torch::manual_seed(12);
  // The same floor on features and no other state: causal rows of the last token equal the bidirectional ones.
  const json config{{"dim", 12}, {"heads", 2}, {"features", 24}};
  auto with = [&](bool causal) {
    auto c = config;
    c["causal"] = causal;
    return wide_mixer("performer", c);
  };
  const auto in = random_core(2, 19, 6, 6);
  const auto causal = with(true)->mix(in);
  for (const int64_t n : {int64_t{1}, int64_t{7}, int64_t{19}}) {
    const CoreInput part{in.q.slice(2, 0, n), in.k.slice(2, 0, n), in.v.slice(2, 0, n)};
    EXPECT_LT(relative_error(causal.select(2, n - 1), with(false)->mix(part).select(2, n - 1)), kDouble) << n;
  }
}

TEST(FlowAttention, EqualTokensCompeteForEqualShares) {
  torch::manual_seed(13);
  const auto one = [](int64_t n) { return torch::randn({1, 2, 1, 5}, torch::kFloat64).expand({1, 2, n, 5}); };
  const auto v = torch::randn({1, 2, 9, 5}, torch::kFloat64);
  auto mixer = wide_mixer("flow_attention", {{"dim", 10}, {"heads", 2}, {"causal", false}, {"eps", 0.0}});
  const auto out = mixer->mix({one(9), one(9), v});
  const auto expected = torch::sigmoid(torch::ones({1}, torch::kFloat64)) * v.mean(2, true);
  EXPECT_LT(relative_error(out, expected.expand_as(out)), kDouble);
}

TEST(FlowAttention, TheLengthOfAllKeysOrQueriesDoesNotMatter) {
  // sigmoid(x) times a: sigmoid(x') = a sigmoid(x) for all entries, so inputs are made from the wanted features.
  torch::manual_seed(14);
  const auto features = torch::rand({1, 2, 9, 5}, torch::kFloat64) * 0.4 + 0.05,
             other = torch::rand({1, 2, 9, 5}, torch::kFloat64) * 0.4 + 0.05;
  const auto v = torch::randn({1, 2, 9, 5}, torch::kFloat64);
  auto mixer = wide_mixer("flow_attention", {{"dim", 10}, {"heads", 2}, {"causal", false}, {"eps", 0.0}});
  const auto out = mixer->mix({torch::logit(other), torch::logit(features), v});
  EXPECT_LT(relative_error(mixer->mix({torch::logit(other), torch::logit(2 * features), v}), out), kDouble);
  EXPECT_LT(relative_error(mixer->mix({torch::logit(2 * other), torch::logit(features), v}), out), kDouble);
}

/// flow_attention without causal and eps by its formulas, with what flows named.
struct Flows {
  Tensor into_sinks, out_of_sources, competition, out;  ///< Ih [.., n, 1], Oh, m softmax(Oh), R
};
Flows flows(const CoreInput& in) {
  const auto q = torch::sigmoid(in.q), k = torch::sigmoid(in.k);
  const double n = double(q.size(2)), m = double(k.size(2));
  const auto map = torch::matmul(q, k.transpose(2, 3));
  const auto incoming = map.sum(3, true), outgoing = map.sum(2, true);
  Flows f;
  f.into_sinks = (map / outgoing).sum(3, true);
  f.out_of_sources = (map / incoming).sum(2, true);
  f.competition = m * torch::softmax(f.out_of_sources, 3);
  f.out = torch::sigmoid(f.into_sinks * (n / m)) * torch::matmul(map / incoming * f.competition, in.v);
  return f;
}

TEST(FlowAttention, ConservesWhatFlows) {
  torch::manual_seed(15);
  const auto draw = [](int64_t n) { return torch::randn({2, 2, n, 5}, torch::kFloat64); };
  const CoreInput in{draw(11), draw(17), draw(17)};
  const auto f = flows(in);
  EXPECT_LT(relative_error(f.into_sinks.sum(2), torch::full({2, 2, 1}, 17.0)), kDouble);
  EXPECT_LT(relative_error(f.out_of_sources.sum(3), torch::full({2, 2, 1}, 11.0)), kDouble);
  EXPECT_LT(relative_error(f.competition.sum(3), torch::full({2, 2, 1}, 17.0)), kDouble);
  auto mixer =
      wide_mixer("flow_attention", {{"dim", 10}, {"heads", 2}, {"causal", false}, {"eps", 0.0}, {"clamp", 80.0}});
  EXPECT_LT(relative_error(mixer->mix(in), f.out), kDouble);
}

/// Causal flow_attention of one head without eps, token by token: q, k [N, d], v [N, dv].
Tensor causal_flows(const Tensor& q_logits, const Tensor& k_logits, const Tensor& v, double clamp) {
  const auto q = torch::sigmoid(q_logits), k = torch::sigmoid(k_logits), map = torch::matmul(q, k.t());
  const int64_t tokens = q.size(0);
  const auto flow = [&](int64_t sink, int64_t source) { return map[sink][source].item<double>(); };
  std::vector<double> incoming(size_t(tokens), 0), outgoing(size_t(tokens), 0), strength;
  std::vector<Tensor> rows;
  for (int64_t i = 0; i < tokens; ++i)
    for (int64_t j = 0; j <= i; ++j) incoming[size_t(i)] += flow(i, j), outgoing[size_t(i)] += flow(j, i);
  for (int64_t i = 0; i < tokens; ++i) {
    double into = 0, out_of = 0;
    for (int64_t j = 0; j <= i; ++j) {
      const double share = double(j + 1) / double(i + 1);
      into += flow(i, j) * share / outgoing[size_t(j)];
      out_of += flow(j, i) * share / incoming[size_t(j)];
    }
    strength.push_back(std::exp(std::clamp(out_of, -clamp, clamp)));
    auto row = torch::zeros_like(v[0]);
    double all = 0;
    for (int64_t j = 0; j <= i; ++j) {
      all += strength[size_t(j)];
      row += flow(i, j) / incoming[size_t(i)] * (double(j + 1) * strength[size_t(j)] / all) * v[j];
    }
    rows.push_back(row / (1 + std::exp(-into)));
  }
  return torch::stack(rows);
}

TEST(FlowAttention, CausalFlowsAreSumsOverThePast) {
  torch::manual_seed(26);
  const auto in = random_core(2, 19, 5);
  for (const double clamp : {1.0, 80.0}) {
    auto mixer = wide_mixer("flow_attention", {{"dim", 10}, {"heads", 2}, {"clamp", clamp}, {"eps", 0.0}});
    const auto out = mixer->mix(in);
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t h = 0; h < 2; ++h)
        EXPECT_LT(relative_error(out[b][h], causal_flows(in.q[b][h], in.k[b][h], in.v[b][h], clamp)), kDouble) << clamp;
  }
}

TEST(FlowAttention, ACausalTokenMovesItsOwnOutputAndLaterOnes) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(27);
  constexpr int64_t kTokens = 12;
  auto mixer = wide_mixer("flow_attention", {{"dim", 10}, {"heads", 2}});
  const auto in = test::random_tokens(1, kTokens, 10);
  const auto out = mixer->forward(in);
  for (int64_t s = 0; s < kTokens; ++s) {
    auto changed = in;
    changed.x = in.x.clone();
    changed.x[0][s].add_(1);
    const auto moved = (mixer->forward(changed) - out).abs().amax({0, 2});
    for (int64_t t = 0; t < kTokens; ++t)
      if (t < s)
        EXPECT_EQ(moved[t].item<double>(), 0) << s << " " << t;
      else
        EXPECT_GT(moved[t].item<double>(), 1e-9) << s << " " << t;
  }
}

TEST(FlowAttention, PaddingWithoutEpsIsAsIfItWereNotThere) {
  torch::manual_seed(16);
  for (const bool causal : {true, false}) {
    auto mixer = wide_mixer("flow_attention", {{"dim", 10}, {"heads", 2}, {"causal", causal}, {"eps", 0.0}});
    MixerInput in, rest;
    in.x = torch::randn({2, 13, 10}, torch::kFloat64).requires_grad_();
    in.key_padding = torch::zeros({2, 13}, torch::kBool);
    in.key_padding->select(0, 0).slice(0, 0, 4).fill_(true);
    in.key_padding->select(0, 1).fill_(true);
    const auto out = mixer->forward(in);
    EXPECT_TRUE(test::all_finite(out)) << causal;
    EXPECT_TRUE(test::all_finite(torch::autograd::grad({out.square().sum()}, {in.x})[0])) << causal;
    rest.x = in.x.narrow(0, 0, 1).slice(1, 4);
    EXPECT_LT(relative_error(out.narrow(0, 0, 1).slice(1, 4), mixer->forward(rest)), kDouble) << causal;
  }
}

TEST(PlainLinearAttention, IsItsFormula) {
  torch::manual_seed(17);
  const auto in = random_core(2, 70, 6, 6);
  for (const auto* map : {"elu_plus_one", "relu", "exp"})
    for (const bool causal : {true, false}) {
      auto mixer =
          wide_mixer("linear_attention", {{"dim", 12}, {"heads", 2}, {"causal", causal}, {"feature_map", map}});
      const auto kind = nn::feature_map(map);
      auto scores = torch::matmul(nn::apply(kind, in.q), nn::apply(kind, in.k).transpose(2, 3));
      if (causal) scores = scores.tril();
      const auto expected = torch::matmul(scores / scores.sum(3, true).clamp_min(1e-6), in.v);
      EXPECT_LT(relative_error(mixer->mix(in), expected), kDouble) << map << causal;
    }
  EXPECT_THROW(make_mixer("linear_attention", {{"feature_map", "silu"}}), Error);
}

TEST(NormAttention, IsNormalisedAttentionUpToAFactorAToken) {
  torch::manual_seed(18);
  // One head, so that the norm over all channels is that of a head.
  auto normed = wide_mixer("norm_attention", {{"dim", 8}, {"heads", 1}});
  auto divided = wide_mixer("linear_attention", {{"dim", 8}, {"heads", 1}});
  copy_weights(*divided, *normed);
  MixerInput in;
  in.x = torch::randn({2, 31, 8}, torch::kFloat64);
  torch::NoGradGuard no_grad;
  for (auto* mixer : {normed.get(), divided.get()})
    mixer->named_parameters()["o_proj.weight"].copy_(torch::eye(8, torch::kFloat64));
  const auto attended = divided->forward(in);
  const auto expected = attended * torch::rsqrt(attended.square().mean(2, true));
  // eps of the norm, 1e-6, beside mean squares of sums without a denominator, which are above 1e-3.
  EXPECT_LT(relative_error(normed->forward(in), expected), 1e-3);
}

TEST(NormAttention, ADenominatorsGradientIsNotBounded) {
  // p_j = s_j / sum s has dp_j / ds_j = p_j (1 - p_j) / s_j, at most 1 / (4 s_j); softmax's is at most 1 / 4.
  torch::manual_seed(19);
  const auto s = (torch::rand({200}, torch::kFloat64) * 1e-3 + 1e-6).requires_grad_();
  const auto p = s / s.sum(), softmax = torch::softmax(s, 0);
  double largest = 0;
  for (int64_t j = 0; j < 200; j += 17) {
    const double of_share = torch::autograd::grad({p[j]}, {s}, {}, true)[0][j].item<double>(),
                 of_softmax = torch::autograd::grad({softmax[j]}, {s}, {}, true)[0][j].item<double>();
    const double share = p[j].item<double>(), score = s[j].item<double>();
    EXPECT_NEAR(of_share, share * (1 - share) / score, 1e-9 * of_share);
    EXPECT_LE(of_share, 1 / (4 * score));
    EXPECT_LE(of_softmax, 0.25);
    largest = std::max(largest, of_share);
  }
  EXPECT_GT(largest, 1);
}

TEST(Transnormer, HasTheParametersOfItsFormula) {
  constexpr int64_t kDim = 24, kHeads = 3, kSize = kDim / kHeads;
  const auto count = [](const char* name, const json& config) {
    int64_t sum = 0;
    for (const auto& parameter : make_mixer(name, config)->parameters()) sum += parameter.numel();
    return sum;
  };
  // q, k, v, o and a gate of rank d_head; nothing of the norm and the decays.
  EXPECT_EQ(count("tnl", {{"dim", kDim}, {"heads", kHeads}}), 4 * kDim * kDim + 2 * kDim * kSize);
  // A whole gate, and the angles of every channel of keys.
  EXPECT_EQ(count("transnormer_llm", {{"dim", kDim}, {"heads", kHeads}}), 5 * kDim * kDim + kDim);
}

TEST(Transnormer, TurnsDependOnDistancesAlone) {
  torch::manual_seed(15);
  auto mixer = wide_mixer("transnormer_llm", {{"dim", 24}, {"heads", 3}});
  MixerInput near, far;
  near.x = far.x = torch::randn({1, 40, 24}, torch::kFloat64);
  near.layer = far.layer = {0, 4};
  far.positions = torch::arange(1000, 1040);
  EXPECT_LT(relative_error(mixer->forward(far), mixer->forward(near)), kDouble);
}

TEST(Transnormer, WithoutAnglesTurnsAreNone) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(20);
  auto turned = wide_mixer("transnormer_llm", {{"dim", 24}, {"heads", 3}});
  auto plain = wide_mixer("transnormer_llm", {{"dim", 24}, {"heads", 3}, {"lrpe", false}});
  for (auto& entry : plain->named_parameters()) entry.value().copy_(turned->named_parameters()[entry.key()]);
  auto in = test::random_tokens(2, 30, 24);
  in.layer = {0, 4};
  EXPECT_GT(relative_error(turned->forward(in), plain->forward(in)), 1e-3);
  turned->named_parameters()["theta"].zero_();
  EXPECT_LT(relative_error(turned->forward(in), plain->forward(in)), kDouble);
}

// Heads are apart but for the norm over all of them, which knows no order: what changes places with them is their rows
// of the projections, and their decays.
TEST(Transnormer, HeadsMayChangePlacesWithTheirDecays) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(21);
  constexpr int64_t kHeads = 2, kSize = 8, kDim = kHeads * kSize;
  auto mixer = wide_mixer("tnl", {{"dim", kDim}, {"heads", kHeads}});
  auto in = test::random_tokens(1, 20, kDim);
  in.layer = {1, 4};
  const auto p = mixer->named_parameters();
  const auto heads_of = [&](const char* name) {
    return torch::silu(in.x.matmul(p[name].t())).view({20, kHeads, kSize}).transpose(0, 1);
  };
  const auto q = heads_of("q_proj.weight"), k = heads_of("k_proj.weight"), v = heads_of("v_proj.weight");
  const auto distance = torch::arange(20).unsqueeze(1) - torch::arange(20);
  const auto output = [&](const std::vector<int64_t>& order) {
    const auto at = torch::tensor(order);
    const auto slope = nn::alibi_slopes(kHeads).to(torch::kFloat64).index_select(0, at) * (1 - 1.0 / 3 + 1e-5);
    const auto decay = torch::exp(-slope.view({-1, 1, 1}) * distance).masked_fill(distance < 0, 0);
    const auto attended = (q.index_select(0, at).matmul(k.index_select(0, at).transpose(1, 2)) * decay)
                              .matmul(v.index_select(0, at));  // [H, 20, size]
    const auto joined = attended.transpose(0, 1).reshape({20, kDim});
    const auto normed = joined * torch::rsqrt(joined.square().mean(1, true) + 1e-6);
    const auto moved = [&](const char* name, int64_t dim) {
      const auto w = p[name];
      return dim == 0 ? w.view({kHeads, kSize, -1}).index_select(0, at).reshape(w.sizes())
                      : w.view({-1, kHeads, kSize}).index_select(1, at).reshape(w.sizes());
    };
    const auto gate =
        torch::sigmoid(in.x[0].matmul(p["gate_down.weight"].t()).matmul(moved("gate_proj.weight", 0).t()));
    return (normed * gate).matmul(moved("o_proj.weight", 1).t());
  };
  const auto out = mixer->forward(in)[0];
  // Decays are made in float32.
  EXPECT_LT(relative_error(output({0, 1}), out), 1e-6);
  EXPECT_LT(relative_error(output({1, 0}), out), 1e-6);
}

TEST(Transnormer, DecaysAreThoseOfTheLayer) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(28);
  constexpr int64_t kHeads = 4, kSize = 6, kDim = kHeads * kSize, kTokens = 40, kLayers = 3;
  const auto distance = torch::arange(kTokens).unsqueeze(1) - torch::arange(kTokens);
  for (const std::string decay : {"alibi", "paper", "none"}) {
    auto mixer = wide_mixer("tnl", {{"dim", kDim}, {"heads", kHeads}, {"decay", decay}, {"gate", "none"}});
    scatter(*mixer);
    const auto p = mixer->named_parameters();
    auto in = test::random_tokens(1, kTokens, kDim);
    const auto heads = [&](const char* name) { return torch::silu(by_head(p, name, in.x[0], kHeads)); };
    const auto q = heads("q_proj"), k = heads("k_proj"), v = heads("v_proj");
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      in.layer = {layer, kLayers};
      std::vector<Tensor> outs;
      for (int64_t h = 0; h < kHeads; ++h) {
        double slope = 0;
        if (decay == "alibi")  // of four heads: 2^-2, 2^-4, ...; of the last layer 1e-5 of it
          slope = std::exp2(-2.0 * double(h + 1)) * (1 - double(layer) / (kLayers - 1) + 1e-5);
        if (decay == "paper") slope = 8.0 * double(h + 1) / kHeads * (1 - double(layer) / kLayers);
        const auto kept = torch::exp(-slope * distance.to(torch::kFloat64)).masked_fill(distance < 0, 0);
        outs.push_back(torch::matmul(torch::matmul(q[h], k[h].t()) * kept, v[h]));
      }
      const auto joined = torch::cat(outs, 1);
      const auto normed = joined * torch::rsqrt(joined.square().mean(1, true) + 1e-6);
      // Exponents x are made in float32, 6e-8 of x off: at most 6e-8 / e of exp(-x).
      EXPECT_LT(relative_error(mixer->forward(in)[0], torch::matmul(normed, p["o_proj.weight"].t())), 1e-6)
          << decay << layer;
    }
  }
}

TEST(Transnormer, DeeperLayersForgetLess) {
  torch::manual_seed(16);
  auto mixer = wide_mixer("tnl", {{"dim", 24}, {"heads", 3}, {"norm", "layer"}});
  MixerInput in, changed;
  in.x = changed.x = torch::randn({1, 60, 24}, torch::kFloat64);
  changed.x = in.x.clone();
  changed.x.select(1, 0).mul_(-1);
  double last = 0;
  for (int64_t layer = 0; layer < 4; ++layer) {
    in.layer = changed.layer = {layer, 4};
    const double reach = relative_error(mixer->forward(changed).select(1, 59), mixer->forward(in).select(1, 59));
    EXPECT_GT(reach, last) << "layer " << layer;
    last = reach;
  }
}

}  // namespace
}  // namespace heed::linear_attention_test
