// The cards of attention by positive random features: performer and kernelized_rpe.
#include "heed/nn/random_features.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/ops/linear_chunk.h"
#include "mixers/linear/linear_support.h"

namespace heed::random_features_test {
namespace {

using nlohmann::json;
using test::kDouble;
using test::random_core;
using test::relative_error;
using test::wide_mixer;
using torch::Tensor;

Tensor past(int64_t n) { return torch::ones({n, n}, torch::kBool).tril(); }

/// Softmax attention whose exp(q . k / sqrt(d)) are estimated from `rows`, in logarithms throughout.
Tensor estimate(const CoreInput& in, Tensor rows, bool both_signs, const Tensor& seen) {
  rows = rows.to(torch::kFloat64);
  if (both_signs) rows = torch::cat({rows, -rows});
  const double root = std::pow(double(in.q.size(3)), -0.25);
  const auto q = nn::positive_feature_logits(in.q * root, rows), k = nn::positive_feature_logits(in.k * root, rows);
  const auto scores = torch::logsumexp(q.unsqueeze(3) + k.unsqueeze(2), {4});
  return torch::matmul(torch::softmax(scores.masked_fill(~seen, -INFINITY), 3), in.v);
}

TEST(Performer, EstimatesSoftmaxAttentionOfLargeHeads) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  constexpr int64_t kSize = 128, kTokens = 48;
  // Queries and keys of about 1 / d^(1/4), in four clusters, inside which q . k / sqrt(d) is 0.8, and 0 between them.
  auto in = random_core(1, kTokens, kSize, kSize, std::sqrt(0.2 / kSize));
  const auto centre =
      torch::eye(kSize, torch::kFloat64).index_select(0, torch::arange(kTokens).remainder(4)) * std::sqrt(0.8);
  const double root = std::pow(double(kSize), 0.25);
  in.q = (in.q + centre) * root, in.k = (in.k + centre) * root;
  const auto scores = torch::matmul(in.q, in.k.transpose(2, 3)) / std::sqrt(double(kSize));
  for (const bool causal : {true, false}) {
    const auto seen = causal ? past(kTokens) : torch::ones({kTokens, kTokens}, torch::kBool);
    const auto exact = torch::matmul(torch::softmax(scores.masked_fill(~seen, -INFINITY), 3), in.v);
    const auto mean = torch::matmul(seen.to(torch::kFloat64) / seen.sum(1, true), in.v).expand_as(exact);
    const double of_mean = (mean - exact).norm().item<double>();
    constexpr int64_t kDraws = 16;
    double error = 0;
    auto sum = torch::zeros_like(exact);
    for (int64_t seed = 0; seed < kDraws; ++seed) {
      const auto out =
          wide_mixer("performer",
                     {{"dim", kSize}, {"heads", 1}, {"features", 2048}, {"causal", causal}, {"seed", seed}})
              ->mix(in);
      error += (out - exact).norm().item<double>() / kDraws;
      sum += out / kDraws;
    }
    // |q + k|^2 < 4: the variance of a feature is below exp(4) of its square, so 2048 of them leave 0.16 of a weight of
    // at most exp(0.8), beside the exp(0.8) - 1 by which weights differ.
    EXPECT_LT(error, 0.3 * of_mean) << "causal " << causal;
    // What is left after averaging falls by 4 where there is no bias.
    EXPECT_LT((sum - exact).norm().item<double>(), 0.5 * error) << "causal " << causal;
  }
}

TEST(Performer, TheStabiliserCancels) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(2);
  constexpr int64_t kTokens = 70, kSize = 6;  // more than a chunk
  for (const auto* kind : {"softmax", "hyperbolic"})
    for (const bool causal : {true, false})
      for (const bool rising : {true, false}) {
        // Exponents of keys from about 0 to about -200, one way or the other.
        auto in = random_core(2, kTokens, kSize);
        auto length = torch::linspace(0.1, 8, kTokens, torch::kFloat64).view({1, 1, -1, 1});
        in.k = in.k * (rising ? length : length.flip(2));
        const json config{{"dim", 2 * kSize}, {"heads", 2},       {"features", 24},
                          {"eps", 0.0},       {"causal", causal}, {"feature_kind", kind}};
        auto mixer = wide_mixer("performer", config);
        const auto seen = causal ? past(kTokens) : torch::ones({kTokens, kTokens}, torch::kBool);
        const auto want = estimate(in, mixer->named_buffers()["rows"], std::string(kind) == "hyperbolic", seen);
        EXPECT_LT(relative_error(mixer->mix(in), want), 1e-9) << kind << causal << rising;
      }
}

