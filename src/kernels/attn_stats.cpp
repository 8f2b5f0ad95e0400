#include "heed/kernels/attn_stats.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include <omp.h>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "kernels/attn_stats_problem.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/weights_task.h"
#include "kernels/reference/element.h"

namespace heed::kernels {
namespace {

bool takes_reference(const FlashParams& p) { return use_reference() || p.q.dtype == DType::f64; }

/// All bits 0, which is 0 in every dtype, row by row where rows are dense.
void clear(const AnyView& view) {
  if (!view) return;
  if (view.size[3] > 1 && view.stride[3] != 1) return fill(view, 0);
  const auto width = static_cast<int64_t>(size_of(view.dtype));
  for (int64_t b = 0; b < view.size[0]; ++b) {
    for (int64_t h = 0; h < view.size[1]; ++h) {
      for (int64_t n = 0; n < view.size[2]; ++n) {
        const int64_t offset = b * view.stride[0] + h * view.stride[1] + n * view.stride[2];
        std::memset(static_cast<char*>(view.data) + offset * width, 0, view.size[3] * width);
      }
    }
  }
}

/// Runs run(t, scratch) for t < count on all threads, each with scratch of its own.
template <class Run>
void for_each_item(int64_t count, int64_t scratch_bytes, const Run& run) {
  if (count == 0) return;
  const int threads = static_cast<int>(std::min<int64_t>(num_threads(), count));
  const Block scratch = allocate(scratch_bytes * threads);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t t = 0; t < count; ++t) run(t, static_cast<char*>(scratch.get()) + scratch_bytes * omp_get_thread_num());
}

/// The ranges of rows that are swept by themselves: enough for many threads, and few, because each carries sums of
/// keys. A function of the shapes.
std::vector<StatsItem> cut_rows(const FlashParams& p, const AttnStats& stats) {
  constexpr int64_t kEnough = 64;
  const int64_t sequences = count_sequences(p), heads = p.q.size[1];
  const bool only_some_rows = !stats.entropy && !stats.distance && !stats.segment_mass && !stats.max_weight;
  const int64_t row_end = stats.row_end < 0 ? p.q.size[2] : stats.row_end;
  std::vector<StatsItem> items;
  for (int64_t s = 0; s < sequences; ++s) {
    const Sequence sequence = sequence_at(p, s);
    int64_t begin = 0, end = sequence.num_queries;
    if (only_some_rows) {
      begin = std::clamp<int64_t>(stats.row_begin - sequence.q_begin, 0, end);
      end = std::clamp<int64_t>(row_end - sequence.q_begin, begin, end);
    }
    const int64_t wanted = (kEnough + sequences * heads - 1) / (sequences * heads);
    const int64_t part = std::max((end - begin + wanted - 1) / wanted, kPanelRows);
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = begin; i < end; i += part)
        items.push_back({{s, h, i, std::min(i + part, end)}, nullptr, nullptr});
    }
  }
  return items;
}

/// Zeroed sums for every item, at `member` of it.
std::vector<double> sums_of_keys(const FlashParams& p, std::vector<StatsItem>& items, double* StatsItem::*member) {
  int64_t count = 0;
  for (const StatsItem& item : items) count += sequence_at(p, item.rows.sequence).num_keys;
  std::vector<double> sums(count);
  count = 0;
  for (StatsItem& item : items) {
    item.*member = sums.data() + count;
    count += sequence_at(p, item.rows.sequence).num_keys;
  }
  return sums;
}

void write_sums(const FlashParams& p, const std::vector<StatsItem>& items, double* StatsItem::*member,
                const AnyView& to) {
  const auto view = to.as<float>();
  for (size_t first = 0; first < items.size();) {
    const BlockItem& rows = items[first].rows;
    const Sequence sequence = sequence_at(p, rows.sequence);
    size_t last = first;
    while (last < items.size() && items[last].rows.sequence == rows.sequence && items[last].rows.head == rows.head)
      ++last;
    for (int64_t j = 0; j < sequence.num_keys; ++j) {
      double sum = 0;
      for (size_t t = first; t < last; ++t) sum += (items[t].*member)[j];
      view.at(sequence.tensor_batch, rows.head, 0, sequence.k_begin + j) = static_cast<float>(sum);
    }
    first = last;
  }
}

