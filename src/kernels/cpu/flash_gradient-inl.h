// The part that every gradient shares: for a panel of queries and a key tile, the weights and the logits' gradients.
#if defined(HEED_KERNELS_CPU_FLASH_GRADIENT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_FLASH_GRADIENT_INL_H_
#undef HEED_KERNELS_CPU_FLASH_GRADIENT_INL_H_
#else
#define HEED_KERNELS_CPU_FLASH_GRADIENT_INL_H_
#endif

#include <cmath>

#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/gemm_reach-inl.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/softmax_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

using Kind = Normalizer::Kind;

struct GradientScratch {
  float *queries, *d_outputs, *log_sum, *delta, *temperature_sum, *bias_sum, *gammas, *state,
      *d_state;                                                                  // of a block of rows
  float *weights, *d_logits, *saturation, *derivative, *factors, *keep, *pairs;  // of a tile
  float *key_rows, *value_rows, *row;
  uint32_t* bits;

  GradientScratch(Arena& arena, const FlashTask& task, bool keeps) {
    const int64_t d_padded = round_up(task.d, 16), dv_padded = round_up(task.dv, 16), tile = kTileKeys * kPanelRows;
    queries = arena.take<float>(task.d * kBlockRows);
    d_outputs = arena.take<float>(task.dv * kBlockRows);
    for (float** rows : {&log_sum, &delta, &temperature_sum, &bias_sum, &gammas}) *rows = arena.take<float>(kBlockRows);
    weights = arena.take<float>(tile);
    d_logits = arena.take<float>(tile);
    saturation = task.p.scores.softcap > 0 ? arena.take<float>(tile) : nullptr;
    derivative = task.hook(&VariantTable::logits) != nullptr ? arena.take<float>(tile) : nullptr;
    const int floats = task.variant.table != nullptr ? task.variant.table->row_state : 0;
    for (float** rows : {&state, &d_state}) *rows = floats > 0 ? arena.take<float>(floats * kBlockRows) : nullptr;
    factors = task.has_factors ? arena.take<float>(tile) : nullptr;
    pairs = task.has_pairs ? arena.take<float>(tile) : nullptr;
    keep = keeps ? arena.take<float>(tile) : nullptr;
    const bool converts = task.p.q.dtype != DType::f32 || task.order != nullptr;
    key_rows = converts ? arena.take<float>(kTileKeys * d_padded) : nullptr;
    value_rows = converts ? arena.take<float>(kTileKeys * dv_padded) : nullptr;
    row = arena.take<float>(kPanelRows * std::max(d_padded, dv_padded));
    bits = arena.take<uint32_t>(kTileKeys / 32 * kPanelRows);
  }
};

/// What a tile is wanted for.
enum class Gradient {
  inputs,  // weights: what multiplies v; d_logits: by the product q k
  terms,   // weights: the multiplier's gradient; d_logits: the bias's
  means,   // d_logits: p dp, whose sum over keys is delta (clipped softmax)
  states,  // weights: logits; d_logits: the weights' gradients (a variant's row state)
};

class GradientBlock {
 public:
  GradientBlock(const FlashTask& task, const FlashGrads& grads, const BlockItem& item, const GradientScratch& scratch)
      : task_(task), p_(task.p), g_(grads), item_(item), s_(scratch), sequence_(sequence_at(task.p, item.sequence)) {
    pack_factor_ = static_cast<float>(task.natural ? task.scale : task.scale * M_LOG2E);
  }

  const Sequence& sequence() const { return sequence_; }
  float pack_factor() const { return pack_factor_; }

  template <class Visit>
  void panels(const Visit& visit) const {
    each_panel(task_, sequence_, item_.head, item_.begin, item_.end, visit);
  }

