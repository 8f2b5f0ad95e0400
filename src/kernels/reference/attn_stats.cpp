// Attention weights and their functionals, row by row in double. Nothing here is fast: every row evaluates all keys.
#include "heed/kernels/attn_stats.h"

#include "kernels/attn_stats_problem.h"
#include "kernels/reference/flash_row.h"

namespace heed::kernels::reference {
namespace {

/// Calls visit(b, h, n, row, lse) for every query row that belongs to a sequence, with its logits evaluated.
template <class Visit>
void each_row(const FlashParams& p, const Visit& visit) {
  for (int64_t s = 0; s < count_sequences(p); ++s) {
    const Sequence sequence = sequence_at(p, s);
    for (int64_t h = 0; h < p.q.size[1]; ++h) {
      Row row(p, sequence, h);
      const Matrix q = read_rows(p.q, sequence.tensor_batch, h, sequence.q_begin, sequence.num_queries);
      for (int64_t i = 0; i < sequence.num_queries; ++i) {
        row.evaluate(i, q.row(i));
        visit(sequence, h, i, row, q.row(i));
      }
    }
  }
}

/// exp(logit - lse) with the lse that the caller gave.
double weight_of(const FlashParams& p, const Sequence& sequence, int64_t h, int64_t i, const Row& row, int64_t j) {
  const double lse = load_element(p.lse, sequence.tensor_batch, h, sequence.q_begin + i);
  return !row.seen[j] || lse == -kInfinity ? 0 : std::exp(row.logit[j] - lse);
}

double entropy_of(double weight) { return weight == 0 ? 0 : -weight * std::log(weight); }

}  // namespace

void attn_stats(const FlashParams& params, const AttnStats& stats) {
  const FlashParams p = weights_problem(params);
  check(p, stats);
  for (const AnyView* out : {&stats.column_sum, &stats.diagonal_sum, &stats.entropy, &stats.distance,
                             &stats.segment_mass, &stats.max_weight}) {
    if (*out) fill(*out, 0);
  }
  const int64_t row_end = stats.row_end < 0 ? p.q.size[2] : stats.row_end;
  Accumulator column_sum(stats.column_sum), diagonal_sum(stats.diagonal_sum), segment_mass(stats.segment_mass);
  each_row(p, [&](const Sequence& s, int64_t h, int64_t i, const Row& row, const double*) {
    const int64_t b = s.tensor_batch, n = s.q_begin + i;
    double entropy = 0, distance = 0, most = 0;
    for (int64_t j = 0; j < s.num_keys; ++j) {
      const double weight = weight_of(p, s, h, i, row, j);
      entropy += entropy_of(weight);
      if (row.seen[j]) distance += weight * std::fabs(static_cast<double>(i + s.num_keys - s.num_queries - j));
      most = weight > most || std::isnan(weight) ? weight : most;
      if (n >= stats.row_begin && n < row_end) {
        const int64_t steps = i + s.num_keys - s.num_queries - j;
        column_sum.add(b, h, 0, s.k_begin + j, weight);
        if (steps >= 0) diagonal_sum.add(b, h, 0, s.k_begin + steps, weight);
      }
      if (stats.segment_mass && stats.segments[s.k_begin + j] >= 0)
        segment_mass.add(b, h, n, stats.segments[s.k_begin + j], weight);
    }
    const double lse = load_element(p.lse, b, h, n);
    if (row.sink != -kInfinity) entropy += entropy_of(std::exp(row.sink - lse));
    if (stats.entropy) store_element(stats.entropy, b, h, n, 0, entropy);
    if (stats.distance) store_element(stats.distance, b, h, n, 0, distance);
    if (stats.max_weight) store_element(stats.max_weight, b, h, n, 0, most);
  });
  column_sum.write();
  diagonal_sum.write();
  segment_mass.write();
}

void attention_weights(const FlashParams& params, const int64_t* rows, int64_t num_rows, const AnyView& weights) {
  const FlashParams p = weights_problem(params);
  check_weights(p, rows, num_rows, weights, "weights");
  if (weights) fill(weights, 0);
  each_row(p, [&](const Sequence& s, int64_t h, int64_t i, const Row& row, const double*) {
    for (int64_t r = 0; r < num_rows; ++r) {
      if (rows[r] != s.q_begin + i) continue;
      for (int64_t j = 0; j < s.num_keys; ++j)
        store_element(weights, s.tensor_batch, h, r, s.k_begin + j, weight_of(p, s, h, i, row, j));
    }
  });
}

void attention_weights_backward(const FlashParams& params, const int64_t* rows, int64_t num_rows,
                                const AnyView& weights, const AnyView& d_weights, const AnyView& d_q,
                                const AnyView& d_k, const AnyView& d_lse) {
  const FlashParams p = weights_problem(params);
  check_weights(p, rows, num_rows, weights, "weights");
  check_weights(p, rows, num_rows, d_weights, "d_weights");
  check_weight_grads(p, d_q, d_k, d_lse);
  const double scale = scale_of(p), cap = p.scores.softcap;
  Accumulator sum_q(d_q), sum_k(d_k), sum_lse(d_lse);
  each_row(p, [&](const Sequence& s, int64_t h, int64_t i, const Row& row, const double* q) {
    const int64_t b = s.tensor_batch, hk = key_head(p, h);
    for (int64_t r = 0; r < num_rows; ++r) {
      if (rows[r] != s.q_begin + i) continue;
      for (int64_t j = 0; j < s.num_keys; ++j) {
        if (!row.seen[j]) continue;
        double d = weight_of(p, s, h, i, row, j) * load_element(d_weights, b, h, r, s.k_begin + j);
        if (d == 0) continue;
        sum_lse.add(b, h, rows[r], 0, -d);
        d /= row.temperature;
        if (cap > 0) d *= 1 - (row.capped[j] / cap) * (row.capped[j] / cap);
        for (int64_t c = 0; c < row.k.columns; ++c) {
          sum_q.add(b, h, rows[r], c, scale * d * row.k.row(j)[c]);
          sum_k.add(b, hk, s.k_begin + j, c, scale * d * q[c]);
        }
      }
    }
  });
  for (const Accumulator* sum : {&sum_q, &sum_k, &sum_lse}) sum->write();
}

}  // namespace heed::kernels::reference
