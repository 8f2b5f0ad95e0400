#include "cache/sparse_prompt.h"

namespace heed::cache {

using torch::Tensor;

Tensor SparsePrompt::attend_chunk(const Chunk& chunk) {
  if (!in_prompt()) return LayerCache::attend_chunk(chunk);
  const int64_t n = chunk.size(), m = kv_.longest(), heads = chunk.q.size(0) * chunk.q.size(1);
  const int64_t visible = heads * (n * m - n * (n - 1) / 2);
  int64_t pairs = 0;
  const bool dense = reads_all(n, m);
  const auto out = dense ? LayerCache::attend_chunk(chunk) : attend_sparse(chunk, pairs);
  count_prompt(dense ? visible : pairs, visible);
  return out;
}

ops::LineSums SparsePrompt::last_lines(const Chunk& chunk, int64_t rows) const {
  auto options = chunk.call.options;
  options.mask = Causal{};
  const auto last = chunk.q.slice(2, std::max<int64_t>(0, chunk.size() - rows));
  auto sums = ops::line_sums(last, kv_.keys(), options, {}, true);
  for (Tensor* line : {&sums.columns, &sums.diagonals}) *line = line->to(torch::kFloat32).unsqueeze(2).contiguous();
  return sums;
}

Tensor own_blocks(const ops::BlockGrid& grid, bool first) {
  const int64_t before = grid.keys - grid.queries;
  const int64_t most = (grid.query_block + grid.key_block - 2) / grid.key_block + 2;
  auto lists = torch::full({1, 1, grid.query_blocks(), most}, -1, torch::kInt32);
  auto entries = lists.accessor<int32_t, 4>();
  for (int64_t block = 0; block < grid.query_blocks(); ++block) {
    const int64_t begin = before + block * grid.query_block;
    const int64_t last = std::min(begin + grid.query_block, grid.keys) - 1;
    int64_t count = 0;
    if (first) entries[0][0][block][count++] = 0;
    for (int64_t key = begin / grid.key_block; key <= last / grid.key_block; ++key)
      entries[0][0][block][count++] = static_cast<int32_t>(key);
  }
  return lists;
}

}  // namespace heed::cache