  /// Packs the rows, and what the elementwise part needs of each row.
  void prepare() {
    panels([&](const Panel& panel, int64_t first) {
      const int64_t b = sequence_.tensor_batch, begin = sequence_.q_begin + panel.i0;
      const FloatRows q = query_rows(task_, p_.q, b, item_.head, begin, panel.rows, s_.row);
      pack_queries(panel, q, pack_factor_, s_.queries + first * task_.d);
      const FloatRows d_out = query_rows(task_, g_.d_out, b, item_.head, begin, panel.rows, s_.row);
      pack_transposed(d_out.data, d_out.stride, panel.rows, task_.dv, 1, s_.d_outputs + first * task_.dv,
                      panel.width());
      const auto outputs = task_.hook(&VariantTable::outputs);
      if (outputs != nullptr) outputs(variant_panel(panel), s_.d_outputs + first * task_.dv, task_.dv);
    });
    const int64_t rows = item_.end - item_.begin, lanes = round_up(rows, kLanes);
    for (int64_t r = 0; r < lanes; ++r) {
      s_.temperature_sum[r] = s_.bias_sum[r] = s_.delta[r] = 0;
      s_.log_sum[r] = INFINITY;  // weights are 0: rows beyond the block, and rows that see nothing
      if (r >= rows || p_.normalizer.kind == Kind::sigmoid || task_.own_weights) continue;
      const int64_t b = sequence_.tensor_batch, i = task_.query_row(sequence_.q_begin + item_.begin + r);
      if (i < 0) continue;
      const float lse = *p_.lse.as<float>().row(b, item_.head, i);
      if (lse != -INFINITY) s_.log_sum[r] = lse * kLog2E;
      s_.delta[r] = g_.d_lse ? -*g_.d_lse.as<float>().row(b, item_.head, i) : 0;
      if (p_.normalizer.kind == Kind::softmax) s_.delta[r] += output_product(b, i);
    }
    std::fill_n(s_.gammas, lanes, 0.0f);
    if (p_.normalizer.kind == Kind::clipped_softmax) {
      panels([&](const Panel& panel, int64_t first) { fill_gammas(panel, s_.gammas + first); });
      add_means();
    }
    if (s_.state != nullptr) prepare_state();
  }

  /// Fills s_.weights and s_.d_logits of a tile; hidden pairs are 0 in both. `reach`: of the tile, when it is masked.
  void tile(Gradient wanted, const Panel& panel, const TileCover& cover, const Reach& reach, int64_t first,
            FloatRows keys, FloatRows values) const {
    const int64_t width = panel.width(), count = cover.end - cover.begin;
    const bool plain =
        !task_.natural && !task_.has_factors && p_.normalizer.kind == Kind::softmax && wanted == Gradient::inputs;
    if (plain && cover.masked) {
      gemm_nn_reach(keys.data, keys.stride, s_.queries + first * task_.d, width, s_.weights, width, count,
                    panel.vectors, task_.d, reach, store::Overwrite());
      gemm_nn_reach(values.data, values.stride, s_.d_outputs + first * task_.dv, width, s_.d_logits, width, count,
                    panel.vectors, task_.dv, reach, store::Overwrite());
      return plain_softmax(panel, cover, first);
    }
    gemm_nn(keys.data, keys.stride, s_.queries + first * task_.d, width, s_.weights, width, count, panel.vectors,
            task_.d, store::Overwrite());
    gemm_nn(values.data, values.stride, s_.d_outputs + first * task_.dv, width, s_.d_logits, width, count,
            panel.vectors, task_.dv, store::Overwrite());
    if (task_.has_scores) apply_scores(panel, cover, s_.weights, s_.pairs, s_.saturation, s_.derivative);
    if (task_.has_factors) fill_factors(panel, cover, s_.factors, s_.pairs);
    if (s_.keep != nullptr) fill_factors(panel, cover, s_.keep, s_.pairs, false);
    if (task_.own_weights) {
      own_weights(wanted, panel, cover, first);
    } else if (plain) {
      plain_softmax(panel, cover, first);
    } else {
      elementwise(wanted, panel, cover, first);
    }
  }

