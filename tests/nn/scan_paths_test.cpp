// Paths over a grid: permutations, their sums, neighbours.
#include "heed/nn/scan_paths.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::nn::scan_paths_test {
namespace {

using torch::Tensor;

TEST(ScanPaths, EveryPathVisitsEveryCellOnceAndComesBack) {
  for (const auto& kind : ScanPaths::kinds()) {
    for (const auto& [height, width] : {std::pair<int64_t, int64_t>{1, 1}, {4, 4}, {3, 5}, {6, 1}}) {
      const ScanPaths paths(kind, height, width);
      const int64_t cells = height * width;
      ASSERT_EQ(paths.order.sizes(), (std::vector<int64_t>{ScanPaths::count(kind), cells}));
      EXPECT_TRUE(torch::equal(std::get<0>(paths.order.sort(1))[0], torch::arange(cells)));
      EXPECT_TRUE(torch::equal(paths.order.gather(1, paths.inverse), torch::arange(cells).expand_as(paths.order)));
      const auto x = torch::randn({2, cells, 3}, torch::kFloat64);
      EXPECT_LT(test::relative_error(paths.merge(paths.scan(x)), x * paths.order.size(0)), 1e-15) << kind;
    }
  }
}

TEST(ScanPaths, MergeIsTheTransposeOfScan) {
  for (const auto& kind : ScanPaths::kinds()) {
    const ScanPaths paths(kind, 3, 4);
    torch::manual_seed(2);
    const auto x = torch::randn({2, 12, 3}, torch::kFloat64),
               y = torch::randn({2, 12, paths.order.size(0), 3}, torch::kFloat64);
    EXPECT_NEAR((paths.scan(x) * y).sum().item<double>(), (x * paths.merge(y)).sum().item<double>(), 1e-12) << kind;
  }
}

TEST(ScanPaths, TheOrderIsRowsColumnsAndBothBackwards) {
  const ScanPaths paths("cross", 2, 3);
  EXPECT_TRUE(torch::equal(
      paths.order,
      torch::tensor({{0, 1, 2, 3, 4, 5}, {0, 3, 1, 4, 2, 5}, {5, 4, 3, 2, 1, 0}, {5, 2, 4, 1, 3, 0}}, torch::kInt64)));
}

TEST(ScanPaths, NeighboursFollowEachOtherOnASnake) {
  for (const auto& [height, width] : {std::pair<int64_t, int64_t>{4, 4}, {3, 5}, {5, 3}}) {
    const ScanPaths paths("snake", height, width);
    const auto row = paths.order.div(width, "floor"), column = paths.order.remainder(width);
    const auto distance = row.diff(1, 1).abs() + column.diff(1, 1).abs();
    EXPECT_TRUE(torch::equal(distance, torch::ones_like(distance)));
  }
}

TEST(ScanPaths, UnknownKindsAreNamed) {
  EXPECT_THROW(ScanPaths("snak", 2, 2), Error);
  EXPECT_THROW(ScanPaths("cross", -1, 2), Error);
}

}  // namespace
}  // namespace heed::nn::scan_paths_test
