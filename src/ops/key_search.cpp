#include "heed/ops/key_search.h"

#include "heed/ops/flash.h"

namespace heed::ops {
namespace {

using torch::Tensor;

/// The tensors of a search, as its kernels take them.
struct Searched {
  Searched(const Tensor& q_in, const Tensor& k_in, const Tensor& hidden_in) {
    const auto type = q_in.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
    const auto plain = [&](const Tensor& x) {
      const auto wide = x.detach().to(type);
      return wide.size(3) > 1 && wide.stride(3) != 1 ? wide.contiguous() : wide;
    };
    q = plain(q_in), k = plain(k_in);
    keys.q = view_of(q), keys.k = view_of(k);
    if (!hidden_in.defined()) return;
    hidden = hidden_in.to(torch::kUInt8).contiguous();
    keys.hidden = hidden.data_ptr<uint8_t>();
    keys.hidden_stride = hidden.size(1);
  }
  Tensor q, k, hidden;
  kernels::SearchedKeys keys;
};

template <class T>
kernels::View<T> dense_view(const Tensor& x) {
  const std::array<int64_t, 4> size{x.size(0), x.size(1), x.size(2), x.size(3)};
  return {x.data_ptr<T>(), size, kernels::dense_strides(size)};
}

}  // namespace

Tensor tree_search(const Tensor& q, const Tensor& k, const TreeSearchOptions& options, const Tensor& hidden,
                   Tensor* scored) {
  const Searched searched(q, k, hidden);
  kernels::TreeSearchParams p;
  p.keys = searched.keys;
  p.query_block = options.query_block;
  p.key_block = options.key_block;
  p.blocks = options.blocks;
  p.row_stride = options.row_stride;
  p.representative = options.representative;
  const int64_t rows = (q.size(2) + p.query_block - 1) / p.query_block,
                all = (k.size(2) + p.key_block - 1) / p.key_block;
  const auto lists = torch::empty({q.size(0), q.size(1), rows, std::min(p.blocks, all)}, torch::kInt32);
  p.lists = dense_view<int32_t>(lists);
  Tensor counts;
  if (scored != nullptr) {
    counts = torch::empty({q.size(0), q.size(1), rows, 1}, torch::kInt64);
    p.scored = dense_view<int64_t>(counts);
    *scored = counts.squeeze(3);
  }
  kernels::tree_search(p);
  return lists;
}

Tensor jump_search(const Tensor& q, const Tensor& k, const std::vector<int64_t>& offsets, int64_t top,
                   const Tensor& hidden) {
  const Searched searched(q, k, hidden);
  kernels::JumpSearchParams p;
  p.keys = searched.keys;
  p.offsets = offsets.data();
  p.num_offsets = static_cast<int64_t>(offsets.size());
  const auto anchors = torch::empty({q.size(0), q.size(1), q.size(2), top}, torch::kInt32);
  p.anchors = dense_view<int32_t>(anchors);
  kernels::jump_search(p);
  return anchors;
}

}  // namespace heed::ops