TEST(Performer, StepsBehindPaddingAndPackedSequencesAreOneRun) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(3);
  auto mixer = wide_mixer("performer", {{"dim", 24}, {"heads", 3}, {"features", 20}, {"feature_kind", "hyperbolic"}});
  for (auto& parameter : mixer->parameters()) parameter.normal_();
  const auto x = torch::randn({2, 41, 24}, torch::kFloat64);
  auto padding = torch::zeros({2, 41}, torch::kBool);
  padding[0].slice(0, 0, 4).fill_(true), padding[1].slice(0, 17, 23).fill_(true);
  MixerInput all;
  all.x = x, all.key_padding = padding;
  const auto whole = mixer->forward(all);
  EXPECT_TRUE(test::all_finite(whole));
  auto state = mixer->make_state(2);
  std::vector<Tensor> parts;
  for (const auto& [begin, end] : {std::pair{0, 3}, {3, 4}, {4, 20}, {20, 21}, {21, 41}}) {
    MixerInput part;
    part.x = x.slice(1, begin, end), part.key_padding = padding.slice(1, begin, end);
    parts.push_back(mixer->forward(part, state.get()));
  }
  EXPECT_LT(relative_error(torch::cat(parts, 1), whole), kDouble);
  // Padding in front is as if nothing had been there.
  MixerInput rest, packed;
  rest.x = x.narrow(0, 0, 1).slice(1, 4);
  EXPECT_LT(relative_error(whole.narrow(0, 0, 1).slice(1, 4), mixer->forward(rest)), kDouble);
  packed.x = x.narrow(0, 0, 1), packed.cu_seqlens = torch::tensor({0, 4, 4, 41}, torch::kInt64);
  EXPECT_LT(relative_error(mixer->forward(packed).slice(1, 4), mixer->forward(rest)), kDouble);
}

/// exp(q . k) of q, k [d] estimated from `rows`, phi(q) . phi(k).
double product(const Tensor& q, const Tensor& k, const Tensor& rows) {
  const auto wide = rows.to(torch::kFloat64);
  return torch::exp(nn::positive_feature_logits(q, wide) + nn::positive_feature_logits(k, wide)).mean().item<double>();
}

/// Of estimates over draws.
struct Spread {
  double mean, variance;
  double of_mean, of_variance;  ///< standard errors
};

/// Of draws of `count` rows, Gaussian or orthogonal.
Spread over_draws(const Tensor& q, const Tensor& k, int64_t count, bool orthogonal) {
  constexpr int64_t kDraws = 4000;
  auto all = torch::empty({kDraws}, torch::kFloat64);
  for (int64_t draw = 0; draw < kDraws; ++draw)
    all[draw] = product(q, k,
                        orthogonal ? nn::orthogonal_rows(count, q.size(0), uint64_t(draw))
                                   : torch::randn({count, q.size(0)}, torch::kFloat64));
  const auto squares = (all - all.mean()).square();
  const auto number = [](const Tensor& t) { return t.item<double>(); };
  const double root = std::sqrt(double(kDraws));
  return {number(all.mean()), number(squares.mean()), number(all.std()) / root, number(squares.std()) / root};
}

TEST(RandomFeatures, EstimateExponentialsWithoutBias) {
  torch::manual_seed(6);
  // Alike and short: what orthogonality saves is the largest share there.
  const auto q = torch::full({8}, std::sqrt(0.1 / 8), torch::kFloat64), k = 1.1 * q;
  const auto orthogonal = over_draws(q, k, 32, true), gaussian = over_draws(q, k, 32, false),
             fewer = over_draws(q, k, 8, true);
  for (const auto& spread : {orthogonal, gaussian, fewer})
    EXPECT_LT(std::abs(spread.mean - std::exp(q.dot(k).item<double>())), 3 * spread.of_mean);
  // Orthogonal rows spread over the directions.
  EXPECT_LT(orthogonal.variance + 3 * std::hypot(orthogonal.of_variance, gaussian.of_variance), gaussian.variance);
  // A quarter of the features, twice the error.
  EXPECT_NEAR(fewer.variance, 4 * orthogonal.variance, 3 * std::hypot(fewer.of_variance, 4 * orthogonal.of_variance));
}

