// The checks of the position_encodings card.
#include "heed/nn/positions.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::nn::positions_test {
namespace {

using test::relative_error;
using torch::Tensor;

Tensor rotated(const Tensor& row, int64_t position, const RopeConfig& config) {
  return apply_rope(row.view({1, 1, 1, -1}), torch::tensor({position}), config).flatten();
}

TEST(Rope, ScoresDependOnTheDistanceAlone) {
  torch::manual_seed(1);
  const auto q = torch::randn({16}, torch::kFloat64), k = torch::randn({16}, torch::kFloat64);
  for (const bool interleaved : {false, true})
    for (const int64_t rotary : {0, 8}) {
      RopeConfig config;
      config.interleaved = interleaved;
      config.rotary_dim = rotary;
      const auto score = [&](int64_t m, int64_t n) {
        return rotated(q, m, config).dot(rotated(k, n, config)).item<double>();
      };
      EXPECT_NEAR(score(7, 3), score(1004, 1000), 1e-10);
      EXPECT_NEAR(score(0, 0), q.dot(k).item<double>(), 1e-12);
      EXPECT_GT(std::abs(score(7, 3) - score(8, 3)), 1e-6);
      EXPECT_NEAR(rotated(q, 123, config).norm().item<double>(), q.norm().item<double>(), 1e-12);
    }
}

TEST(Rope, LayoutsAgreeAfterThePermutation) {
  torch::manual_seed(2);
  const auto x = torch::randn({12}, torch::kFloat64);
  RopeConfig half, pairs;
  pairs.interleaved = true;
  // Pair (j, j + 6) of the half-split layout is pair (2 j, 2 j + 1) of the interleaved one.
  const auto permutation = torch::tensor({0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11});
  EXPECT_LT(relative_error(rotated(x.index({permutation}), 9, pairs), rotated(x, 9, half).index({permutation})), 1e-14);
}

TEST(Rope, FactorOneChangesNothing) {
  const auto plain = rope_frequencies({}, 64);
  for (const char* scaling : {"linear", "ntk", "dynamic", "yarn", "llama3"}) {
    RopeConfig config;
    config.scaling = scaling;
    config.original_length = 64;
    EXPECT_LT(relative_error(rope_frequencies(config, 64, 64), plain), 1e-12) << scaling;
    EXPECT_EQ(rope_magnitude(config), 1) << scaling;
  }
}

TEST(Rope, LongRopeDividesByTheFactorsOfTheLength) {
  RopeConfig config;
  config.scaling = "longrope";
  config.factor = 4;
  config.original_length = 16;
  config.short_factors = {1, 2};
  config.long_factors = {3, 5};
  const auto plain = rope_frequencies({}, 4);
  EXPECT_LT(relative_error(rope_frequencies(config, 4, 16), plain / torch::tensor({1.0, 2.0}, torch::kFloat64)), 1e-15);
  EXPECT_LT(relative_error(rope_frequencies(config, 4, 17), plain / torch::tensor({3.0, 5.0}, torch::kFloat64)), 1e-15);
  EXPECT_NEAR(rope_magnitude(config), std::sqrt(1 + std::log(4) / std::log(16)), 1e-15);
  config.attention_factor = 1.25;
  EXPECT_EQ(rope_magnitude(config), 1.25);
  EXPECT_EQ(RopeConfig::from_json(config.to_json(), "x").to_json(), config.to_json());
  EXPECT_THROW(rope_frequencies(config, 8, 4), Error);
  config.scaling = "yarn";
  EXPECT_EQ(rope_magnitude(config), 1.25);
}

TEST(Rope, YarnAndLlama3KeepTheFirstAndDivideTheLast) {
  for (const char* scaling : {"yarn", "llama3"}) {
    RopeConfig config;
    config.theta = 500000;
    config.scaling = scaling;
    config.factor = 8;
    config.original_length = 8192;
    const auto plain = rope_frequencies({.theta = 500000}, 128), scaled = rope_frequencies(config, 128);
    EXPECT_NEAR(plain[63].item<double>(), 2.455e-6, 1e-9);
    EXPECT_DOUBLE_EQ(scaled[0].item<double>(), plain[0].item<double>()) << scaling;
    EXPECT_NEAR(scaled[63].item<double>(), plain[63].item<double>() / 8, 1e-18) << scaling;
  }
}

TEST(Rope, ScalingsAreTheirFormulas) {
  const auto plain = rope_frequencies({}, 32);
  RopeConfig linear{.scaling = "linear", .factor = 4};
  EXPECT_LT(relative_error(rope_frequencies(linear, 32), plain / 4), 1e-14);
  RopeConfig ntk{.scaling = "ntk", .factor = 4};
  EXPECT_LT(relative_error(rope_frequencies(ntk, 32), rope_frequencies({.theta = 10000 * std::pow(4, 32.0 / 30)}, 32)),
            1e-14);
  RopeConfig dynamic{.scaling = "dynamic", .factor = 2, .original_length = 100};
  EXPECT_LT(relative_error(rope_frequencies(dynamic, 32, 100), plain), 1e-14);
  EXPECT_LT(relative_error(rope_frequencies(dynamic, 32, 300),
                           rope_frequencies({.theta = 10000 * std::pow(5, 32.0 / 30)}, 32)),
            1e-14);
}

TEST(Rope, BadConfigurationsAreRefused) {
  EXPECT_THROW(RopeConfig::from_json({{"scaling", "yran"}}, "test"), Error);
  EXPECT_THROW(RopeConfig::from_json({{"scaling", "yarn"}, {"factor", 4}}, "test"), Error);
  EXPECT_THROW(RopeConfig::from_json({{"factor", 0.5}}, "test"), Error);
  EXPECT_THROW(RopeConfig::from_json({{"thta", 1e4}}, "test"), Error);
  EXPECT_THROW(rope_frequencies({.rotary_dim = 7}, 16), Error);
  EXPECT_THROW(rope_frequencies({.rotary_dim = 32}, 16), Error);
}

TEST(Alibi, Slopes) {
  const auto eight = alibi_slopes(8);
  for (int i = 0; i < 8; ++i) EXPECT_FLOAT_EQ(eight[i].item<float>(), std::exp2(-float(i + 1)));
  const auto six = alibi_slopes(6);
  const float expected[] = {0.25f, 0.0625f, 0.015625f, 0.00390625f, std::exp2(-1.0f), std::exp2(-3.0f)};
  for (int i = 0; i < 6; ++i) EXPECT_FLOAT_EQ(six[i].item<float>(), expected[i]);
}

TEST(T5, Buckets) {
  const auto zero = torch::zeros({1}, torch::kInt64);
  const auto encoder = t5_buckets(zero, torch::tensor({0, -1, 1, -60, -200}), false);
  EXPECT_TRUE(torch::equal(encoder, torch::tensor({{0, 1, 17, 13, 15}})));
  const auto decoder = t5_buckets(zero, torch::tensor({0, -1, -15, -16, -1000, 5}), true);
  EXPECT_TRUE(torch::equal(decoder, torch::tensor({{0, 1, 15, 16, 31, 0}})));
}

TEST(Sinusoidal, IsSineAndCosine) {
  const auto table = sinusoidal(torch::tensor({0, 3}), 6);
  for (int i = 0; i < 3; ++i) {
    const double angle = 3 * std::pow(10000.0, -2.0 * i / 6);
    EXPECT_NEAR(table[1][2 * i].item<double>(), std::sin(angle), 1e-12);
    EXPECT_NEAR(table[1][2 * i + 1].item<double>(), std::cos(angle), 1e-12);
    EXPECT_EQ(table[0][2 * i].item<double>(), 0);
  }
}

}  // namespace
}  // namespace heed::nn::positions_test
