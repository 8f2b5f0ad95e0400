#include "heed/kernels/partial.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <random>
#include <vector>

#include "support/tensor.h"

namespace heed::testing::partial_test {
namespace {

using kernels::join_sink;
using kernels::merge;

constexpr int64_t kSize = 5;

struct Partial {
  std::array<float, kSize> o{};
  float lse = -INFINITY;
};

Partial merged(Partial a, const Partial& b) {
  merge(a.o.data(), a.lse, b.o.data(), b.lse, kSize);
  return a;
}

struct Keys {
  std::vector<double> logits;
  std::vector<std::array<double, kSize>> values;

  // Softmax over keys [begin, end), in double.
  Partial attend(size_t begin, size_t end) const {
    Partial p;
    double sum = 0;
    for (size_t j = begin; j < end; ++j) sum += std::exp(logits[j]);
    if (sum == 0) return p;
    p.lse = static_cast<float>(std::log(sum));
    for (int64_t d = 0; d < kSize; ++d) {
      double o = 0;
      for (size_t j = begin; j < end; ++j) o += std::exp(logits[j]) / sum * values[j][d];
      p.o[d] = static_cast<float>(o);
    }
    return p;
  }
};

Keys draw(std::mt19937_64& random, size_t count) {
  std::normal_distribution<double> normal;
  Keys keys;
  for (size_t j = 0; j < count; ++j) {
    keys.logits.push_back(3 * normal(random));
    keys.values.emplace_back();
    for (double& value : keys.values.back()) value = normal(random);
  }
  return keys;
}

// An lse near 8 carries a rounding error of about 2^-22 in a weight of either side.
void expect_near(const Partial& a, const Partial& b) {
  EXPECT_NEAR(a.lse, b.lse, 2e-6);
  for (int64_t d = 0; d < kSize; ++d) EXPECT_NEAR(a.o[d], b.o[d], 5e-6);
}

TEST(Partial, AnySplitIsTheWhole) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    HEED_SEED(random, seed);
    const Keys keys = draw(random, 40);
    const size_t first = random() % 41, second = first + random() % (41 - first);
    const Partial a = keys.attend(0, first), b = keys.attend(first, second), c = keys.attend(second, 40);
    const Partial whole = keys.attend(0, 40);
    expect_near(merged(merged(a, b), c), whole);
    expect_near(merged(a, merged(b, c)), whole);
    expect_near(merged(merged(c, a), b), whole);
  }
}

TEST(Partial, EmptySidesAreNeutral) {
  HEED_SEED(random, 4);
  const Keys keys = draw(random, 9);
  const Partial full = keys.attend(0, 9), empty;
  for (const Partial& p : {merged(full, empty), merged(empty, full)}) {
    EXPECT_EQ(p.lse, full.lse);
    EXPECT_EQ(p.o, full.o);
  }
  const Partial nothing = merged(empty, empty);
  EXPECT_EQ(nothing.lse, -INFINITY);
  EXPECT_EQ(nothing.o, empty.o);
}

TEST(Partial, FarApartSidesDoNotOverflow) {
  Partial a{{1, 1, 1, 1, 1}, 3000}, b{{2, 2, 2, 2, 2}, -3000};
  EXPECT_EQ(merged(a, b).o, a.o);
  EXPECT_EQ(merged(b, a).o, a.o);
  EXPECT_EQ(merged(b, a).lse, 3000);
}

TEST(Partial, TheSinkIsOneMoreKeyOfValueZero) {
  HEED_SEED(random, 5);
  Keys keys = draw(random, 12);
  Partial p = keys.attend(0, 12);
  join_sink(p.o.data(), p.lse, 1.5f, kSize);
  keys.logits.push_back(1.5);
  keys.values.push_back({});
  expect_near(p, keys.attend(0, 13));

  Partial none = keys.attend(0, 13);
  join_sink(none.o.data(), none.lse, -INFINITY, kSize);
  EXPECT_EQ(none.o, keys.attend(0, 13).o);

  Partial empty;
  join_sink(empty.o.data(), empty.lse, 0.25f, kSize);
  EXPECT_EQ(empty.lse, 0.25f);
  EXPECT_EQ(empty.o, Partial().o);
}

TEST(Partial, NaNStays) {
  Partial a{{NAN, 0, 0, 0, 0}, NAN}, b{{1, 1, 1, 1, 1}, 0};
  EXPECT_TRUE(std::isnan(merged(a, b).lse));
  EXPECT_TRUE(std::isnan(merged(b, a).o[0]));
  EXPECT_TRUE(std::isnan(merged(a, Partial()).lse));
  EXPECT_TRUE(std::isnan(merged(Partial(), a).lse));
}

}  // namespace
}  // namespace heed::testing::partial_test