TEST(Performer, RectifiedFeaturesAreAMaskedProduct) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(7);
  const auto in = random_core(2, 70, 6);
  for (const bool causal : {true, false}) {
    auto mixer = wide_mixer("performer",
                            {{"dim", 12}, {"heads", 2}, {"features", 9}, {"feature_kind", "relu"}, {"causal", causal}});
    const auto rows = mixer->named_buffers()["rows"];
    const auto phi = [&](const Tensor& x) {
      return torch::relu(torch::matmul(x * std::pow(6.0, -0.25), rows.t())) + 1e-3;
    };
    auto weights = torch::matmul(phi(in.q), phi(in.k).transpose(2, 3));
    if (causal) weights = weights * past(70);
    EXPECT_LT(relative_error(mixer->mix(in), torch::matmul(weights / weights.sum(3, true), in.v)), kDouble) << causal;
  }
}

TEST(Performer, ItsEpsIsAddedToFeaturesWhoseLargestIsOne) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(8);
  constexpr double kEps = 0.05;
  const auto in = random_core(2, 21, 6);
  auto mixer = wide_mixer("performer", {{"dim", 12}, {"heads", 2}, {"features", 9}, {"causal", false}, {"eps", kEps}});
  const auto rows = mixer->named_buffers()["rows"];
  const auto logits = [&](const Tensor& x) { return nn::positive_feature_logits(x * std::pow(6.0, -0.25), rows); };
  const auto q = logits(in.q), k = logits(in.k);
  const auto weights = torch::matmul(torch::exp(q - q.amax(3, true)) + kEps,
                                     (torch::exp(k - k.amax({2, 3}, true)) + kEps).transpose(2, 3));
  EXPECT_LT(relative_error(mixer->mix(in), torch::matmul(weights / weights.sum(3, true), in.v)), kDouble);
}

/// A performer that draws rows anew every `redraw` steps.
std::shared_ptr<TokenMixer> redrawing(int64_t redraw) {
  auto mixer = wide_mixer("performer", {{"dim", 12}, {"heads", 2}, {"features", 9}, {"redraw", redraw}, {"seed", 5}});
  torch::NoGradGuard no_grad;
  for (auto& entry : mixer->named_parameters())
    if (entry.key() != "draws") entry.value().normal_();
  return mixer;
}

TEST(Performer, RowsAreDrawnAnewInTraining) {
  torch::manual_seed(9);
  auto mixer = redrawing(3);
  auto in = test::random_tokens(2, 7, 12);
  const auto rows = [&] { return mixer->named_buffers()["rows"].clone(); };
  const auto at_draw = [](int64_t draw) { return nn::orthogonal_rows(9, 6, uint64_t(5 + draw)).to(torch::kFloat64); };
  const auto step = [&](uint64_t seed) {
    in.seed = seed;
    return mixer->forward(in);
  };
  // Not while it is used.
  for (uint64_t seed = 100; seed < 110; ++seed) step(seed);
  EXPECT_TRUE(torch::equal(rows(), at_draw(0)));
  mixer->train();
  for (uint64_t seed = 0; seed < 9; ++seed) {
    const auto out = step(seed);
    // What a backward computes again has the step's seed, and its rows.
    EXPECT_TRUE(torch::equal(step(seed), out)) << seed;
    EXPECT_TRUE(torch::equal(rows(), at_draw(int64_t(seed) / 3))) << seed;
  }
}

TEST(Performer, GraphsOfEarlierStepsKeepTheirRows) {
  torch::manual_seed(10);
  auto mixer = redrawing(1);
  mixer->train();
  auto in = test::random_tokens(1, 5, 12);
  in.x.requires_grad_();
  const auto gradient = [&](bool redraw) {
    auto fresh = redrawing(1);
    fresh->train();
    test::copy_weights(*fresh, *mixer);
    in.seed = 1;
    const auto out = fresh->forward(in);
    if (redraw) in.seed = 2, fresh->forward(in);
    return torch::autograd::grad({out.square().sum()}, {in.x})[0];
  };
  EXPECT_TRUE(torch::equal(gradient(true), gradient(false)));
}

