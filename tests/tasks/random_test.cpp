#include "heed/tasks/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "kernels/philox.h"

namespace heed::tasks::random_test {
namespace {

// The vectors of the authors' own test (Random123, kat_vectors, philox4x32 10).
TEST(Random, PhiloxGivesThePublishedWords) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(kernels::philox(0, {0, 0, 0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(kernels::philox(UINT64_MAX, {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(kernels::philox(0x299f31d0a4093822, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, WordsFollowTheDocumentedCounter) {
  const uint64_t key = 77, sample = (uint64_t{5} << 32) + 3;
  Random random(key, sample);
  for (uint32_t block = 0; block < 3; ++block) {
    const auto words = kernels::philox(key, {block, 0, 3, 5});
    for (const uint32_t word : words) EXPECT_EQ(random.word(), word);
  }
}

TEST(Random, StreamsDiffer) {
  std::set<uint64_t> keys;
  for (const char* task : {"a", "b"}) {
    for (const Split split : {Split::train, Split::valid, Split::test}) {
      for (const uint64_t seed : {0, 1}) keys.insert(stream_key(task, split, seed));
    }
  }
  EXPECT_EQ(keys.size(), 12u);
}

TEST(Random, IntegersAreUniform) {
  constexpr uint64_t kSides = 7;
  constexpr int kRolls = 70'000;
  std::array<double, kSides> counts{};
  Random random(1, 0);
  for (int i = 0; i < kRolls; ++i) ++counts[random.below(kSides)];
  double chi2 = 0;
  for (const double n : counts) chi2 += (n - kRolls / 7.0) * (n - kRolls / 7.0) / (kRolls / 7.0);
  EXPECT_LT(chi2, 22.46);  // 6 degrees of freedom, 1 in 1000
  EXPECT_GT(chi2, 0.38);   // too even is as suspicious
}

TEST(Random, RangesAndExtremes) {
  Random random(2, 0);
  std::set<int64_t> seen;
  for (int i = 0; i < 200; ++i) seen.insert(random.between(-2, 2));
  EXPECT_EQ(seen, (std::set<int64_t>{-2, -1, 0, 1, 2}));
  EXPECT_EQ(random.between(9, 9), 9);
  (void)random.between(INT64_MIN, INT64_MAX);
  EXPECT_EQ(random.below(1), 0u);
  EXPECT_LT(random.below(UINT64_MAX), UINT64_MAX);
}

TEST(Random, MomentsOfUniformAndNormal) {
  constexpr int n = 100'000;
  Random random(3, 0);
  double u = 0, z = 0, z2 = 0;
  for (int i = 0; i < n; ++i) {
    const double x = random.uniform(), y = random.normal();
    ASSERT_GE(x, 0);
    ASSERT_LT(x, 1);
    u += x, z += y, z2 += y * y;
  }
  const double four_sigma = 4 / std::sqrt(double{n});
  EXPECT_NEAR(u / n, 0.5, four_sigma * std::sqrt(1 / 12.0));
  EXPECT_NEAR(z / n, 0, four_sigma);
  EXPECT_NEAR(z2 / n, 1, four_sigma * std::sqrt(2.0));
}

TEST(Random, DistinctNumbers) {
  for (uint64_t sample = 0; sample < 50; ++sample) {
    Random random(4, sample);
    const auto numbers = random.distinct(10, 12);
    EXPECT_EQ(std::set<int64_t>(numbers.begin(), numbers.end()).size(), 10u);
    for (const int64_t x : numbers) EXPECT_TRUE(x >= 0 && x < 12);
  }
  // All 6 ordered pairs of {0, 1, 2} are equally likely.
  std::array<double, 9> counts{};
  for (uint64_t sample = 0; sample < 6000; ++sample) {
    const auto pair = Random(5, sample).distinct(2, 3);
    ++counts[static_cast<size_t>(3 * pair[0] + pair[1])];
  }
  for (size_t i = 0; i < 9; ++i)
    EXPECT_NEAR(counts[i], i % 4 == 0 ? 0 : 1000, i % 4 == 0 ? 0 : 4 * std::sqrt(1000 * 5 / 6.0));
}

}  // namespace
}  // namespace heed::tasks::random_test
