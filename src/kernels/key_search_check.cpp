#include <limits>

#include "heed/error.h"
#include "heed/kernels/key_search.h"

namespace heed::kernels {
namespace {

void check_keys(const SearchedKeys& keys) {
  const auto &q = keys.q, &k = keys.k;
  require((q.dtype == DType::f32 || q.dtype == DType::f64) && k.dtype == q.dtype,
          "key search over q of {} and k of {}: both float32 or both float64 are accepted", name_of(q.dtype),
          name_of(k.dtype));
  require(k.size[0] == q.size[0] && k.size[3] == q.size[3] && k.size[1] > 0 && q.size[1] % k.size[1] == 0,
          "key search: k of shape [{}, {}, {}, {}] for q of [{}, {}, {}, {}]: the same batch and head size, and a "
          "divisor of its heads, are accepted",
          k.size[0], k.size[1], k.size[2], k.size[3], q.size[0], q.size[1], q.size[2], q.size[3]);
  for (const AnyView* view : {&q, &k})
    require(view->size[3] <= 1 || view->stride[3] == 1,
            "key search: a last dimension of stride {}: dense ones are accepted", view->stride[3]);
  require(k.size[2] <= std::numeric_limits<int32_t>::max(), "key search over {} keys: fewer than 2^31 are accepted",
          k.size[2]);
}

template <class Lists>
void check_lists(const Lists& lists, const SearchedKeys& keys, int64_t rows, const char* name) {
  require(lists.size[0] == keys.q.size[0] && lists.size[1] == keys.q.size[1] && lists.size[2] == rows,
          "key search: {} of [{}, {}, {}]: [{}, {}, {}] is accepted", name, lists.size[0], lists.size[1], lists.size[2],
          keys.q.size[0], keys.q.size[1], rows);
  require(lists.size[3] <= 1 || lists.stride[3] == 1, "key search: {} with a last dimension of stride {}", name,
          lists.stride[3]);
}

}  // namespace

void check(const TreeSearchParams& p) {
  check_keys(p.keys);
  require(p.query_block >= 1 && p.key_block >= 1 && p.row_stride >= 1 && p.blocks >= 1,
          "tree search: blocks of {} queries and {} keys, {} wanted, rows {} apart: 1 or more is accepted",
          p.query_block, p.key_block, p.blocks, p.row_stride);
  const int64_t rows = (p.keys.q.size[2] + p.query_block - 1) / p.query_block;
  check_lists(p.lists, p.keys, rows, "lists");
  const int64_t all = (p.keys.k.size[2] + p.key_block - 1) / p.key_block;
  require(p.lists.size[3] >= std::min(p.blocks, all), "tree search: lists of {} entries for {} blocks", p.lists.size[3],
          std::min(p.blocks, all));
  if (p.scored) check_lists(p.scored, p.keys, rows, "scored");
}

void check(const JumpSearchParams& p) {
  check_keys(p.keys);
  check_lists(p.anchors, p.keys, p.keys.q.size[2], "anchors");
  for (int64_t o = 0; o < p.num_offsets; ++o)
    require(p.offsets[o] >= (o == 0 ? 0 : p.offsets[o - 1] + 1),
            "jump search: offset {} is {}: rising ones from 0 on "
            "are accepted",
            o, p.offsets[o]);
}

}  // namespace heed::kernels
