#include <algorithm>

#include "heed/error.h"
#include "kernels/attn_stats_problem.h"

namespace heed::kernels {
namespace {

DType stats_type(const FlashParams& p) { return p.q.dtype == DType::f64 ? DType::f64 : DType::f32; }

void check_view(const FlashParams& p, const AnyView& view, const char* name, const std::array<int64_t, 4>& want) {
  if (!view) return;
  require(view.dtype == stats_type(p), "{} is {}; {} is accepted", name, name_of(view.dtype), name_of(stats_type(p)));
  require(view.size == want, "{} has shape [{}, {}, {}, {}]; [{}, {}, {}, {}] is accepted", name, view.size[0],
          view.size[1], view.size[2], view.size[3], want[0], want[1], want[2], want[3]);
}

bool holds_elements(const FlashParams& p) { return p.q.size[0] * p.q.size[1] * p.q.size[2] > 0; }

}  // namespace

FlashParams weights_problem(const FlashParams& params) {
  FlashParams p = params;
  p.v = p.k;
  p.q_to_v_head = p.q_to_k_head;
  p.out = p.q;
  require(p.normalizer.kind != Normalizer::Kind::sigmoid,
          "attention weights of the sigmoid normaliser, which has no lse; softmax and clipped softmax are accepted");
  require(p.lse || !holds_elements(p), "attention weights need the forward's lse");
  p.scores.multiplier = {};
  p.dropout = {};
  return p;
}

void check(const FlashParams& p, const AttnStats& stats) {
  check(p);
  const int64_t batch = p.q.size[0], heads = p.q.size[1], rows = p.q.size[2], keys = p.k.size[2];
  check_view(p, stats.column_sum, "column_sum", {batch, heads, 1, keys});
  check_view(p, stats.diagonal_sum, "diagonal_sum", {batch, heads, 1, keys});
  check_view(p, stats.entropy, "entropy", {batch, heads, rows, 1});
  check_view(p, stats.distance, "distance", {batch, heads, rows, 1});
  check_view(p, stats.max_weight, "max_weight", {batch, heads, rows, 1});
  const int64_t end = stats.row_end < 0 ? rows : stats.row_end;
  require(stats.row_begin >= 0 && stats.row_begin <= end && end <= rows,
          "column or diagonal sums over query rows {} to {}; rows within 0 to {} are accepted", stats.row_begin,
          stats.row_end, rows);
  if (!stats.segment_mass) return;
  const int64_t segments = stats.segment_mass.size[3];
  check_view(p, stats.segment_mass, "segment_mass", {batch, heads, rows, segments});
  require(stats.segments != nullptr || keys == 0, "segment_mass without segments");
  for (int64_t j = 0; j < keys; ++j) {
    require(stats.segments[j] >= -1 && stats.segments[j] < segments,
            "segment {} of key {}; -1 (none) to {} is accepted", stats.segments[j], j, segments - 1);
  }
}

void check_weights(const FlashParams& p, const int64_t* rows, int64_t num_rows, const AnyView& weights,
                   const char* name) {
  check(p);
  require(num_rows >= 0 && (rows != nullptr || num_rows == 0), "{} query rows are asked and none named", num_rows);
  for (int64_t r = 0; r < num_rows; ++r) {
    require(rows[r] >= 0 && rows[r] < p.q.size[2], "query row {} is asked; 0 to {} is accepted", rows[r],
            p.q.size[2] - 1);
  }
  const std::array<int64_t, 4> want{p.q.size[0], p.q.size[1], num_rows, p.k.size[2]};
  const bool empty = want[0] * want[1] * want[2] * want[3] == 0;
  require(weights || empty, "{} has no data", name);
  check_view(p, weights, name, want);
  require(empty || want[3] == 1 || weights.stride[3] == 1, "{} has stride {} in its last dimension; 1 is accepted",
          name, weights.stride[3]);
}

void check_weight_grads(const FlashParams& p, const AnyView& d_q, const AnyView& d_k, const AnyView& d_lse) {
  for (const auto& [grad, of, name] : {std::tuple{&d_q, &p.q, "d_q"}, {&d_k, &p.k, "d_k"}, {&d_lse, &p.lse, "d_lse"}}) {
    if (!*grad) continue;
    require(grad->dtype == of->dtype, "{} is {}; {} is accepted", name, name_of(grad->dtype), name_of(of->dtype));
    require(grad->size == of->size, "{} has shape [{}, {}, {}, {}]; [{}, {}, {}, {}] is accepted", name, grad->size[0],
            grad->size[1], grad->size[2], grad->size[3], of->size[0], of->size[1], of->size[2], of->size[3]);
    require(grad->size[3] <= 1 || grad->stride[3] == 1, "{} has stride {} in its last dimension; 1 is accepted", name,
            grad->stride[3]);
  }
}

RowPlace place_of_row(const FlashParams& p, int64_t b, int64_t n) {
  if (p.cu_q == nullptr) return p.q_lengths != nullptr && n >= p.q_lengths[b] ? RowPlace{} : RowPlace{b, n};
  const int64_t* after = std::upper_bound(p.cu_q, p.cu_q + p.num_sequences + 1, n);
  if (after == p.cu_q || after == p.cu_q + p.num_sequences + 1) return {};
  const int64_t sequence = after - p.cu_q - 1;
  return {sequence, n - p.cu_q[sequence]};
}

}  // namespace heed::kernels
