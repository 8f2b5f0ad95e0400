#include "heed/ops/key_search.h"

#include <torch/library.h>

#include "heed/names.h"
#include "ops/plain_rows.h"

namespace heed::ops {
namespace {

using torch::Tensor;

/// The tensors of a search, as its kernels take them.
struct Searched {
  Searched(const Tensor& q_in, const Tensor& k_in, const Tensor& hidden_in, const char* op)
      : q(plain_rows(q_in.detach(), plain_type(q_in), op, "q")),
        k(plain_rows(k_in.detach(), plain_type(q_in), op, "k")),
        hidden(hidden_keys(hidden_in, k, op)) {
    keys.q = view_of(q), keys.k = view_of(k);
    if (hidden.defined())
      keys.hidden = static_cast<const uint8_t*>(hidden.data_ptr()), keys.hidden_stride = hidden.size(1);
  }
  Tensor empty(at::IntArrayRef size, torch::ScalarType type) const {
    return torch::empty(size, torch::dtype(type).device(q.device()));
  }
  Tensor q, k, hidden;
  kernels::SearchedKeys keys;
};

kernels::Representative representative_of(c10::string_view name) {
  const std::vector<std::string> known{"first", "center", "whole"};
  for (size_t i = 0; i < known.size(); ++i)
    if (known[i] == std::string_view(name.data(), name.size())) return static_cast<kernels::Representative>(i);
  fail("representative {}: {}", std::string_view(name.data(), name.size()), suggest({name.data(), name.size()}, known));
}

Tensor tree_search_op(const Tensor& q, const Tensor& k, int64_t query_block, int64_t key_block, int64_t blocks,
                      int64_t row_stride, c10::string_view representative, const c10::optional<Tensor>& hidden) {
  return tree_search(q, k, {query_block, key_block, blocks, row_stride, representative_of(representative)},
                     hidden.value_or(Tensor()));
}

Tensor jump_search_op(const Tensor& q, const Tensor& k, at::IntArrayRef offsets, int64_t top,
                      const c10::optional<Tensor>& hidden) {
  return jump_search(q, k, offsets.vec(), top, hidden.value_or(Tensor()));
}

}  // namespace

Tensor tree_search(const Tensor& q, const Tensor& k, const TreeSearchOptions& options, const Tensor& hidden,
                   Tensor* scored) {
  const Searched searched(q, k, hidden, "tree_search");
  kernels::TreeSearchParams p;
  p.keys = searched.keys;
  p.query_block = options.query_block;
  p.key_block = options.key_block;
  p.blocks = options.blocks;
  p.row_stride = options.row_stride;
  p.representative = options.representative;
  require(p.query_block >= 1 && p.key_block >= 1 && p.blocks >= 1,
          "tree_search: blocks of {} queries and {} keys, {} wanted: 1 or more is accepted", p.query_block, p.key_block,
          p.blocks);
  const int64_t rows = (q.size(2) + p.query_block - 1) / p.query_block,
                all = (k.size(2) + p.key_block - 1) / p.key_block;
  const auto lists = searched.empty({q.size(0), q.size(1), rows, std::min(p.blocks, all)}, torch::kInt32);
  p.lists = dense_view<int32_t>(lists);
  Tensor counts;
  if (scored != nullptr) {
    counts = searched.empty({q.size(0), q.size(1), rows, 1}, torch::kInt64);
    p.scored = dense_view<int64_t>(counts);
    *scored = counts.squeeze(3);
  }
  kernels::check(p);
  if (!q.is_meta()) kernels::tree_search(p);
  return lists;
}

Tensor jump_search(const Tensor& q, const Tensor& k, const std::vector<int64_t>& offsets, int64_t top,
                   const Tensor& hidden) {
  const Searched searched(q, k, hidden, "jump_search");
  require(top >= 1, "jump_search: {} anchors: 1 or more is accepted", top);
  kernels::JumpSearchParams p;
  p.keys = searched.keys;
  p.offsets = offsets.data();
  p.num_offsets = static_cast<int64_t>(offsets.size());
  const auto anchors = searched.empty({q.size(0), q.size(1), q.size(2), top}, torch::kInt32);
  p.anchors = dense_view<int32_t>(anchors);
  kernels::check(p);
  if (!q.is_meta()) kernels::jump_search(p);
  return anchors;
}

}  // namespace heed::ops

// Their results are indices: nothing is differentiated, and autograd lets the call through.
TORCH_LIBRARY_FRAGMENT(heed, library) {
  library.def(
      "tree_search(Tensor q, Tensor k, int query_block=32, int key_block=2, int blocks=256, int row_stride=2, str "
      "representative='first', Tensor? hidden=None) -> Tensor");
  library.def("jump_search(Tensor q, Tensor k, int[] offsets, int top, Tensor? hidden=None) -> Tensor");
}
#define HEED_KEY_SEARCH(key)                                 \
  TORCH_LIBRARY_IMPL(heed, key, library) {                   \
    library.impl("tree_search", &heed::ops::tree_search_op); \
    library.impl("jump_search", &heed::ops::jump_search_op); \
  }
HEED_KEY_SEARCH(CPU)
HEED_KEY_SEARCH(Meta)
