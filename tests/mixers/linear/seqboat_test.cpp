// The card of seqboat: a dense gated attention unit where everything is active, none where nothing is.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "mixers/linear/linear_support.h"

namespace heed::seqboat_test {
namespace {

using test::relative_error;
using torch::Tensor;

constexpr int64_t kDim = 8;

std::shared_ptr<TokenMixer> in_double(const nlohmann::json& own) {
  nlohmann::json config{{"dim", kDim}, {"ema_dim", 3}, {"window", 40}, {"distances", 8}};
  config.update(own);
  torch::manual_seed(7);
  auto mixer = make_mixer("seqboat", config);
  mixer->to(torch::kFloat64);
  torch::NoGradGuard no_grad;
  for (auto& parameter : mixer->parameters()) parameter.add_(torch::randn_like(parameter) * 0.3);
  return mixer;
}

/// Sends every token to the attention (`share` 1) or none (0).
void route(TokenMixer& mixer, double share) {
  torch::NoGradGuard no_grad;
  auto bias = mixer.named_parameters()["router.bias"];
  bias[0] = share > 0 ? -30 : 30;
  bias[1] = 0;
}

Tensor forward(TokenMixer& mixer, const Tensor& x) {
  MixerInput in;
  in.x = x;
  return mixer.forward(in);
}

/// The decaying sums of one direction over u [B, N, C], the own token included, step by step.
Tensor one_way(TokenMixer& mixer, const Tensor& u, int64_t direction) {
  auto p = mixer.named_parameters();
  const auto of = [&](const char* name) { return p[std::string("ema.") + name][direction]; };
  const auto take = torch::sigmoid(of("delta")), fade = 1 - take * torch::sigmoid(of("alpha"));
  auto h = torch::zeros({u.size(0), kDim, 3}, u.options());
  std::vector<Tensor> rows;
  for (int64_t t = 0; t < u.size(1); ++t) {
    h = fade * h + take * of("beta") * u.select(1, t).unsqueeze(2);
    rows.push_back((of("gamma") * h).sum(2) / std::sqrt(3.0));
  }
  return torch::stack(rows, 1);
}

/// silu of the moving average of the normed tokens; where there are two directions, the second begins at the next
/// token.
Tensor average(TokenMixer& mixer, const Tensor& x) {
  auto p = mixer.named_parameters();
  const auto normed = torch::layer_norm(x, {kDim}, p["norm.weight"], p["norm.bias"]);
  auto sums = one_way(mixer, normed, 0) + p["ema.omega"] * normed;
  if (p["ema.delta"].size(0) == 2) {
    const auto behind = one_way(mixer, normed.flip(1), 1).flip(1).slice(1, 1);
    sums = sums + torch::constant_pad_nd(behind, {0, 0, 0, 1});
  }
  return torch::silu(sums);
}

Tensor project(TokenMixer& mixer, const std::string& name, const Tensor& x) {
  auto p = mixer.named_parameters();
  return torch::matmul(x, p[name + ".weight"].t()) + p[name + ".bias"];
}

TEST(SeqBoat, WithoutActiveTokensOnlyTheAverageSpeaks) {
  auto mixer = in_double(nlohmann::json::object());
  route(*mixer, 0);
  const auto x = torch::randn({2, 17, kDim}, torch::kFloat64);
  const auto routed = project(*mixer, "router", average(*mixer, x));
  EXPECT_LT(relative_error(forward(*mixer, x), torch::silu(routed.narrow(2, 2, kDim) + x)), 1e-12);
}

/// By distances [N, N] between original places.
Tensor bias_of(TokenMixer& mixer, const Tensor& distance) {
  const auto p = mixer.named_parameters();
  if (const auto* table = p.find("distance_bias")) return table->index({distance.clamp(-8, 8) + 8});
  // A product of rotated vectors: pairs (c, c + half) that turn by 10000^(-c / half) a place.
  const auto query = p["query_bias"], key = p["key_bias"];
  const int64_t half = query.size(0) / 2;
  auto sum = torch::zeros(distance.sizes(), torch::kFloat64);
  for (int64_t c = 0; c < half; ++c) {
    const auto angle = distance.to(torch::kFloat64) * std::pow(10000.0, -double(c) / double(half));
    sum += (query[c] * key[c] + query[c + half] * key[c + half]) * angle.cos() +
           (query[c] * key[c + half] - query[c + half] * key[c]) * angle.sin();
  }
  return sum;
}

/// Active tokens see active ones less than `window` of them back, or to both sides, through a dense mask.
Tensor dense(TokenMixer& mixer, const Tensor& x, int64_t window, bool softmax, bool causal = true) {
  auto p = mixer.named_parameters();
  const int64_t tokens = x.size(1);
  const auto m = average(mixer, x), routed = project(mixer, "router", m);
  const auto chance = torch::softmax(routed.narrow(2, 0, 2) / torch::exp(p["log_temperature"]), 2).narrow(2, 1, 1);
  const auto active = chance.squeeze(2) > 0.5, rank = active.cumsum(1);
  const auto behind = rank.unsqueeze(2) - rank.unsqueeze(1), place = torch::arange(tokens);
  auto visible =
      (behind.abs() < window).logical_and(active.unsqueeze(1)).logical_and(active.unsqueeze(2));  // [B, N, N]
  if (causal) visible = visible.logical_and(place.unsqueeze(1) >= place);
  const auto z = torch::silu(project(mixer, "z_proj", m)), r = torch::silu(project(mixer, "r_proj", m)),
             v = torch::silu(project(mixer, "v_proj", m));
  const auto affine = p["affine"];
  const auto q = z * affine[0][0] + affine[1][0], k = z * affine[0][1] + affine[1][1];
  const auto bias = bias_of(mixer, place.unsqueeze(1) - place);
  const auto scores = torch::matmul(q, k.transpose(1, 2)), hidden = visible.logical_not();
  const auto logits = (scores / std::sqrt(static_cast<double>(kDim / 2)) + bias).masked_fill(hidden, -1e30);
  const auto weights = softmax ? torch::softmax(logits, -1).masked_fill(hidden, 0)
                               : torch::relu(scores / static_cast<double>(causal ? window : 2 * window) + bias)
                                     .pow(2)
                                     .masked_fill(hidden, 0);
  const auto unit =
      project(mixer, "o_proj", torch::matmul(weights, v) * r).masked_fill(active.logical_not().unsqueeze(2), 0);
  return torch::silu(routed.narrow(2, 2, kDim) + unit * chance + x);
}

TEST(SeqBoat, WithEverythingActiveItIsADenseUnit) {
  for (const bool softmax : {false, true})
    for (const char* bias : {"table", "rotary"}) {
      auto mixer = in_double({{"normalizer", softmax ? "softmax" : "relu2"}, {"bias", bias}});
      route(*mixer, 1);
      const auto x = torch::randn({2, 23, kDim}, torch::kFloat64);
      EXPECT_LT(relative_error(forward(*mixer, x), dense(*mixer, x, 40, softmax)), 1e-12) << softmax << bias;
    }
}

/// Half of the tokens are active.
void route_half(TokenMixer& mixer, const Tensor& x) {
  torch::NoGradGuard no_grad;
  const auto routed = project(mixer, "router", average(mixer, x)), lead = routed.select(2, 1) - routed.select(2, 0);
  // Between two tokens, so that rounding decides of none.
  const auto sorted = std::get<0>(lead.flatten().sort());
  const auto border = sorted.narrow(0, sorted.size(0) / 2 - 1, 2).mean();
  mixer.named_parameters()["router.bias"][1].sub_(border);
  EXPECT_GT((lead > border).sum(1).min().item<int64_t>(), x.size(1) / 5);
}

TEST(SeqBoat, AWindowCountsActiveTokens) {
  for (const auto& [window, bias] : {std::pair{1, "table"}, {5, "table"}, {5, "rotary"}}) {
    auto mixer = in_double({{"window", window}, {"temperature", 0.05}, {"normalizer", "softmax"}, {"bias", bias}});
    const auto x = torch::randn({2, 60, kDim}, torch::kFloat64);
    route_half(*mixer, x);
    torch::NoGradGuard no_grad;
    EXPECT_LT(relative_error(forward(*mixer, x), dense(*mixer, x, window, true)), 1e-12) << window;
  }
}

TEST(SeqBoat, BothSidesAreSeenWithoutCausal) {
  for (const int64_t window : {1, 5, 40})
    for (const bool softmax : {false, true})
      for (const char* bias : {"table", "rotary"}) {
        auto mixer = in_double({{"window", window},
                                {"temperature", 0.05},
                                {"normalizer", softmax ? "softmax" : "relu2"},
                                {"bias", bias},
                                {"causal", false}});
        const auto x = torch::randn({2, 50, kDim}, torch::kFloat64);
        route_half(*mixer, x);
        torch::NoGradGuard no_grad;
        EXPECT_LT(relative_error(forward(*mixer, x), dense(*mixer, x, window, softmax, false)), 1e-12)
            << window << softmax << bias;
      }
}

TEST(SeqBoat, StepsKnowTheOriginalPlaces) {
  for (const char* bias : {"table", "rotary"}) {
    auto mixer = in_double({{"window", 5}, {"temperature", 0.05}, {"bias", bias}});
    const auto x = torch::randn({2, 40, kDim}, torch::kFloat64);
    route_half(*mixer, x);
    torch::NoGradGuard no_grad;
    // Steps sum the average from its state, a whole sequence by FFT: 1e-12 of sums of order 1.
    EXPECT_LT(relative_error(test::in_parts(*mixer, x, {1, 7, 2, 11}), forward(*mixer, x)), 1e-11) << bias;
  }
}

TEST(SeqBoat, WhatIsActiveLaterChangesNothingBefore) {
  auto mixer = in_double({{"window", 4}, {"temperature", 0.05}});
  const auto x = torch::randn({2, 40, kDim}, torch::kFloat64);
  route_half(*mixer, x);
  torch::NoGradGuard no_grad;
  const auto before = forward(*mixer, x);
  for (const double scale : {-3.0, 5.0}) {
    auto changed = x.clone();
    changed.slice(1, 25).mul_(scale);
    EXPECT_LT(relative_error(forward(*mixer, changed).slice(1, 0, 25), before.slice(1, 0, 25)), 1e-11) << scale;
  }
}

TEST(SeqBoat, TheRouterLearnsThroughWhatItLetThrough) {
  auto mixer = in_double({{"temperature", 0.05}});
  forward(*mixer, torch::randn({2, 30, kDim}, torch::kFloat64)).square().sum().backward();
  const auto grad = mixer->named_parameters()["router.weight"].grad();
  EXPECT_TRUE(test::all_finite(grad));
  EXPECT_GT(grad.slice(0, 0, 2).abs().max().item<double>(), 0);
}

TEST(SeqBoat, WrongSettingsAreNamed) {
  EXPECT_THROW(make_mixer("seqboat", {{"window", 0}}), Error);
  EXPECT_THROW(make_mixer("seqboat", {{"normalizer", "relu"}}), Error);
  EXPECT_THROW(make_mixer("seqboat", {{"bias", "alibi"}}), Error);
  EXPECT_THROW(make_mixer("seqboat", {{"temperature", -1.0}}), Error);
}

}  // namespace
}  // namespace heed::seqboat_test