/// Maximal runs of consecutive rows inside one sequence, one block list row and one block, for every head.
std::vector<WeightsItem> find_runs(const FlashParams& p, const int64_t* rows, int64_t num_rows) {
  std::vector<WeightsItem> items;
  const int64_t border = p.blocks != nullptr ? p.blocks->query_block : INT64_MAX;
  for (int64_t b = 0; b < p.q.size[0]; ++b) {
    for (int64_t r = 0; r < num_rows;) {
      const RowPlace place = place_of_row(p, b, rows[r]);
      const int64_t first = r++;
      if (place.sequence < 0) continue;
      const int64_t queries = sequence_at(p, place.sequence).num_queries;
      const int64_t most = std::min({kBlockRows, queries - place.i, border - place.i % border});
      while (r < num_rows && r - first < most && rows[r] == rows[r - 1] + 1) ++r;
      for (int64_t h = 0; h < p.q.size[1]; ++h) {
        items.push_back({{place.sequence, h, place.i, place.i + r - first}, first});
      }
    }
  }
  return items;
}

/// Every row once, with the sum of the gradients of its repetitions: d lse and d q are linear in them.
struct DistinctRows {
  DistinctRows(const int64_t* rows, int64_t num_rows, const AnyView& weights, const AnyView& d_weights) {
    std::vector<int64_t> order(num_rows);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return rows[a] < rows[b]; });
    for (int64_t r : order) {
      if (this->rows.empty() || this->rows.back() != rows[r]) this->rows.push_back(rows[r]);
    }
    this->weights = weights, this->d_weights = d_weights;
    if (std::is_sorted(rows, rows + num_rows) && static_cast<int64_t>(this->rows.size()) == num_rows) return;
    std::array<int64_t, 4> size = weights.size;
    size[2] = static_cast<int64_t>(this->rows.size());
    const int64_t count = size[0] * size[1] * size[2] * size[3];
    block = allocate(2 * count * static_cast<int64_t>(sizeof(float)));
    auto* values = static_cast<float*>(block.get());
    std::fill_n(values, 2 * count, 0.0f);
    this->weights = {values, DType::f32, size, dense_strides(size)};
    this->d_weights = {values + count, DType::f32, size, dense_strides(size)};
    for (int64_t b = 0; b < size[0]; ++b) {
      for (int64_t h = 0; h < size[1]; ++h) {
        int64_t at = -1;
        for (int64_t i = 0; i < num_rows; ++i) {
          if (i == 0 || rows[order[i]] != rows[order[i - 1]]) ++at;
          for (int64_t j = 0; j < size[3]; ++j) {
            this->weights.as<float>().at(b, h, at, j) = weights.as<float>().at(b, h, order[i], j);
            this->d_weights.as<float>().at(b, h, at, j) += d_weights.as<float>().at(b, h, order[i], j);
          }
        }
      }
    }
  }

  std::vector<int64_t> rows;
  AnyView weights, d_weights;
  Block block;
};

}  // namespace

void attn_stats(const FlashParams& params, const AttnStats& stats) {
  if (takes_reference(params)) return reference::attn_stats(params, stats);
  const FlashParams p = weights_problem(params);
  check(p, stats);
  for (const AnyView* out : {&stats.column_sum, &stats.diagonal_sum, &stats.entropy, &stats.distance,
                             &stats.segment_mass, &stats.max_weight})
    clear(*out);
  if (is_empty(p.q) || p.k.size[2] == 0) return;
  const FlashTask task(p);
  std::vector<StatsItem> items = cut_rows(p, stats);
  std::vector<double> columns, diagonals;
  if (stats.column_sum) columns = sums_of_keys(p, items, &StatsItem::columns);
  if (stats.diagonal_sum) diagonals = sums_of_keys(p, items, &StatsItem::diagonals);
  for_each_item(static_cast<int64_t>(items.size()), stats_scratch_bytes(task, stats),
                [&](int64_t t, void* scratch) { run_stats_item(task, stats, items[t], scratch); });
  if (stats.column_sum) write_sums(p, items, &StatsItem::columns, stats.column_sum);
  if (stats.diagonal_sum) write_sums(p, items, &StatsItem::diagonals, stats.diagonal_sum);
}