TEST(Performer, ASavedDrawComesBackAndEndsOldStates) {
  torch::manual_seed(11);
  auto mixer = redrawing(1);
  auto in = test::random_tokens(1, 5, 12);
  auto state = mixer->make_state(1);
  mixer->forward(in, state.get());
  mixer->train();
  for (uint64_t seed = 0; seed < 4; ++seed) in.seed = seed, mixer->forward(in);
  mixer->eval();
  EXPECT_THROW(mixer->forward(in, state.get()), Error);
  // Parameters alone say which draw it is.
  auto loaded = redrawing(1);
  test::copy_weights(*loaded, *mixer);
  EXPECT_TRUE(torch::equal(loaded->forward(in), mixer->forward(in)));
  EXPECT_TRUE(torch::equal(loaded->named_buffers()["rows"], nn::orthogonal_rows(9, 6, 5 + 3).to(torch::kFloat64)));
  auto fresh = mixer->make_state(1);
  EXPECT_NO_THROW(mixer->forward(in, fresh.get()));
}

TEST(Performer, FeaturesFollowTheHeadSizeWhereAsked) {
  const auto count = [](int64_t size) {
    auto mixer = make_mixer("performer", {{"dim", 2 * size}, {"heads", 2}, {"features", 0}});
    return mixer->named_buffers()["rows"].size(0);
  };
  EXPECT_EQ(count(64), std::llround(64 * std::log(64.0)));
  EXPECT_EQ(count(1), 1);
}

/// phi(x) of kernelized_rpe [.., m], by its formula; phi(q) . phi(k) estimates exp(temperature cos(q, k)).
Tensor unit_features(const Tensor& x, const Tensor& rows, double temperature = 1) {
  const auto unit = x / x.norm(2, -1, true) * std::sqrt(temperature);
  return torch::exp(torch::matmul(unit, rows.t()) - temperature / 2) / std::sqrt(double(rows.size(0)));
}

/// The dense O(T^2) formula with weights exp(b) by distance; bias [H, 2 length - 1] of lags i - j.
Tensor dense_relative(const CoreInput& in, const Tensor& rows, const Tensor& bias, bool causal) {
  const int64_t n = in.q.size(2), m = in.k.size(2), length = (bias.size(1) + 1) / 2;
  const auto lag = torch::arange(n).unsqueeze(1) - torch::arange(m);
  auto c = torch::exp(bias.index_select(1, (lag + length - 1).flatten()).view({1, -1, n, m}));
  if (causal) c = c.masked_fill(lag < 0, 0);
  const auto scores = torch::matmul(unit_features(in.q, rows), unit_features(in.k, rows).transpose(2, 3)) * c;
  return torch::matmul(scores / scores.sum(3, true), in.v);
}

TEST(KernelizedRpe, IsTheDenseFormulaWithRelativeWeights) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(4);
  for (const bool causal : {true, false}) {
    auto mixer = wide_mixer("kernelized_rpe",
                            {{"dim", 12}, {"heads", 2}, {"features", 9}, {"max_length", 40}, {"causal", causal}});
    const auto rows = mixer->named_buffers()["rows"];
    auto bias = mixer->named_parameters()["bias"];
    const auto in = random_core(2, 23, 6);
    // b = 0: plain normalised features.
    const auto q = unit_features(in.q, rows), k = unit_features(in.k, rows);
    ops::LinearChunkOptions options;
    options.normalize = true;
    const auto plain =
        causal ? ops::linear_chunk(q, k, in.v, {}, {}, options).out : ops::linear_noncausal(q, k, in.v, {}, true);
    EXPECT_LT(relative_error(mixer->mix(in), plain), kDouble) << causal;
    bias.normal_(0, 2);
    EXPECT_LT(relative_error(mixer->mix(in), dense_relative(in, rows, bias, causal)), kDouble) << causal;
  }
}

