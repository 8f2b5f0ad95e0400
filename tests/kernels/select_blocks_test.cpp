#include "heed/kernels/select_blocks.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "heed/error.h"
#include "heed/kernels/flash.h"
#include "support/tensor.h"

namespace heed::testing::select_blocks_test {
namespace {

using namespace kernels;

struct Random {
  std::mt19937_64& random;
  int64_t below(int64_t bound) const { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); }
  BlockGrid grid() const { return {1 + below(200), 1 + below(200), 1 + below(40), 1 + below(40)}; }
  /// Entries below `bound`, some of them -1.
  std::vector<int32_t> entries(int64_t count, int64_t bound) const {
    std::vector<int32_t> list(count);
    for (int32_t& entry : list) entry = static_cast<int32_t>(below(bound + 2)) - 2;
    for (int32_t& entry : list) entry = entry < 0 ? -1 : entry;
    return list;
  }
};

View<const int32_t> view_of(const std::vector<int32_t>& data, const std::array<int64_t, 4>& size) {
  return {data.data(), size, dense_strides(size)};
}

std::set<int32_t> blocks_of(const BlockListBuffer& lists, int64_t b, int64_t h, int64_t row) {
  const int64_t at = (b * lists.heads + h) * lists.grid.query_blocks() + row;
  const std::vector<int32_t> columns(lists.columns.begin() + lists.offsets[at],
                                     lists.columns.begin() + lists.offsets[at + 1]);
  EXPECT_TRUE(std::is_sorted(columns.begin(), columns.end()));
  const std::set<int32_t> set(columns.begin(), columns.end());
  EXPECT_EQ(set.size(), columns.size());
  return set;
}

TEST(SelectBlocks, RowsAndPairsHoldWhatWasListed) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    HEED_SEED(engine, seed);
    const Random random{engine};
    const BlockGrid grid = random.grid();
    const int64_t batch = 1 + random.below(2), heads = 1 + random.below(3), width = random.below(20);
    const int64_t rows = grid.query_blocks(), columns = grid.key_blocks();
    const std::vector<int32_t> by_row = random.entries(batch * heads * rows * width, columns);
    const BlockListBuffer of_rows = block_list_of_rows(view_of(by_row, {batch, heads, rows, width}), grid);
    const std::vector<int32_t> flat = random.entries(batch * heads * width, rows * columns);
    const BlockListBuffer of_pairs = block_list_of_pairs(view_of(flat, {batch, heads, 1, width}), grid);
    const BlockListBuffer both = unite(of_rows, of_pairs);
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t r = 0; r < rows; ++r) {
          std::set<int32_t> want, pairs;
          for (int64_t i = 0; i < width; ++i) {
            const int32_t entry = by_row[((b * heads + h) * rows + r) * width + i];
            const int32_t pair = flat[(b * heads + h) * width + i];
            if (entry >= 0) want.insert(entry);
            if (pair >= 0 && pair / columns == r) pairs.insert(static_cast<int32_t>(pair % columns));
          }
          ASSERT_EQ(blocks_of(of_rows, b, h, r), want);
          ASSERT_EQ(blocks_of(of_pairs, b, h, r), pairs);
          want.insert(pairs.begin(), pairs.end());
          ASSERT_EQ(blocks_of(both, b, h, r), want);
        }
      }
    }
  }
}