void attention_lse(const FlashParams& params) {
  require(static_cast<bool>(params.lse), "attention_lse: lse has no data");
  FlashParams p = params;
  // A flash over values of one channel, whose output is thrown away.
  p.v = p.k, p.v.size[3] = 1;
  p.q_to_v_head = p.q_to_k_head;
  p.out = {nullptr, p.q.dtype, {p.q.size[0], p.q.size[1], p.q.size[2], 1}, {}};
  p.out.stride = dense_strides(p.out.size);
  const int64_t rows = p.q.size[0] * p.q.size[1] * p.q.size[2];
  const Block out = allocate(rows * static_cast<int64_t>(size_of(p.q.dtype)));
  p.out.data = out.get();
  p.scores.multiplier = {};
  p.dropout = {};
  flash_forward(p);
}

void attention_weights(const FlashParams& params, const int64_t* rows, int64_t num_rows, const AnyView& weights) {
  if (takes_reference(params)) return reference::attention_weights(params, rows, num_rows, weights);
  const FlashParams p = weights_problem(params);
  check_weights(p, rows, num_rows, weights, "weights");
  clear(weights);
  if (is_empty(p.q) || is_empty(weights)) return;
  const FlashTask task(p);
  const std::vector<WeightsItem> items = find_runs(p, rows, num_rows);
  for_each_item(static_cast<int64_t>(items.size()), weights_scratch_bytes(task),
                [&](int64_t t, void* scratch) { run_weights_item(task, weights, items[t], scratch); });
}

void attention_weights_backward(const FlashParams& params, const int64_t* rows, int64_t num_rows,
                                const AnyView& weights, const AnyView& d_weights, const AnyView& d_q,
                                const AnyView& d_k, const AnyView& d_lse) {
  if (takes_reference(params)) {
    return reference::attention_weights_backward(params, rows, num_rows, weights, d_weights, d_q, d_k, d_lse);
  }
  const FlashParams p = weights_problem(params);
  check_weights(p, rows, num_rows, weights, "weights");
  check_weights(p, rows, num_rows, d_weights, "d_weights");
  check_weight_grads(p, d_q, d_k, d_lse);
  for (const AnyView* grad : {&d_q, &d_k, &d_lse}) clear(*grad);
  if (is_empty(p.q) || is_empty(weights)) return;
  const FlashTask task(p);
  const DistinctRows distinct(rows, num_rows, weights, d_weights);
  const auto items = find_runs(p, distinct.rows.data(), static_cast<int64_t>(distinct.rows.size()));
  const WeightGrads grads{distinct.weights, distinct.d_weights, d_q, d_k, d_lse};
  const int64_t scratch_bytes = weight_grads_scratch_bytes(task);
  // One item a (sequence, key head): it alone writes the gradients of its keys and of the queries that read them.
  const int64_t key_heads = p.k.size[1];
  const int64_t key_bytes = p.k.size[2] * ((task.d + 15) / 16 * 16) * static_cast<int64_t>(sizeof(float));
  for_each_item(count_sequences(p) * key_heads, scratch_bytes + key_bytes, [&](int64_t t, char* scratch) {
    run_weight_grads(task, grads, items.data(), static_cast<int64_t>(items.size()), t / key_heads, t % key_heads,
                     reinterpret_cast<float*>(scratch + scratch_bytes), scratch);
  });
}

}  // namespace heed::kernels
