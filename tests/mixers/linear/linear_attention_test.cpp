// The cards of linear attention over sequences, against their formulas in double.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/nn/feature_map.h"
#include "heed/nn/random_features.h"
#include "heed/ops/delta_chunk.h"
#include "mixers/linear/linear_support.h"

namespace heed::linear_attention_test {
namespace {

using nlohmann::json;
using test::by_head;
using test::copy_weights;
using test::kDouble;
using test::normed_heads;
using test::random_core;
using test::relative_error;
using test::scatter;
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

}  // namespace
}  // namespace heed::linear_attention_test