  /// Calls visit(panel, first, cover, keys, values) for the visible part of every tile of keys [begin, end) and panel.
  template <class Visit>
  void sweep(int64_t begin, int64_t end, const Visit& visit) const {
    walk_tiles(task_, sequence_, item_.head, item_.begin, item_.end, kTileKeys, [&](int64_t j0, int64_t j1) {
      if (j0 < begin || j0 >= end) return;
      FloatRows keys{}, values{};
      panels([&](const Panel& panel, int64_t first) {
        const TileCover cover = cover_panel(panel, j0, j1, s_.bits);
        if (cover.empty()) return;
        const int64_t b = sequence_.tensor_batch, row = sequence_.k_begin + j0;
        if (keys.data == nullptr) {
          keys = key_rows(task_, p_.k, b, key_head(p_, item_.head), row, j1 - j0, s_.key_rows);
          values = key_rows(task_, p_.v, b, value_head(p_, item_.head), row, j1 - j0, s_.value_rows);
        }
        const int64_t skip = cover.begin - j0;
        visit(panel, first, cover, FloatRows{keys.data + skip * keys.stride, keys.stride},
              FloatRows{values.data + skip * values.stride, values.stride});
      });
    });
  }

  const GradientScratch& scratch() const { return s_; }

 private:
  // sum_d out_d * d_out_d, which is sum_j p_j dp_j.
  float output_product(int64_t b, int64_t i) const {
    float sum = 0;
    with_float_type(p_.out, [&](auto* data) {
      using T = std::remove_pointer_t<decltype(data)>;
      const T* out = p_.out.template as<T>().row(b, item_.head, i);
      const T* d_out = g_.d_out.template as<T>().row(b, item_.head, i);
      Vector total = hn::Zero(Lanes());
      int64_t c = 0;
      for (; c + kLanes <= task_.dv; c += kLanes)
        total = hn::MulAdd(load_vector(out + c), load_vector(d_out + c), total);
      if (c < task_.dv) total = hn::MulAdd(load_some(out + c, task_.dv - c), load_some(d_out + c, task_.dv - c), total);
      sum = hn::GetLane(hn::SumOfLanes(Lanes(), total));
    });
    return sum;
  }

  void add_means() {
    sweep(0, sequence_.num_keys,
          [&](const Panel& panel, int64_t first, const TileCover& cover, FloatRows keys, FloatRows values) {
            tile(Gradient::means, panel, cover, Reach(), first, keys, values);
            for (int64_t v = 0; v < panel.width(); v += kLanes) {
              Vector sum = hn::LoadU(Lanes(), s_.delta + first + v);
              for (int64_t j = 0; j < cover.end - cover.begin; ++j)
                sum = hn::Add(sum, hn::LoadU(Lanes(), s_.d_logits + j * panel.width() + v));
              hn::StoreU(sum, Lanes(), s_.delta + first + v);
            }
          });
  }

  float* state(float* rows, int64_t first) const {
    return rows == nullptr ? nullptr : rows + first * task_.variant.table->row_state;
  }

  // The row state again, then what the weights pass back to it.
  void prepare_state() {
    const VariantTable& table = *task_.variant.table;
    std::fill_n(s_.d_state, table.row_state * round_up(item_.end - item_.begin, kLanes), 0.0f);
    panels([&](const Panel& panel, int64_t first) { table.start(variant_panel(panel), state(s_.state, first)); });
    for (bool gradient : {false, true}) {
      sweep(0, sequence_.num_keys,
            [&](const Panel& panel, int64_t first, const TileCover& cover, FloatRows keys, FloatRows values) {
              tile(Gradient::states, panel, cover, Reach(), first, keys, values);
              const VariantPanel rows = variant_panel(panel);
              const VariantKeys tile_keys = variant_keys(cover, s_.bits);
              if (gradient) {
                table.state_gradients(rows, tile_keys, s_.weights, s_.d_logits, state(s_.state, first),
                                      state(s_.d_state, first));
              } else {
                table.update(rows, tile_keys, s_.weights, state(s_.state, first));
              }
            });
    }
  }

