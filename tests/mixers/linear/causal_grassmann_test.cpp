// The card of causal_grassmann: planes by their Pluecker coordinates, and the MLP of the same lags to compare with.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "mixers/linear/linear_support.h"

namespace heed::causal_grassmann_test {
namespace {

using nlohmann::json;
using test::in_parts;
using test::kDouble;
using test::random_tokens;
using test::relative_error;
using test::wide_mixer;
using torch::Tensor;

const auto kWide = torch::TensorOptions(torch::kFloat64);

Tensor mapped(TokenMixer& mixer, const std::string& name, const Tensor& x) {
  const auto p = mixer.named_parameters();
  return torch::matmul(p[name + ".weight"], x) + p[name + ".bias"];
}

/// alpha h + (1 - alpha) g of one token.
Tensor gated(TokenMixer& mixer, const Tensor& h, const Tensor& g) {
  const auto alpha = torch::sigmoid(mapped(mixer, "gate_proj", torch::cat({h, g})));
  return alpha * h + (1 - alpha) * g;
}

TEST(CausalGrassmann, ParallelTokensHaveFiniteGradients) {
  torch::manual_seed(5);
  auto mixer = wide_mixer("causal_grassmann", {{"dim", 12}, {"rank", 5}, {"lags", {1, 3}}});
  MixerInput in;
  in.x = torch::randn({1, 1, 12}, kWide).expand({1, 9, 12}).clone().requires_grad_();
  const auto grad = torch::autograd::grad({mixer->forward(in).square().sum()}, {in.x})[0];
  EXPECT_TRUE(test::all_finite(grad));
}

TEST(CausalGrassmann, IsItsFormula) {
  torch::manual_seed(6);
  auto mixer = wide_mixer("causal_grassmann", {{"dim", 6}, {"rank", 4}, {"lags", {1, 3}}, {"norm", false}});
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
    rows.push_back(gated(*mixer, in.x[0][t], g));
  }
  EXPECT_LT(relative_error(mixer->forward(in)[0], torch::stack(rows)), kDouble);
}

TEST(CausalGrassmann, KnowsPlanesNotTheVectorsThatSpanThem) {
  torch::manual_seed(7);
  const int64_t rank = 5;
  // With the identity in front, two tokens are the two vectors; alpha = 0 leaves the lifted plane.
  auto mixer = wide_mixer("causal_grassmann", {{"dim", rank}, {"rank", rank}, {"lags", {1}}, {"norm", false}});
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

TEST(CausalGrassmann, AResidualAddsTheToken) {
  torch::manual_seed(8);
  torch::NoGradGuard no_grad;
  json config{{"dim", 6}, {"rank", 4}, {"lags", {1, 3}}, {"norm", false}};
  auto plain = wide_mixer("causal_grassmann", config);
  config["residual"] = true;
  auto residual = wide_mixer("causal_grassmann", config);
  test::copy_weights(*residual, *plain);
  const auto in = random_tokens(2, 10, 6);
  EXPECT_LT(relative_error(residual->forward(in), in.x + plain->forward(in)), kDouble);
  config["norm"] = true;
  auto normed = wide_mixer("causal_grassmann", config);
  test::copy_weights(*normed, *plain);
  EXPECT_LT(relative_error(normed->forward(in), torch::layer_norm(residual->forward(in), {6})), kDouble);
}

TEST(CausalGrassmann, ConcatenatedLagsGoThroughAnMlp) {
  torch::manual_seed(9);
  torch::NoGradGuard no_grad;
  for (const bool causal : {true, false}) {
    auto mixer = wide_mixer("causal_grassmann", {{"dim", 6},
                                                 {"rank", 4},
                                                 {"lags", {1, 3}},
                                                 {"norm", false},
                                                 {"pairs", "concatenated"},
                                                 {"hidden", 5},
                                                 {"causal", causal}});
    for (auto& parameter : mixer->parameters()) parameter.normal_();
    const auto in = random_tokens(1, 10, 6);
    const auto reduced = [&](int64_t t) {
      return t < 0 || t >= 10 ? torch::zeros({4}, kWide) : mapped(*mixer, "reduce", in.x[0][t]);
    };
    std::vector<Tensor> rows;
    for (int64_t t = 0; t < 10; ++t) {
      std::vector<Tensor> near{reduced(t)};
      for (const int64_t lag : {1, 3}) {
        near.push_back(reduced(t - lag));
        if (!causal) near.push_back(reduced(t + lag));
      }
      rows.push_back(
          gated(*mixer, in.x[0][t], mapped(*mixer, "down", torch::gelu(mapped(*mixer, "up", torch::cat(near))))));
    }
    EXPECT_LT(relative_error(mixer->forward(in)[0], torch::stack(rows)), kDouble) << causal;
    if (causal) {
      EXPECT_LT(relative_error(in_parts(*mixer, in.x, {1, 2, 4}), torch::stack(rows).unsqueeze(0)), kDouble);
    }
    auto padded = in;
    padded.key_padding = torch::zeros({1, 10}, torch::kBool);
    padded.key_padding->slice(1, 2, 4).fill_(true);
    const auto before = mixer->forward(padded);
    padded.x = padded.x.clone();
    padded.x.slice(1, 2, 4).add_(3);
    EXPECT_TRUE(torch::equal(mixer->forward(padded).slice(1, 4), before.slice(1, 4))) << causal;
  }
}

TEST(CausalGrassmann, TheMlpHasAboutAsManyParameters) {
  const auto size = [](const char* pairs, bool causal) {
    auto mixer = make_mixer("causal_grassmann", {{"dim", 256}, {"pairs", pairs}, {"causal", causal}});
    int64_t count = 0;
    for (const auto& parameter : mixer->parameters()) count += parameter.numel();
    return static_cast<double>(count);
  };
  for (const bool causal : {true, false})
    EXPECT_NEAR(size("concatenated", causal) / size("planes", causal), 1, 0.01) << causal;
  EXPECT_THROW(make_mixer("causal_grassmann", {{"pairs", "planes"}, {"hidden", 8}}), Error);
  EXPECT_THROW(make_mixer("causal_grassmann", {{"pairs", "triples"}}), Error);
}

}  // namespace
}  // namespace heed::causal_grassmann_test
