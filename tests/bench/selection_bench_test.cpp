#include "heed/bench/selection_bench.h"

#include <gtest/gtest.h>

#include <cmath>

#include "heed/bench/kernel_case.h"
#include "heed/error.h"

namespace heed::bench::selection_bench_test {
namespace {

TEST(SelectionBench, TheExponentIsThatOfAPowerLaw) {
  Growth growth{"", {}, {1000, 2000, 4000, 8000}, {}};
  for (const int64_t n : growth.lengths) growth.seconds.push_back(3e-7 * std::pow(static_cast<double>(n), 1.4));
  EXPECT_NEAR(growth.exponent(), 1.4, 1e-9);
}

TEST(SelectionBench, DensityAndShareAreThoseOfTheLists) {
  const auto result = measure_dynamic_selection(512, 32, 0.25, 1);
  EXPECT_EQ(result.density, 0.25);
  EXPECT_GT(result.select_seconds, 0);
  const DynamicSelection known{512, 32, 0.25, 1, 2, 9};
  EXPECT_DOUBLE_EQ(known.speed_up(), 3);
  EXPECT_DOUBLE_EQ(known.efficiency(), 0.75);
  EXPECT_THROW(measure_dynamic_selection(512, 32, 0.01, 1), Error);
}

TEST(SelectionBench, GrowthTimesEveryLength) {
  const auto growth = measure_growth("hip_attention", {{"budget", 32}}, {64, 128}, 1);
  ASSERT_EQ(growth.seconds.size(), 2u);
  for (const double seconds : growth.seconds) EXPECT_GT(seconds, 0);
  EXPECT_THROW(measure_growth("hip_attention", {}, {64}, 1), Error);
}

TEST(KernelCase, ADensityIsAShareOfTheBlocksWithTheOwnOne) {
  const OwnedBlockList owned("random 0.1", 1280, 1280, 64);
  for (int64_t row = 0; row < 20; ++row) {
    const auto begin = owned.columns.begin() + owned.offsets[row], end = owned.columns.begin() + owned.offsets[row + 1];
    EXPECT_EQ(end - begin, 2);
    EXPECT_NE(std::find(begin, end, row), end);
  }
  EXPECT_THROW(OwnedBlockList("random 1.5", 64, 64, 64), Error);
  EXPECT_THROW(OwnedBlockList("striped", 64, 64, 64), Error);
}

}  // namespace
}  // namespace heed::bench::selection_bench_test
