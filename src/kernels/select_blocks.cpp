#include "heed/kernels/select_blocks.h"

#include <algorithm>
#include <bit>

#include <omp.h>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "kernels/flash_problem.h"

namespace heed::kernels {
namespace {

/// Key blocks of one list row as bits.
class BlockSet {
 public:
  explicit BlockSet(int64_t blocks) : words_((blocks + 63) / 64, 0) {}
  void add(int64_t block) { words_[block / 64] |= uint64_t{1} << (block % 64); }
  /// Appends the blocks in ascending order and forgets them.
  void move_to(std::vector<int32_t>& columns) {
    for (size_t word = 0; word < words_.size(); ++word) {
      for (uint64_t bits = words_[word]; bits != 0; bits &= bits - 1)
        columns.push_back(static_cast<int32_t>(64 * word + std::countr_zero(bits)));
      words_[word] = 0;
    }
  }

 private:
  std::vector<uint64_t> words_;
};

/// Lists over the grid with the blocks that mark(b, h, query block, set) adds. Rows are made in parallel, a (batch
/// item, head) each.
template <class Mark>
BlockListBuffer build(int64_t batch, int64_t heads, const BlockGrid& grid, const Mark& mark) {
  const int64_t rows = grid.query_blocks(), lists = batch * heads;
  BlockListBuffer result{{}, {}, batch, heads, grid};
  result.offsets.assign(lists * rows + 1, 0);
  std::vector<std::vector<int32_t>> columns(lists);
#pragma omp parallel for num_threads(num_threads()) schedule(dynamic, 1)
  for (int64_t list = 0; list < lists; ++list) {
    BlockSet set(grid.key_blocks());
    for (int64_t row = 0; row < rows; ++row) {
      mark(list / heads, list % heads, row, set);
      set.move_to(columns[list]);
      result.offsets[list * rows + row + 1] = static_cast<int64_t>(columns[list].size());
    }
  }
  for (int64_t list = 0; list < lists; ++list) {
    const auto before = static_cast<int64_t>(result.columns.size());
    for (int64_t row = 0; row < rows; ++row) result.offsets[list * rows + row + 1] += before;
    result.columns.insert(result.columns.end(), columns[list].begin(), columns[list].end());
  }
  return result;
}

void check(const BlockGrid& grid) {
  require(
      grid.queries >= 0 && grid.keys >= 0 && grid.query_block >= 1 && grid.key_block >= 1,
      "block lists of {} queries in blocks of {} and {} keys in blocks of {}; sizes from 0 and blocks from 1 on are "
      "accepted",
      grid.queries, grid.query_block, grid.keys, grid.key_block);
  require(grid.key_blocks() <= INT32_MAX, "block lists of {} key blocks; at most {} are accepted", grid.key_blocks(),
          INT32_MAX);
}

void check(const View<const int32_t>& lists, const char* name, int64_t rows, int64_t bound) {
  const auto& size = lists.size;
  require(size[2] == rows, "{} are [{}, {}, {}, {}]; [batch, heads, {}, entries] is accepted", name, size[0], size[1],
          size[2], size[3], rows);
  require(size[3] <= 1 || lists.stride[3] == 1, "the last dimension of {} has stride {}; 1 is accepted", name,
          lists.stride[3]);
  for (int64_t b = 0; b < size[0]; ++b) {
    for (int64_t h = 0; h < size[1]; ++h) {
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < size[3]; ++i) {
          const int32_t entry = lists.row(b, h, r)[i];
          require(entry < bound, "entry {} of row [{}, {}, {}] of {}; below {} is accepted", entry, b, h, r, name,
                  bound);
        }
      }
    }
  }
}

}  // namespace

BlockListBuffer block_list_of_rows(const View<const int32_t>& lists, const BlockGrid& grid) {
  check(grid);
  check(lists, "lists of key blocks", grid.query_blocks(), grid.key_blocks());
  return build(lists.size[0], lists.size[1], grid, [&](int64_t b, int64_t h, int64_t row, BlockSet& set) {
    const int32_t* entries = lists.row(b, h, row);
    for (int64_t i = 0; i < lists.size[3]; ++i) {
      if (entries[i] >= 0) set.add(entries[i]);
    }
  });
}

