// The backward of the tile engine: five products per panel and tile, gradients of the inputs and of what belongs to
// rows.
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/flash_backward.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/flash_engine.h"
#include "kernels/cpu/flash_gradient-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

struct BackwardScratch {
  float *d_queries, *query_rows, *d_output_rows;
  GradientScratch shared;

  BackwardScratch(Arena& arena, const FlashTask& task)
      : d_queries(arena.take<float>(task.d * kBlockRows)),
        query_rows(arena.take<float>(round_up(task.d, 16) * kBlockRows)),
        d_output_rows(arena.take<float>(round_up(task.dv, 16) * kBlockRows)),
        shared(arena, task, false) {}
};

class BackwardBlock {
 public:
  BackwardBlock(const FlashTask& task, const FlashGrads& grads, const BlockItem& item, const BackwardScratch& scratch,
                float* d_key_rows, float* d_value_rows, const RowSums& sums)
      : task_(task),
        p_(task.p),
        g_(grads),
        item_(item),
        s_(scratch),
        block_(task, grads, item, scratch.shared),
        d_keys_(d_key_rows),
        d_values_(d_value_rows),
        sums_(sums),
        d_padded_(round_up(task.d, 16)),
        dv_padded_(round_up(task.dv, 16)) {}

  void run() {
    const Sequence& sequence = block_.sequence();
    block_.prepare();
    const int64_t count = item_.end - item_.begin;
    query_rows_ = transformed(task_.hook(&VariantTable::queries) != nullptr, p_.q, s_.shared.queries,
                              1 / block_.pack_factor(), s_.query_rows);
    d_output_rows_ =
        transformed(task_.hook(&VariantTable::outputs) != nullptr, g_.d_out, s_.shared.d_outputs, 1, s_.d_output_rows);
    std::fill_n(s_.d_queries, task_.d * round_up(count, kLanes), 0.0f);
    block_.sweep(0, sequence.num_keys,
                 [&](const Panel& panel, int64_t first, const TileCover& cover, FloatRows keys, FloatRows values) {
                   const Reach reach =
                       cover.masked ? Reach(s_.shared.bits, cover.end - cover.begin, panel.vectors) : Reach();
                   block_.tile(Gradient::inputs, panel, cover, reach, first, keys, values);
                   products(panel, first, cover, reach, keys);
                 });
    if (g_.d_q) write_queries();
    write_row_sums();
  }

 private:
  // The block's rows of q or d_out, one row after the other; turned back from the panels where a variant changed them.
  FloatRows transformed(bool changed, const AnyView& view, const float* panels, float factor, float* scratch) const {
    const Sequence& sequence = block_.sequence();
    const int64_t begin = sequence.q_begin + item_.begin, count = item_.end - item_.begin, columns = view.size[3];
    if (!changed) return query_rows(task_, view, sequence.tensor_batch, item_.head, begin, count, scratch, true);
    const int64_t stride = round_up(columns, kLanes);
    block_.panels([&](const Panel& panel, int64_t first) {
      HWY_ALIGN float factors[kPanelRows];
      std::fill_n(factors, panel.width(), factor);
      unpack_rows(panels + first * columns, panel.width(), panel.rows, columns, factors, scratch + first * stride,
                  stride);
      // The products read whole vectors.
      for (int64_t r = 0; r < panel.rows; ++r)
        std::fill_n(scratch + (first + r) * stride + columns, stride - columns, 0.0f);
    });
    return {scratch, stride};
  }

  void products(const Panel& panel, int64_t first, const TileCover& cover, const Reach& reach, FloatRows keys) {
    const GradientScratch& s = s_.shared;
    const int64_t width = panel.width(), count = cover.end - cover.begin;
    const FloatRows q{query_rows_.data + first * query_rows_.stride, query_rows_.stride};
    const FloatRows d_out{d_output_rows_.data + first * d_output_rows_.stride, d_output_rows_.stride};
    if (g_.d_v)
      add_key_rows(panel, cover, reach, s.weights, d_out, task_.dv, d_values_ + cover.begin * dv_padded_, dv_padded_);
    if (g_.d_k) add_key_rows(panel, cover, reach, s.d_logits, q, task_.d, d_keys_ + cover.begin * d_padded_, d_padded_);
    if (!g_.d_q) return;
    float* d_queries = s_.d_queries + first * task_.d;
    if (cover.masked && has_nonfinite(keys.data, keys.stride, count, task_.d)) {
      gemm_tn_visible(panel, cover, s.bits, keys.data, keys.stride, s.d_logits, d_queries, task_.d);
    } else if (cover.masked) {
      gemm_tn_reach(keys.data, keys.stride, s.d_logits, width, d_queries, width, task_.d, panel.vectors, reach,
                    store::Add());
    } else {
      gemm_tn(keys.data, keys.stride, s.d_logits, width, d_queries, width, task_.d, panel.vectors, count, store::Add());
    }
  }

  // rows of keys += tile [keys][queries] * rows of queries
  void add_key_rows(const Panel& panel, const TileCover& cover, const Reach& reach, const float* tile, FloatRows rows,
                    int64_t columns, float* to, int64_t padded) const {
    const int64_t vectors = (columns + kLanes - 1) / kLanes;
    if (cover.masked && has_nonfinite(rows.data, rows.stride, panel.rows, columns)) {
      gemm_nn_visible(panel, cover, s_.shared.bits, tile, rows.data, rows.stride, to, padded, vectors);
    } else if (cover.masked) {
      gemm_nn_of_seeing(tile, panel.width(), rows.data, rows.stride, to, padded, cover.end - cover.begin, vectors,
                        panel.rows, reach, store::Add());
    } else {
      gemm_nn(tile, panel.width(), rows.data, rows.stride, to, padded, cover.end - cover.begin, vectors, panel.rows,
              store::Add());
    }
  }