TEST(KernelizedRpe, AMemoryHasThePlacesOfItsTokens) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(7);
  auto mixer =
      wide_mixer("kernelized_rpe", {{"dim", 12}, {"heads", 2}, {"features", 9}, {"max_length", 40}, {"causal", false}});
  auto p = mixer->named_parameters();
  p["bias"].normal_(0, 2);
  const auto rows = mixer->named_buffers()["rows"];
  for (const int64_t keys : {1, 11, 23, 40}) {
    auto in = test::random_tokens(2, 23, 12);
    in.memory = torch::randn({2, keys, 12}, torch::kFloat64);
    const auto heads = [&](const char* name, const Tensor& x) {
      return torch::matmul(x, p[name].t()).unflatten(2, {2, 6}).transpose(1, 2);
    };
    const CoreInput core{heads("q_proj.weight", in.x), heads("k_proj.weight", *in.memory),
                         heads("v_proj.weight", *in.memory)};
    const auto read = dense_relative(core, rows, p["bias"], false).transpose(1, 2).flatten(2);
    EXPECT_LT(relative_error(mixer->forward(in), torch::matmul(read, p["o_proj.weight"].t())), kDouble) << keys;
  }
  auto in = test::random_tokens(1, 5, 12);
  in.memory = torch::randn({1, 41, 12}, torch::kFloat64);
  EXPECT_THROW(mixer->forward(in), Error);
}

TEST(KernelizedRpe, ATemperatureSharpensTheCosines) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(6);
  const auto in = random_core(2, 19, 6);
  for (const bool causal : {true, false})
    for (const double temperature : {0.25, 4.0}) {
      const auto with = [&](int64_t features) {
        return wide_mixer("kernelized_rpe", {{"dim", 12},
                                             {"heads", 2},
                                             {"features", features},
                                             {"max_length", 40},
                                             {"temperature", temperature},
                                             {"causal", causal}});
      };
      auto mixer = with(9);
      const auto rows = mixer->named_buffers()["rows"];
      auto scores =
          torch::matmul(unit_features(in.q, rows, temperature), unit_features(in.k, rows, temperature).transpose(2, 3));
      if (causal) scores = scores.tril();
      EXPECT_LT(relative_error(mixer->mix(in), torch::matmul(scores / scores.sum(3, true), in.v)), kDouble);
      // Many features come near exp(t cos): errors of a weight are of order exp(t) / sqrt(features).
      const auto unit = [](const Tensor& t) { return t / t.norm(2, -1, true); };
      auto logits = temperature * torch::matmul(unit(in.q), unit(in.k).transpose(2, 3));
      if (causal) logits = logits.masked_fill(~past(19), -INFINITY);
      const auto exact = torch::matmul(torch::softmax(logits, 3), in.v);
      constexpr int64_t kFeatures = 20000;
      EXPECT_LT(relative_error(with(kFeatures)->mix(in), exact), std::exp(temperature) / std::sqrt(double(kFeatures)));
    }
}

TEST(KernelizedRpe, MinusInfinityIsAWindow) {
  torch::manual_seed(5);
  constexpr int64_t kLength = 40, kReach = 3, kTokens = 23;
  for (const bool causal : {true, false}) {
    auto mixer = wide_mixer("kernelized_rpe",
                            {{"dim", 12}, {"heads", 2}, {"features", 9}, {"max_length", kLength}, {"causal", causal}});
    const auto rows = mixer->named_buffers()["rows"];
    auto bias = mixer->named_parameters()["bias"];
    {
      torch::NoGradGuard no_grad;
      bias.fill_(-INFINITY);
      bias.slice(1, kLength - 1 - kReach, kLength + kReach).normal_();
    }
    auto in = random_core(2, kTokens, 6);
    const auto out = mixer->mix(in);
    EXPECT_LT(relative_error(out, dense_relative(in, rows, bias.detach(), causal)), kDouble) << causal;
    const auto grad = torch::autograd::grad({out.square().sum()}, {bias})[0];
    EXPECT_TRUE(test::all_finite(grad));
    EXPECT_EQ(grad.slice(1, 0, kLength - 1 - kReach).abs().max().item<double>(), 0);
    // A value of weight exp(-10), which a clamp gives, would be seen.
    in.v = in.v.clone();
    in.v.select(2, 0).add_(1e6);
    const auto change = (mixer->mix(in) - out).abs().amax({0, 1, 3});
    EXPECT_LT(change.slice(0, kReach + 1).max().item<double>(), 1e6 * 1e-12) << causal;
    EXPECT_GT(change[kReach].item<double>(), 1) << causal;
  }
}

}  // namespace
}  // namespace heed::random_features_test