  void own_weights(Gradient wanted, const Panel& panel, const TileCover& cover, int64_t first) const {
    const Lanes d;
    const VariantTable& table = *task_.variant.table;
    const int64_t width = panel.width(), count = (cover.end - cover.begin) * width;
    if (task_.has_factors) multiply(panel, cover, s_.d_logits, s_.factors);
    if (wanted == Gradient::states) return;
    table.weight_gradients(variant_panel(panel), variant_keys(cover, s_.bits), s_.weights, s_.d_logits,
                           state(s_.state, first), state(s_.d_state, first));
    zero_hidden(panel, cover, s_.bits, s_.d_logits);
    for (int64_t v = 0; v < panel.vectors; ++v) {
      const Vector inverse_t = inverse_temperature(panel, v);
      for (int64_t at = v * kLanes; at < count; at += width) {
        Vector d_logit = hn::Mul(hn::LoadU(d, s_.d_logits + at), inverse_t);
        if (wanted == Gradient::inputs) d_logit = through_scores(d_logit, at);
        hn::StoreU(d_logit, d, s_.d_logits + at);
      }
    }
    if (task_.has_factors) multiply(panel, cover, s_.weights, s_.factors);
    zero_hidden(panel, cover, s_.bits, s_.d_logits);
    zero_hidden(panel, cover, s_.bits, s_.weights);
  }

  // From the gradient by the capped logit to that by the scaled product.
  HWY_INLINE Vector through_scores(Vector d_logit, int64_t at) const {
    const Lanes d;
    if (s_.saturation != nullptr) {
      const Vector t = hn::LoadU(d, s_.saturation + at);
      d_logit = hn::Mul(d_logit, hn::NegMulAdd(t, t, hn::Set(d, 1.0f)));
    }
    if (s_.derivative != nullptr) d_logit = hn::Mul(d_logit, hn::LoadU(d, s_.derivative + at));
    return d_logit;
  }

  void plain_softmax(const Panel& panel, const TileCover& cover, int64_t first) const {
    const Lanes d;
    const int64_t width = panel.width(), count = cover.end - cover.begin;
    for (int64_t v = 0; v < panel.vectors; ++v) {
      const Vector log_sum = hn::LoadU(d, s_.log_sum + first + v * kLanes),
                   delta = hn::LoadU(d, s_.delta + first + v * kLanes);
      for (int64_t j = 0; j < count; ++j) {
        float *weight = s_.weights + j * width + v * kLanes, *d_logit = s_.d_logits + j * width + v * kLanes;
        Vector p = exp2_of(hn::Sub(hn::LoadU(d, weight), log_sum)),
               gradient = hn::Mul(p, hn::Sub(hn::LoadU(d, d_logit), delta));
        if (cover.masked) {
          // Products of hidden pairs may not have been taken; anything stands there.
          const auto seen = visible_lanes(panel, cover, s_.bits, v, cover.begin + j);
          p = hn::IfThenElseZero(seen, p), gradient = hn::IfThenElseZero(seen, gradient);
        }
        hn::StoreU(p, d, weight);
        hn::StoreU(gradient, d, d_logit);
      }
    }
  }

