// Chosen rows of the attention map, written out, and their gradients.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention_weights.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/weights_block-inl.h"
#include "kernels/cpu/weights_task.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

void RunWeightsItem(const FlashTask& task, const AnyView& weights, const WeightsItem& item, void* memory) {
  Arena arena(memory);
  const WeightScratch scratch(arena, task);
  const WeightBlock block(task, item.rows, scratch);
  const Sequence& sequence = block.sequence();
  const auto to = weights.as<float>();
  block.prepare();
  block.sweep([&](const Panel& panel, int64_t first, const TileCover& cover, FloatRows keys) {
    const Lanes d;
    const int64_t width = panel.width(), count = cover.end - cover.begin;
    block.log_weights(panel, first, cover, keys);
    for (int64_t c = 0; c < count * width; c += kLanes) {
      hn::StoreU(exp2_of(hn::Mul(hn::LoadU(d, scratch.tile + c), hn::Set(d, kLog2E))), d, scratch.tile + c);
    }
    HWY_ALIGN float ones[kPanelRows];
    std::fill_n(ones, kPanelRows, 1.0f);
    float* rows = to.row(sequence.tensor_batch, item.rows.head, item.first + first) + sequence.k_begin + cover.begin;
    unpack_rows(scratch.tile, width, panel.rows, count, ones, rows, to.stride[2]);
  });
}

struct WeightGradScratch {
  WeightGradScratch(Arena& arena, const FlashTask& task)
      : shared(arena, task),
        d_logits(arena.take<float>(kTileKeys * kPanelRows)),
        d_weights(arena.take<float>(kTileKeys * kPanelRows)),
        d_queries(arena.take<float>(task.d * kBlockRows)),
        query_rows(arena.take<float>(round_up(task.d, 16) * kBlockRows)),
        d_lse(arena.take<float>(kBlockRows)) {}

  WeightScratch shared;
  float *d_logits, *d_weights, *d_queries, *query_rows, *d_lse;
};

class WeightGradBlock {
 public:
  WeightGradBlock(const FlashTask& task, const WeightGrads& grads, const WeightsItem& item, float* d_keys,
                  const WeightGradScratch& scratch)
      : task_(task),
        p_(task.p),
        g_(grads),
        item_(item),
        d_keys_(d_keys),
        s_(scratch),
        block_(task, item.rows, scratch.shared) {}

  void run() {
    const Sequence& sequence = block_.sequence();
    const int64_t rows = item_.rows.end - item_.rows.begin;
    block_.prepare();
    query_rows_ = vector_rows(p_.q, sequence.tensor_batch, item_.rows.head, sequence.q_begin + item_.rows.begin, rows,
                              s_.query_rows, true);
    std::fill_n(s_.d_queries, task_.d * round_up(rows, kLanes), 0.0f);
    std::fill_n(s_.d_lse, round_up(rows, kLanes), 0.0f);
    block_.sweep([&](const Panel& panel, int64_t first, const TileCover& cover, FloatRows keys) {
      // The derivative of the soft cap is a function of the logit, the rest of the weights alone.
      if (s_.shared.saturation != nullptr) block_.log_weights(panel, first, cover, keys);
      fill_d_logits(panel, first, cover);
      add_products(panel, first, cover, keys);
    });
    write();
  }

 private:
  void fill_d_logits(const Panel& panel, int64_t first, const TileCover& cover) const {
    const Lanes d;
    const Sequence& sequence = block_.sequence();
    const int64_t width = panel.width(), count = cover.end - cover.begin;
    const auto load = [&](const AnyView& view, float* to) {
      const float* from = view.as<const float>().row(sequence.tensor_batch, item_.rows.head, item_.first + first) +
                          sequence.k_begin + cover.begin;
      if (std::abs(view.stride[2]) <= kLargestGatherStride) {
        pack_transposed(from, view.stride[2], panel.rows, count, 1, to, width);
        return;
      }
      for (int64_t c = 0; c < count; ++c) {
        for (int64_t r = 0; r < width; ++r) to[c * width + r] = r < panel.rows ? from[r * view.stride[2] + c] : 0;
      }
    };
    load(g_.weights, s_.d_logits);
    load(g_.d_weights, s_.d_weights);
    for (int64_t v = 0; v < panel.vectors; ++v) {
      const Vector inverse_t = inverse_temperature(panel, v);
      Vector sum = hn::Zero(d);
      for (int64_t j = cover.begin; j < cover.end; ++j) {
        const int64_t at = (j - cover.begin) * width + v * kLanes;
        Vector g = hn::Mul(hn::LoadU(d, s_.d_logits + at), hn::LoadU(d, s_.d_weights + at));
        if (cover.masked) g = hn::IfThenElseZero(visible_lanes(panel, cover, s_.shared.bits, v, j), g);
        sum = hn::Add(sum, g);
        g = hn::Mul(g, inverse_t);
        if (s_.shared.saturation != nullptr) {
          const Vector t = hn::LoadU(d, s_.shared.saturation + at);
          // A weight of 0 has derivative 0, although 0 * NaN has not: its logit may be -inf.
          g = hn::IfThenZeroElse(hn::Eq(g, hn::Zero(d)), hn::NegMulAdd(hn::Mul(t, t), g, g));
        }
        hn::StoreU(g, d, s_.d_logits + at);
      }
      float* total = s_.d_lse + first + v * kLanes;
      hn::StoreU(hn::Sub(hn::LoadU(d, total), sum), d, total);
    }
  }

