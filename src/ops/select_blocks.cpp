#include "heed/ops/select_blocks.h"

#include "heed/kernels/page_scores.h"
#include "heed/kernels/runtime.h"
#include "heed/ops/flash.h"

namespace heed::ops {
namespace {

using torch::Tensor;

kernels::View<const int32_t> list_view(const Tensor& lists) {
  return {lists.data_ptr<int32_t>(),
          {lists.size(0), lists.size(1), lists.size(2), lists.size(3)},
          {lists.stride(0), lists.stride(1), lists.stride(2), 1}};
}

BlockListTensors to_tensors(const kernels::BlockListBuffer& buffer) {
  BlockListTensors blocks;
  blocks.offsets = torch::tensor(buffer.offsets, torch::kInt64);
  blocks.columns = torch::tensor(buffer.columns, torch::kInt32);
  blocks.batch = buffer.batch;
  blocks.heads = buffer.heads;
  blocks.query_block = buffer.grid.query_block;
  blocks.key_block = buffer.grid.key_block;
  return blocks;
}

kernels::BlockListBuffer to_buffer(const BlockListTensors& blocks, const BlockGrid& grid) {
  const auto *offsets = blocks.offsets.data_ptr<int64_t>(), *offsets_end = offsets + blocks.offsets.numel();
  const auto *columns = blocks.columns.data_ptr<int32_t>(), *columns_end = columns + blocks.columns.numel();
  return {{offsets, offsets_end}, {columns, columns_end}, blocks.batch, blocks.heads, grid};
}

}  // namespace

Tensor block_means(const Tensor& x, int64_t block) {
  const int64_t rows = x.size(2), whole = rows / block;
  std::vector<Tensor> means;
  if (whole > 0)
    means.push_back(x.narrow(2, 0, whole * block).unflatten(2, {whole, block}).mean(3, false, torch::kFloat32));
  if (rows > whole * block) means.push_back(x.slice(2, whole * block).mean(2, true, torch::kFloat32));
  return torch::cat(means, 2);
}

Tensor block_weights(const Tensor& q_means, const Tensor& k_means, const BlockGrid& grid, double scale) {
  const auto q = q_means.contiguous(), k = k_means.contiguous();
  auto weights = torch::empty({q.size(0), q.size(1), grid.query_blocks(), grid.key_blocks()}, torch::kFloat32);
  kernels::BlockScoresParams p;
  p.q_means = view_of(q);
  p.k_means = view_of(k);
  p.queries = grid.queries;
  p.keys = grid.keys;
  p.query_block = grid.query_block;
  p.key_block = grid.key_block;
  p.scale = scale;
  p.softmax = true;
  p.scores = view_of(weights).as<float>();
  kernels::use_reference() ? kernels::reference::block_scores(p) : kernels::block_scores(p);
  return weights;
}

BlockListTensors block_list_of_rows(const Tensor& lists, const BlockGrid& grid) {
  return to_tensors(kernels::block_list_of_rows(list_view(lists), grid));
}

BlockListTensors block_list_of_pairs(const Tensor& lists, const BlockGrid& grid) {
  return to_tensors(kernels::block_list_of_pairs(list_view(lists), grid));
}

BlockListTensors block_list_of_lines(const Tensor& columns, const Tensor& distances, const BlockGrid& grid) {
  return to_tensors(kernels::block_list_of_lines(list_view(columns), list_view(distances), grid));
}

BlockListTensors unite(const BlockListTensors& a, const BlockListTensors& b, const BlockGrid& grid) {
  return to_tensors(kernels::unite(to_buffer(a, grid), to_buffer(b, grid)));
}

Tensor block_map(const BlockListTensors& blocks, const BlockGrid& grid) {
  const int64_t rows = blocks.offsets.numel() - 1;
  auto map = torch::zeros({rows, grid.key_blocks()}, torch::kBool);
  const auto row = torch::repeat_interleave(torch::arange(rows), blocks.offsets.diff());
  map.index_put_({row, blocks.columns.to(torch::kInt64)}, true);
  return map.view({blocks.batch, blocks.heads, grid.query_blocks(), grid.key_blocks()});
}

int64_t area(const BlockListTensors& blocks, const BlockGrid& grid, const Mask& mask, int64_t batch, int64_t heads) {
  const auto buffer = to_buffer(blocks, grid);
  int64_t pairs = 0;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t h = 0; h < heads; ++h) pairs += kernels::area(buffer.list(), mask, {b, h, grid.queries, grid.keys});
  return pairs;
}

}  // namespace heed::ops