  void elementwise(Gradient wanted, const Panel& panel, const TileCover& cover, int64_t first) const {
    const Lanes d;
    const Normalizer& n = p_.normalizer;
    const int64_t width = panel.width();
    const Vector one = hn::Set(d, 1.0f), zero = hn::Zero(d), unit = hn::Set(d, task_.natural ? kLog2E : 1.0f);
    const Vector zeta = hn::Set(d, static_cast<float>(n.zeta));
    const Vector bias = hn::Set(d, n.kind == Kind::sigmoid ? sigmoid_bias(panel) : 0.0f);
    for (int64_t v = 0; v < panel.vectors; ++v) {
      const Vector log_sum = hn::LoadU(d, s_.log_sum + first + v * kLanes),
                   delta = hn::LoadU(d, s_.delta + first + v * kLanes);
      const Vector offset = hn::LoadU(d, s_.gammas + first + v * kLanes), stretch = hn::Sub(zeta, offset);
      const Vector inverse_t = inverse_temperature(panel, v);
      Vector temperature_sum = hn::LoadU(d, s_.temperature_sum + first + v * kLanes),
             bias_sum = hn::LoadU(d, s_.bias_sum + first + v * kLanes);
      for (int64_t j = cover.begin; j < cover.end; ++j) {
        const int64_t at = (j - cover.begin) * width + v * kLanes;
        const auto seen = cover.masked ? visible_lanes(panel, cover, s_.bits, v, j) : hn::Eq(zero, zero);
        const Vector s = hn::LoadU(d, s_.weights + at), d_after = hn::LoadU(d, s_.d_logits + at);
        Vector d_normal = d_after;
        if (task_.has_factors) d_normal = hn::Mul(d_normal, hn::LoadU(d, s_.factors + at));
        Vector normal, d_logit;
        if (n.kind == Kind::sigmoid) {
          normal = sigmoid_of(hn::Add(s, bias));
          d_logit = hn::Mul(d_normal, hn::Mul(normal, hn::Sub(one, normal)));
        } else {
          const Vector p = exp2_of(hn::Sub(hn::Mul(s, unit), log_sum));
          normal = p;
          if (n.kind == Kind::clipped_softmax) {
            const Vector stretched = hn::MulAdd(stretch, p, offset);
            const auto inside = hn::And(hn::Gt(stretched, zero), hn::Lt(stretched, one));
            normal = hn::IfThenElse(hn::IsNaN(stretched), stretched, hn::Min(hn::Max(stretched, zero), one));
            d_normal = hn::IfThenElseZero(inside, hn::Mul(d_normal, stretch));
          }
          d_logit = wanted == Gradient::means ? hn::Mul(p, d_normal) : hn::Mul(p, hn::Sub(d_normal, delta));
        }
        d_logit = hn::IfThenElseZero(seen, d_logit);
        if (wanted == Gradient::inputs) {
          // A logit of -inf has weight and derivative 0, although -inf * 0 has not.
          const Vector moment = hn::IfThenZeroElse(hn::Eq(d_logit, zero), hn::Mul(d_logit, s));
          temperature_sum = hn::Sub(temperature_sum, hn::Mul(moment, inverse_t));
          bias_sum = hn::Add(bias_sum, d_logit);
        }
        if (wanted != Gradient::means) d_logit = hn::Mul(d_logit, inverse_t);
        Vector weight = normal;
        if (wanted == Gradient::inputs) {
          d_logit = hn::IfThenElseZero(seen, through_scores(d_logit, at));
          if (task_.has_factors) weight = hn::Mul(normal, hn::LoadU(d, s_.factors + at));
        } else if (wanted == Gradient::terms) {
          weight = hn::Mul(hn::Mul(normal, d_after), hn::LoadU(d, s_.keep + at));
        }
        hn::StoreU(hn::IfThenElseZero(seen, weight), d, s_.weights + at);
        hn::StoreU(d_logit, d, s_.d_logits + at);
      }
      hn::StoreU(temperature_sum, d, s_.temperature_sum + first + v * kLanes);
      hn::StoreU(bias_sum, d, s_.bias_sum + first + v * kLanes);
    }
  }

  const FlashTask& task_;
  const FlashParams& p_;
  const FlashGrads& g_;
  const BlockItem& item_;
  const GradientScratch& s_;
  const Sequence sequence_;
  float pack_factor_;
};

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
