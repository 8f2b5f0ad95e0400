#include "heed/nn/buckets.h"

namespace heed::nn {
namespace {

using torch::Tensor;

/// Rows of a tensor [B, H, N, D] brought together by (batch, head, bucket), the earlier one first.
struct Packing {
  Packing(const Tensor& buckets, int64_t count) : sizes(buckets.sizes().vec()) {
    const int64_t heads = sizes[0] * sizes[1];
    const auto sequence = (buckets + torch::arange(heads).view({sizes[0], sizes[1], 1}) * count).flatten();
    order = std::get<1>(sequence.sort(c10::optional<bool>(true), 0, false));
    place = torch::empty_like(order).scatter_(0, order, torch::arange(order.numel()));
    cu = torch::constant_pad_nd(torch::bincount(sequence, {}, heads * count).cumsum(0), {1, 0}, 0);
  }

  Tensor pack(const Tensor& x) const {
    return x.reshape({-1, x.size(3)}).index_select(0, order).unsqueeze(0).unsqueeze(0);
  }
  /// The reverse of a result [1, 1, B H N, ...].
  Tensor unpack(const Tensor& packed) const {
    const auto rows = packed.flatten(0, 2).index_select(0, place);
    return packed.dim() == 3 ? rows.view({sizes[0], sizes[1], sizes[2]})
                             : rows.view({sizes[0], sizes[1], sizes[2], packed.size(3)});
  }

  std::vector<int64_t> sizes;
  Tensor order, place, cu;
};

}  // namespace

Tensor ranks_in_buckets(const Tensor& buckets) {
  const auto [sorted, order] = buckets.sort(c10::optional<bool>(true), -1, false);
  const auto ranks = torch::arange(buckets.size(-1)) - torch::searchsorted(sorted, sorted);
  return torch::empty_like(order).scatter_(-1, order, ranks);
}

AttentionResult bucket_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& q_buckets,
                                 const Tensor& k_buckets, int64_t count, AttentionOptions options) {
  const Packing queries(q_buckets, count), keys(k_buckets, count);
  options.cu_q = queries.cu;
  options.cu_k = keys.cu;
  const auto packed = attention_with_lse(queries.pack(q), keys.pack(k), keys.pack(v), options);
  return {queries.unpack(packed.out), queries.unpack(packed.lse)};
}

BlockListTensors listed_pairs(const Tensor& visible) {
  const auto counts = visible.sum(3).flatten();
  const auto columns = visible.nonzero().select(1, 3).to(torch::kInt32).contiguous();
  return {torch::constant_pad_nd(counts.cumsum(0), {1, 0}, 0), columns, visible.size(0), visible.size(1), 1, 1};
}

}  // namespace heed::nn