  void add_products(const Panel& panel, int64_t first, const TileCover& cover, FloatRows keys) const {
    const int64_t width = panel.width(), count = cover.end - cover.begin, padded = round_up(task_.d, 16);
    const uint32_t* bits = s_.shared.bits;
    if (g_.d_k) {
      const FloatRows q{query_rows_.data + first * query_rows_.stride, query_rows_.stride};
      const int64_t vectors = (task_.d + kLanes - 1) / kLanes;
      float* to = d_keys_ + cover.begin * padded;
      if (cover.masked && has_nonfinite(q.data, q.stride, panel.rows, task_.d)) {
        gemm_nn_visible(panel, cover, bits, s_.d_logits, q.data, q.stride, to, padded, vectors);
      } else {
        gemm_nn(s_.d_logits, width, q.data, q.stride, to, padded, count, vectors, panel.rows, store::Add());
      }
    }
    if (!g_.d_q) return;
    float* d_queries = s_.d_queries + first * task_.d;
    if (cover.masked && has_nonfinite(keys.data, keys.stride, count, task_.d)) {
      gemm_tn_visible(panel, cover, bits, keys.data, keys.stride, s_.d_logits, d_queries, task_.d);
    } else {
      gemm_tn(keys.data, keys.stride, s_.d_logits, width, d_queries, width, task_.d, panel.vectors, count,
              store::Add());
    }
  }

  void write() const {
    const Sequence& sequence = block_.sequence();
    block_.panels([&](const Panel& panel, int64_t first) {
      const int64_t n = sequence.q_begin + panel.i0;
      for (int64_t r = 0; g_.d_lse && r < panel.rows; ++r) {
        *g_.d_lse.as<float>().row(sequence.tensor_batch, item_.rows.head, n + r) = s_.d_lse[first + r];
      }
      if (!g_.d_q) return;
      HWY_ALIGN float factors[kPanelRows];
      std::fill_n(factors, kPanelRows, static_cast<float>(task_.scale));
      write_panel(task_, s_.d_queries + first * task_.d, panel.width(), panel.rows, factors, g_.d_q,
                  sequence.tensor_batch, item_.rows.head, n, s_.shared.row);
    });
  }

  const FlashTask& task_;
  const FlashParams& p_;
  const WeightGrads& g_;
  const WeightsItem& item_;
  float* d_keys_;
  const WeightGradScratch& s_;
  const WeightBlock block_;
  FloatRows query_rows_{};
};

void RunWeightGrads(const FlashTask& task, const WeightGrads& grads, const WeightsItem* items, int64_t count,
                    int64_t sequence_index, int64_t head, float* d_keys, void* memory) {
  const Sequence sequence = sequence_at(task.p, sequence_index);
  const int64_t padded = round_up(task.d, 16);
  if (grads.d_k) std::fill_n(d_keys, sequence.num_keys * padded, 0.0f);
  for (int64_t t = 0; t < count; ++t) {
    if (items[t].rows.sequence != sequence_index || key_head(task.p, items[t].rows.head) != head) continue;
    Arena arena(memory);
    const WeightGradScratch scratch(arena, task);
    WeightGradBlock(task, grads, items[t], d_keys, scratch).run();
  }
  if (!grads.d_k) return;
  with_float_type(grads.d_k, [&](auto* data) {
    const auto to = grads.d_k.as<std::remove_pointer_t<decltype(data)>>();
    for (int64_t j = 0; j < sequence.num_keys; ++j) {
      write_row(d_keys + j * padded, static_cast<float>(task.scale), task.d,
                to.row(sequence.tensor_batch, head, sequence.k_begin + j));
    }
  });
}

int64_t WeightsBytes(const FlashTask& task) {
  Arena arena;
  const WeightScratch scratch(arena, task);
  return arena.used();
}
int64_t WeightGradsBytes(const FlashTask& task) {
  Arena arena;
  const WeightGradScratch scratch(arena, task);
  return arena.used();
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(RunWeightsItem);
HWY_EXPORT(RunWeightGrads);
HWY_EXPORT(WeightsBytes);
HWY_EXPORT(WeightGradsBytes);

void run_weights_item(const FlashTask& task, const AnyView& weights, const WeightsItem& item, void* scratch) {
  HEED_DISPATCH(RunWeightsItem)(task, weights, item, scratch);
}
int64_t weights_scratch_bytes(const FlashTask& task) { return HEED_DISPATCH(WeightsBytes)(task); }
void run_weight_grads(const FlashTask& task, const WeightGrads& grads, const WeightsItem* items, int64_t count,
                      int64_t sequence, int64_t key_head, float* d_keys, void* scratch) {
  HEED_DISPATCH(RunWeightGrads)(task, grads, items, count, sequence, key_head, d_keys, scratch);
}
int64_t weight_grads_scratch_bytes(const FlashTask& task) { return HEED_DISPATCH(WeightGradsBytes)(task); }

}  // namespace heed::kernels
#endif  // HWY_ONCE