BlockListBuffer block_list_of_pairs(const View<const int32_t>& lists, const BlockGrid& grid) {
  check(grid);
  const int64_t width = grid.key_blocks();
  check(lists, "lists of block pairs", 1, grid.query_blocks() * width);
  // In the order of rows, so that each finds its pairs together.
  std::vector<std::vector<int32_t>> sorted(lists.size[0] * lists.size[1]);
  for (int64_t list = 0; list < static_cast<int64_t>(sorted.size()); ++list) {
    const int32_t* entries = lists.row(list / lists.size[1], list % lists.size[1], 0);
    sorted[list].assign(entries, entries + lists.size[3]);
    if (!std::is_sorted(sorted[list].begin(), sorted[list].end())) std::sort(sorted[list].begin(), sorted[list].end());
  }
  return build(lists.size[0], lists.size[1], grid, [&](int64_t b, int64_t h, int64_t row, BlockSet& set) {
    const std::vector<int32_t>& pairs = sorted[b * lists.size[1] + h];
    for (auto at = std::lower_bound(pairs.begin(), pairs.end(), row * width);
         at != pairs.end() && *at < (row + 1) * width; ++at) {
      set.add(*at - row * width);
    }
  });
}

BlockListBuffer block_list_of_lines(const View<const int32_t>& columns, const View<const int32_t>& distances,
                                    const BlockGrid& grid) {
  check(grid);
  check(columns, "columns", 1, grid.keys);
  check(distances, "distances", 1, grid.keys);
  require(columns.size[0] == distances.size[0] && columns.size[1] == distances.size[1],
          "columns of {} batch items and {} heads with distances of {} and {}; equal numbers are accepted",
          columns.size[0], columns.size[1], distances.size[0], distances.size[1]);
  return build(columns.size[0], columns.size[1], grid, [&](int64_t b, int64_t h, int64_t row, BlockSet& set) {
    // Bottom-right aligned positions of the block's queries.
    const int64_t shift = grid.keys - grid.queries, first = row * grid.query_block + shift,
                  last = std::min((row + 1) * grid.query_block, grid.queries) - 1 + shift;
    const int32_t *column = columns.row(b, h, 0), *distance = distances.row(b, h, 0);
    for (int64_t i = 0; i < columns.size[3]; ++i) {
      if (column[i] >= 0 && column[i] <= last) set.add(column[i] / grid.key_block);
    }
    for (int64_t i = 0; i < distances.size[3]; ++i) {
      if (distance[i] < 0 || distance[i] > last) continue;
      const int64_t begin = std::max<int64_t>(0, first - distance[i]) / grid.key_block,
                    end = (last - distance[i]) / grid.key_block;
      for (int64_t block = begin; block <= end; ++block) set.add(block);
    }
  });
}

BlockListBuffer unite(const BlockListBuffer& a, const BlockListBuffer& b) {
  const BlockGrid &x = a.grid, &y = b.grid;
  require(
      x.queries == y.queries && x.keys == y.keys && x.query_block == y.query_block && x.key_block == y.key_block,
      "block lists over {} x {} in blocks of {} x {} and over {} x {} in blocks of {} x {}; equal grids are accepted",
      x.queries, x.keys, x.query_block, x.key_block, y.queries, y.keys, y.query_block, y.key_block);
  const auto fits = [](int64_t m, int64_t n) { return m == n || m == 1 || n == 1; };
  require(fits(a.batch, b.batch) && fits(a.heads, b.heads),
          "block lists of {} batch items and {} heads with lists of {} and {}; equal numbers, or 1, are accepted",
          a.batch, a.heads, b.batch, b.heads);
  return build(std::max(a.batch, b.batch), std::max(a.heads, b.heads), x,
               [&](int64_t batch, int64_t head, int64_t row, BlockSet& set) {
                 for (const BlockListBuffer* from : {&a, &b}) {
                   const int64_t at = list_row(from->list(), batch, head, row);
                   for (int64_t c = from->offsets[at]; c < from->offsets[at + 1]; ++c) set.add(from->columns[c]);
                 }
               });
}

}  // namespace heed::kernels