  void write_queries() {
    const Sequence& sequence = block_.sequence();
    const auto gradients = task_.hook(&VariantTable::query_gradients);
    block_.panels([&](const Panel& panel, int64_t first) {
      if (gradients != nullptr) {
        // The tiles are done with the transformed queries; their place takes the original ones.
        const FloatRows q = vector_rows(p_.q, sequence.tensor_batch, item_.head, sequence.q_begin + panel.i0,
                                        panel.rows, s_.shared.row);
        float* original = s_.shared.queries + first * task_.d;
        pack_transposed(q.data, q.stride, panel.rows, task_.d, 1, original, panel.width());
        gradients(variant_panel(panel), original, s_.d_queries + first * task_.d, task_.d);
      }
      HWY_ALIGN float factors[kPanelRows];
      std::fill_n(factors, panel.width(), static_cast<float>(task_.scale));
      write_panel(task_, s_.d_queries + first * task_.d, panel.width(), panel.rows, factors, g_.d_q,
                  sequence.tensor_batch, item_.head, sequence.q_begin + panel.i0, s_.shared.row);
    });
  }

  void write_row_sums() const {
    const Sequence& sequence = block_.sequence();
    const GradientScratch& s = s_.shared;
    const AnyView& sinks = p_.normalizer.sink_logit;
    for (int64_t r = 0; r < item_.end - item_.begin; ++r) {
      const int64_t at =
          (sequence.tensor_batch * p_.q.size[1] + item_.head) * p_.q.size[2] + sequence.q_begin + item_.begin + r;
      if (sums_.temperature != nullptr) sums_.temperature[at] = s.temperature_sum[r];
      if (sums_.sigmoid_bias != nullptr) sums_.sigmoid_bias[at] = s.bias_sum[r];
      if (sums_.sink == nullptr) continue;
      // The sink is one more key of value 0: its weight times (0 - delta).
      const float sink = static_cast<const float*>(sinks.data)[item_.head * sinks.stride[1]] * kLog2E;
      sums_.sink[at] = sink == -INFINITY ? 0 : -std::exp2(sink - s.log_sum[r]) * s.delta[r];
    }
  }

  const FlashTask& task_;
  const FlashParams& p_;
  const FlashGrads& g_;
  const BlockItem& item_;
  const BackwardScratch& s_;
  GradientBlock block_;
  FloatRows query_rows_{}, d_output_rows_{};
  float *d_keys_, *d_values_;
  const RowSums& sums_;
  int64_t d_padded_, dv_padded_;
};

void BackwardItem(const FlashTask& task, const FlashGrads& grads, const BackwardUnit& unit, const BlockItem& item,
                  const KeyGradients& buffer, const RowSums& sums, void* block) {
  Arena arena(block);
  const BackwardScratch scratch(arena, task);
  const auto place = [](const std::vector<int64_t>& heads, int64_t head) {
    return std::lower_bound(heads.begin(), heads.end(), head) - heads.begin();
  };
  BackwardBlock(task, grads, item, scratch, buffer.key_rows(place(unit.key_heads, key_head(task.p, item.head))),
                buffer.value_rows(place(unit.value_heads, value_head(task.p, item.head))), sums)
      .run();
}

int64_t BackwardBytes(const FlashTask& task) {
  Arena arena;
  const BackwardScratch scratch(arena, task);
  return arena.used();
}

/// to[r] = factor * (parts[0][r] + parts[1][r] + ...), rows [begin, end) of one head.
void SumParts(const float* const* parts, int64_t count, int64_t padded, int64_t begin, int64_t end, float factor,
              const AnyView& to, int64_t b, int64_t h, int64_t first_row, float* row, const int32_t* rows) {
  const Lanes d;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t target = rows == nullptr ? first_row + r : rows[r];
    if (target < 0) continue;
    for (int64_t c = 0; c < padded; c += kLanes) {
      Vector sum = hn::LoadU(d, parts[0] + r * padded + c);
      for (int64_t t = 1; t < count; ++t) sum = hn::Add(sum, hn::LoadU(d, parts[t] + r * padded + c));
      hn::StoreU(sum, d, row + c);
    }
    with_float_type(to, [&](auto* data) {
      write_row(row, factor, to.size[3], to.as<std::remove_pointer_t<decltype(data)>>().row(b, h, target));
    });
  }
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(BackwardItem);
HWY_EXPORT(BackwardBytes);
HWY_EXPORT(SumParts);

void run_backward_item(const FlashTask& task, const FlashGrads& grads, const BackwardUnit& unit, const BlockItem& item,
                       const KeyGradients& buffer, const RowSums& sums, void* block) {
  HEED_DISPATCH(BackwardItem)(task, grads, unit, item, buffer, sums, block);
}
int64_t backward_scratch_bytes(const FlashTask& task) { return HEED_DISPATCH(BackwardBytes)(task); }
void sum_parts(const float* const* parts, int64_t count, int64_t padded, int64_t begin, int64_t end, float factor,
               const AnyView& to, int64_t b, int64_t h, int64_t first_row, float* row, const int32_t* rows) {
  HEED_DISPATCH(SumParts)(parts, count, padded, begin, end, factor, to, b, h, first_row, row, rows);
}

}  // namespace heed::kernels
#endif  // HWY_ONCE
