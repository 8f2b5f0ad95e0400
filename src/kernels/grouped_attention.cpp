#include "heed/kernels/grouped_attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "heed/error.h"
#include "kernels/cpu/grouped_task.h"
#include "kernels/cpu/parallel.h"
#include "kernels/reference/element.h"

namespace heed::kernels {
namespace {

bool takes_reference(const GroupedParams& p) { return use_reference() || p.q.dtype == DType::f64; }

void check_view(const AnyView& view, const char* name, const std::array<int64_t, 4>& size, DType dtype) {
  require(view.size == size, "grouped attention: {} of shape [{}, {}, {}, {}]; [{}, {}, {}, {}] is accepted", name,
          view.size[0], view.size[1], view.size[2], view.size[3], size[0], size[1], size[2], size[3]);
  require(view.dtype == dtype, "grouped attention: {} is {}; {} is accepted", name, name_of(view.dtype),
          name_of(dtype));
  require(view.size[3] <= 1 || view.stride[3] == 1,
          "grouped attention: {} has stride {} in its last dimension; 1 is accepted", name, view.stride[3]);
}

/// The blocks' queries of one head, the last block first: it has most keys.
void add_items(const GroupedParams& p, int64_t batch, int64_t head, std::vector<GroupedItem>& items) {
  const int64_t n = p.q.size[2], past = p.k.size[2] - n;
  for (int64_t end = n; end > 0;) {
    const int64_t own = (past + end - 1) / p.block, begin = std::max<int64_t>(0, own * p.block - past);
    items.push_back({batch, head, own, begin, end});
    end = begin;
  }
}

double work_of(const GroupedParams& p) {
  return static_cast<double>(p.q.size[0] * p.q.size[1] * p.q.size[2]) * static_cast<double>(p.k.size[2]) / 2 *
         static_cast<double>(p.q.size[3] + p.v.size[3]);
}

void write_rows(const float* rows, int64_t padded, double factor, const AnyView& to, int64_t batch, int64_t head) {
  if (!to) return;
  for (int64_t j = 0; j < to.size[2]; ++j)
    for (int64_t c = 0; c < to.size[3]; ++c) store_element(to, batch, head, j, c, factor * rows[j * padded + c]);
}

}  // namespace

void check(const GroupedParams& p) {
  const auto [b, hq, n, d] = p.q.size;
  const int64_t hk = p.k.size[1], m = p.k.size[2], dv = p.v.size[3];
  const DType dtype = p.q.dtype, side = dtype == DType::f64 ? DType::f64 : DType::f32;
  require(dtype != DType::i8, "grouped attention: q is int8; float32, float16, bfloat16 or float64 is accepted");
  require(p.block >= 2 && p.block <= kMostGroupedKeys, "grouped attention: blocks of {} keys; 2 to {} are accepted",
          p.block, kMostGroupedKeys);
  require(hk > 0 && hq % hk == 0, "grouped attention: {} query heads over {} KV heads; a multiple is accepted", hq, hk);
  require(m >= n, "grouped attention: {} queries and {} keys; at least as many keys are accepted", n, m);
  check_view(p.q, "q", {b, hq, n, d}, dtype);
  check_view(p.k, "k", {b, hk, m, d}, dtype);
  check_view(p.v, "v", {b, hk, m, dv}, dtype);
  check_view(p.out, "out", {b, hq, n, dv}, dtype);
  check_view(p.lse, "lse", {b, hq, n, 1}, side);
  require(p.softcap >= 0, "grouped attention: soft cap {}; 0 or more is accepted", p.softcap);
}

void grouped_attention(const GroupedParams& p) {
  if (takes_reference(p)) return reference::grouped_attention(p);
  check(p);
  std::vector<GroupedItem> items;
  for (int64_t b = 0; b < p.q.size[0]; ++b)
    for (int64_t h = 0; h < p.q.size[1]; ++h) add_items(p, b, h, items);
  for_each_item(static_cast<int64_t>(items.size()), grouped_scratch_bytes(p), work_of(p),
                [&](int64_t i, void* scratch) { run_grouped_forward(p, items[i], scratch); });
}

void grouped_attention_backward(const GroupedParams& p, const GroupedGrads& grads) {
  if (takes_reference(p)) return reference::grouped_attention_backward(p, grads);
  check(p);
  check_view(grads.d_out, "d_out", p.out.size, p.q.dtype);
  if (grads.d_q) check_view(grads.d_q, "d_q", p.q.size, p.q.dtype);
  if (grads.d_k) check_view(grads.d_k, "d_k", p.k.size, p.q.dtype);
  if (grads.d_v) check_view(grads.d_v, "d_v", p.v.size, p.q.dtype);
  const int64_t kv_heads = p.k.size[1], group = p.q.size[1] / kv_heads, m = p.k.size[2];
  const int64_t d = (p.q.size[3] + 15) / 16 * 16, dv = (p.v.size[3] + 15) / 16 * 16;
  for_each_item(p.q.size[0] * kv_heads, grouped_scratch_bytes(p), work_of(p), [&](int64_t unit, void* scratch) {
    const int64_t b = unit / kv_heads, kv = unit % kv_heads;
    std::vector<float> d_keys(m * d), d_values(m * dv);
    std::vector<GroupedItem> items;
    for (int64_t h = kv * group; h < (kv + 1) * group; ++h) add_items(p, b, h, items);
    for (const GroupedItem& item : items) run_grouped_backward(p, grads, item, d_keys.data(), d_values.data(), scratch);
    const double scale = p.scale != 0 ? p.scale : 1 / std::sqrt(static_cast<double>(p.q.size[3]));
    write_rows(d_keys.data(), d, scale, grads.d_k, b, kv);
    write_rows(d_values.data(), dv, 1, grads.d_v, b, kv);
  });
}

}  // namespace heed::kernels