TEST(SelectBlocks, LinesAreTheBlocksThatHoldAPairOfThem) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    HEED_SEED(engine, seed);
    const Random random{engine};
    const BlockGrid grid = random.grid();
    const int64_t heads = 1 + random.below(2), width = random.below(6), others = random.below(6);
    const std::vector<int32_t> columns = random.entries(heads * width, grid.keys),
                               distances = random.entries(heads * others, grid.keys);
    const BlockListBuffer lists =
        block_list_of_lines(view_of(columns, {1, heads, 1, width}), view_of(distances, {1, heads, 1, others}), grid);
    for (int64_t h = 0; h < heads; ++h) {
      std::vector<std::set<int32_t>> want(grid.query_blocks());
      for (int64_t i = 0; i < grid.queries; ++i) {
        for (int64_t j = 0; j < grid.keys; ++j) {
          const int64_t distance = i + grid.keys - grid.queries - j;
          if (distance < 0) continue;
          const auto in = [h](const std::vector<int32_t>& list, int64_t count, int64_t value) {
            return std::count(list.begin() + h * count, list.begin() + (h + 1) * count, value) > 0;
          };
          if (in(columns, width, j) || in(distances, others, distance))
            want[i / grid.query_block].insert(static_cast<int32_t>(j / grid.key_block));
        }
      }
      for (int64_t r = 0; r < grid.query_blocks(); ++r) ASSERT_EQ(blocks_of(lists, 0, h, r), want[r]);
    }
  }
}

// All columns, or all distances: what a causal mask leaves, bit for bit.
TEST(SelectBlocks, EverythingIsDense) {
  const BlockGrid grid{100, 130, 16, 32};
  std::vector<int32_t> all(130);
  for (int32_t i = 0; i < 130; ++i) all[i] = i;
  const View<const int32_t> everything = view_of(all, {1, 1, 1, 130}), nothing = view_of({}, {1, 1, 1, 0});
  Tensor q(DType::f32, {1, 2, 100, 16}), k(DType::f32, {1, 1, 130, 16}), dense(DType::f32, {1, 2, 100, 16});
  HEED_SEED(random, 3);
  q.normal(random), k.normal(random);
  FlashParams p;
  p.q = q, p.k = k, p.v = k, p.out = dense, p.mask = Causal{};
  flash_forward(p);
  for (const bool by_column : {true, false}) {
    const BlockListBuffer lists =
        block_list_of_lines(by_column ? everything : nothing, by_column ? nothing : everything, grid);
    const BlockList list = lists.list();
    Tensor out(DType::f32, {1, 2, 100, 16});
    p.out = out, p.blocks = &list;
    flash_forward(p);
    EXPECT_LE(relative_error(out, dense), 1e-6);
  }
}

TEST(SelectBlocks, BadInputIsNamed) {
  const auto message = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const Error& e) {
      return e.what();
    }
    return "nothing";
  };
  const BlockGrid grid{100, 130, 16, 32};
  const std::vector<int32_t> seven(7, 5), large{0, 130};
  EXPECT_EQ(message([&] {
              block_list_of_rows(view_of(seven, {1, 1, 7, 1}), grid);
            }),
            "entry 5 of row [0, 0, 0] of lists of key blocks; below 5 is accepted");
  EXPECT_EQ(message([&] {
              block_list_of_rows(view_of(seven, {1, 1, 1, 7}), grid);
            }),
            "lists of key blocks are [1, 1, 1, 7]; [batch, heads, 7, entries] is accepted");
  EXPECT_EQ(message([&] {
              block_list_of_lines(view_of(large, {1, 1, 1, 2}), view_of(seven, {1, 1, 1, 7}), grid);
            }),
            "entry 130 of row [0, 0, 0] of columns; below 130 is accepted");
  EXPECT_EQ(message([&] {
              block_list_of_pairs(view_of({}, {1, 1, 1, 0}), {100, 130, 0, 32});
            }),
            "block lists of 100 queries in blocks of 0 and 130 keys in blocks of 32; sizes from 0 and blocks from 1 on "
            "are accepted");
  const BlockListBuffer a = block_list_of_pairs(view_of({}, {1, 2, 1, 0}), grid),
                        b = block_list_of_pairs(view_of({}, {1, 3, 1, 0}), grid);
  EXPECT_EQ(message([&] { unite(a, b); }),
            "block lists of 1 batch items and 2 heads with lists of 1 and 3; equal numbers, or 1, are accepted");
}

}  // namespace
}  // namespace heed::testing::select_blocks_test
