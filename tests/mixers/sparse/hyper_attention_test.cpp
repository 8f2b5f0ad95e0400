#include <gtest/gtest.h>

#include "heed/attention.h"
#include "heed/error.h"
#include "heed/mixers/token_mixer.h"
#include "support/mixer_support.h"
#include "support/torch_support.h"

namespace heed::hyper_attention_test {
namespace {

using nlohmann::json;
using test::relative_error;
using torch::Tensor;

CoreInput input(int64_t n, int64_t m, uint64_t seed = 1) {
  torch::manual_seed(seed);
  CoreInput in{torch::randn({1, 2, n, 8}), torch::randn({1, 2, m, 8}), torch::randn({1, 2, m, 8})};
  in.seed = seed;
  return in;
}

Tensor hyper(json config, const CoreInput& in) {
  config.update({{"dim", 16}, {"heads", 2}});
  if (!config.contains("exact_length")) config["exact_length"] = 0;
  auto mixer = make_mixer("hyper_attention", config);
  mixer->eval();
  torch::NoGradGuard no_grad;
  return mixer->mix(in);
}

TEST(Hyper, OneBlockOrAWholeSampleIsDense) {
  const auto in = input(37, 53);
  const auto dense = attention(in.q, in.k, in.v);
  for (const char* alignment : {"place", "rank"})
    EXPECT_LT(
        relative_error(hyper({{"causal", false}, {"block", 53}, {"samples", 0}, {"alignment", alignment}}, in), dense),
        test::kForwardTolerance);
  EXPECT_LT(relative_error(hyper({{"causal", false}, {"block", 0}, {"whole_sample", true}}, in), dense),
            test::kForwardTolerance);
  // A block and all else, each key once, is everything once.
  EXPECT_LT(relative_error(hyper({{"causal", false}, {"block", 7}, {"whole_sample", true}}, in), dense),
            test::kForwardTolerance);
}

TEST(Hyper, SomeLayersAttendExactly) {
  test::expect_dense_layers("hyper_attention", {{"block", 4}, {"samples", 3}, {"exact_length", 0}});
}

TEST(Hyper, CausalRecursionIsExactWithExactParts) {
  const auto in = input(61, 61);
  AttentionOptions options;
  options.mask = Causal{};
  const auto dense = attention(in.q, in.k, in.v, options);
  for (const int64_t exact : {0, 1, 5, 16, 60, 61})
    EXPECT_LT(relative_error(hyper({{"block", 61}, {"samples", 0}, {"exact_length", exact}}, in), dense),
              test::kForwardTolerance)
        << exact;
}

TEST(Hyper, ManyDrawsEstimateTheRest) {
  // The mean of 20000 draws lies within 1 % of the sum, whatever the order of the hashes.
  auto in = input(24, 160);
  in.q = in.q * 0.5;
  const auto dense = attention(in.q, in.k, in.v);
  for (const char* sampling : {"alike", "values"})
    for (int64_t seed = 0; seed < 3; ++seed) {
      const auto out =
          hyper({{"causal", false}, {"block", 16}, {"samples", 20000}, {"sampling", sampling}, {"seed", seed}}, in);
      EXPECT_LT((out - dense).norm().item<double>() / in.v.norm().item<double>(), 0.01) << sampling << " seed " << seed;
    }
}

/// Few keys carry nearly all there is to be summed: draws by length find them, and the sum of weights is still of all.
TEST(Hyper, LongValuesAreDrawnMoreOften) {
  constexpr int64_t kKeys = 160, kSeeds = 20;
  auto in = input(24, kKeys, 5);
  in.q = in.q * 0.5;
  in.v = in.v * (torch::arange(kKeys) % 40 == 7).to(torch::kFloat32).view({1, 1, kKeys, 1});
  const auto dense = attention(in.q, in.k, in.v);
  const auto error = [&](const char* sampling, int64_t block) {
    double sum = 0;
    for (int64_t seed = 0; seed < kSeeds; ++seed)
      sum += relative_error(
          hyper({{"causal", false}, {"block", block}, {"samples", 64}, {"sampling", sampling}, {"seed", seed}}, in),
          dense);
    return sum / double(kSeeds);
  };
  for (const int64_t block : {0, 16}) EXPECT_LT(error("values", block), 0.5 * error("alike", block)) << block;
  in.v.zero_();
  EXPECT_EQ(
      hyper({{"causal", false}, {"block", 16}, {"samples", 8}, {"sampling", "values"}}, in).abs().max().item<float>(),
      0);
}

TEST(Hyper, DrawsByValuesLeavePaddingAndOtherSequencesAlone) {
  torch::manual_seed(6);
  CoreInput in{torch::randn({2, 2, 40, 8}), torch::randn({2, 2, 40, 8}), torch::randn({2, 2, 40, 8})};
  in.key_padding = torch::zeros({2, 40}, torch::kBool);
  in.key_padding->select(0, 1).slice(0, 25).fill_(true);
  const json config{{"causal", false}, {"block", 4}, {"samples", 6}, {"sampling", "values"}, {"bits", 3}};
  const auto before = hyper(config, in);
  auto changed = in;
  for (Tensor* x : {&changed.k, &changed.v}) {
    *x = x->clone();
    x->select(0, 1).slice(1, 25).mul_(9).add_(1);
    x->select(0, 0).neg_();
  }
  const auto after = hyper(config, changed);
  EXPECT_TRUE(torch::equal(after[1], before[1]));
  EXPECT_FALSE(torch::equal(after[0], before[0]));
  in.key_padding->fill_(true);
  EXPECT_TRUE(test::all_finite(hyper(config, in)));
}

TEST(Hyper, NoPartSeesBehindItsBorder) {
  for (const int64_t n : {16, 33}) {
    const auto in = input(n, n);
    for (const char* sampling : {"alike", "values"}) {
      const json config{{"block", 4}, {"samples", 3}, {"exact_length", 4}, {"bits", 3}, {"sampling", sampling}};
      const auto before = hyper(config, in);
      for (const int64_t t : {n / 2 - 1, n / 2, n / 4, 3 * n / 4}) {
        auto changed = in;
        for (Tensor* x : {&changed.q, &changed.k, &changed.v}) {
          *x = x->clone();
          x->slice(2, t + 1).mul_(-2).add_(1);
        }
        EXPECT_TRUE(torch::equal(hyper(config, changed).slice(2, 0, t + 1), before.slice(2, 0, t + 1))) << t;
      }
    }
  }
}

TEST(Hyper, HashingFindsNearKeysWhereThereAreAny) {
  // Planted: each query has one key near it, longer than the rest; isotropic: there is nothing to find.
  constexpr int64_t kTokens = 256, kSize = 16;
  const auto error = [&](bool planted, int64_t bits, int64_t seed) {
    torch::manual_seed(40 + seed);
    CoreInput in{torch::randn({1, 1, kTokens, kSize}), torch::randn({1, 1, kTokens, kSize}),
                 torch::randn({1, 1, kTokens, kSize})};
    if (planted) in.k = in.q.index_select(2, torch::randperm(kTokens)) * 2 + torch::randn({1, 1, kTokens, kSize}) * 0.1;
    const auto dense = attention(in.q, in.k, in.v);
    auto mixer = make_mixer("hyper_attention", {{"dim", kSize},
                                                {"heads", 1},
                                                {"causal", false},
                                                {"exact_length", 0},
                                                {"block", 32},
                                                {"samples", 32},
                                                {"bits", bits},
                                                {"seed", seed}});
    mixer->eval();
    torch::NoGradGuard no_grad;
    if (bits == 1) mixer->named_buffers()["directions"].zero_();  // one bucket: blocks by number, no hash
    return relative_error(mixer->mix(in), dense);
  };
  double hashed = 0, unhashed = 0, hashed_isotropic = 0, unhashed_isotropic = 0;
  for (int64_t seed = 0; seed < 6; ++seed) {
    hashed += error(true, 6, seed), unhashed += error(true, 1, seed);
    hashed_isotropic += error(false, 6, seed), unhashed_isotropic += error(false, 1, seed);
  }
  EXPECT_LT(hashed, 0.8 * unhashed);
  EXPECT_GT(hashed_isotropic, 0.8 * unhashed_isotropic);
}

TEST(Hyper, StepsBehindAPromptAreExact) {
  auto mixer =
      make_mixer("hyper_attention", {{"dim", 16}, {"heads", 2}, {"exact_length", 4}, {"block", 4}, {"samples", 3}});
  auto dense = make_mixer("dense", {{"dim", 16}, {"heads", 2}});
  mixer->eval(), dense->eval();
  torch::NoGradGuard no_grad;
  auto target = dense->named_parameters();
  for (const auto& p : mixer->named_parameters()) target[p.key()].copy_(p.value());
  auto state = mixer->make_state(1), exact = dense->make_state(1);
  MixerInput prompt, step;
  prompt.x = torch::randn({1, 20, 16});
  step.x = torch::randn({1, 1, 16});
  EXPECT_GT(relative_error(mixer->forward(prompt, state.get()), dense->forward(prompt, exact.get())), 1e-4);
  EXPECT_LT(relative_error(mixer->forward(step, state.get()), dense->forward(step, exact.get())), 1e-6);
}

}  // namespace
}  // namespace heed::hyper_attention_test
