// From logits to weights on a tile S^T [keys][width]: everything is vertical, a lane is a query.
#if defined(HEED_KERNELS_CPU_SOFTMAX_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_SOFTMAX_TILE_INL_H_
#undef HEED_KERNELS_CPU_SOFTMAX_TILE_INL_H_
#else
#define HEED_KERNELS_CPU_SOFTMAX_TILE_INL_H_
#endif

#include <limits>
#include <type_traits>

#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/exp-inl.h"
#include "kernels/cpu/rows_ahead.h"
#include "kernels/cpu/scores_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

HWY_INLINE Vector minus_infinity() { return hn::Set(Lanes(), -std::numeric_limits<float>::infinity()); }

/// Hidden pairs become -inf, whatever stands there; logits are multiplied by `unit`; `maximum` [width] follows.
HWY_INLINE void hide_and_maximize(const Panel& panel, const TileCover& cover, const uint32_t* bits, float unit,
                                  float* tile, float* maximum) {
  const Lanes d;
  const Vector factor = hn::Set(d, unit);
  const int64_t width = panel.width();
  for (int64_t v = 0; v < panel.vectors; ++v) {
    Vector top = hn::LoadU(d, maximum + v * kLanes);
    for (int64_t j = cover.begin; j < cover.end; ++j) {
      float* at = tile + (j - cover.begin) * width + v * kLanes;
      Vector s = hn::Mul(hn::LoadU(d, at), factor);
      if (cover.masked) s = hn::IfThenElse(visible_lanes(panel, cover, bits, v, j), s, minus_infinity());
      top = hn::Max(s, top);
      hn::StoreU(s, d, at);
    }
    hn::StoreU(top, d, maximum + v * kLanes);
  }
}

/// Zeroes hidden pairs, whatever stands there.
HWY_INLINE void zero_hidden(const Panel& panel, const TileCover& cover, const uint32_t* bits, float* tile) {
  const Lanes d;
  if (!cover.masked) return;
  for (int64_t j = cover.begin; j < cover.end; ++j) {
    for (int64_t v = 0; v < panel.vectors; ++v) {
      float* at = tile + (j - cover.begin) * panel.width() + v * kLanes;
      hn::StoreU(hn::IfThenElseZero(visible_lanes(panel, cover, bits, v, j), hn::LoadU(d, at)), d, at);
    }
  }
}

/// A row that has seen nothing has the maximum -inf; weights are taken against 0 then, and are 0.
HWY_INLINE Vector finite_maximum(Vector maximum) {
  return hn::IfThenZeroElse(hn::Eq(maximum, minus_infinity()), maximum);
}

/// tile = 2^(tile - maximum), sum += its column sums. V vectors wide.
template <int V>
HWY_INLINE void exponentiate_columns(float* HWY_RESTRICT tile, int64_t keys, const float* HWY_RESTRICT maximum,
                                     float* HWY_RESTRICT sum) {
  const Lanes d;
  Vector top[V], total[V];
  HWY_UNROLL(4) for (int v = 0; v < V; ++v) {
    top[v] = finite_maximum(hn::LoadU(d, maximum + v * kLanes));
    total[v] = hn::LoadU(d, sum + v * kLanes);
  }
  for (int64_t j = 0; j < keys; ++j) {
    HWY_UNROLL(4) for (int v = 0; v < V; ++v) {
      const Vector p = exp2_of(hn::Sub(hn::LoadU(d, tile + v * kLanes), top[v]));
      hn::StoreU(p, d, tile + v * kLanes);
      total[v] = hn::Add(total[v], p);
    }
    tile += V * kLanes;
  }
  HWY_UNROLL(4) for (int v = 0; v < V; ++v) hn::StoreU(total[v], d, sum + v * kLanes);
}

namespace store {

/// C = 2^(A B - shift[column]), sum[column] += the column sums of C; `ahead` takes a step a register tile. The caller
/// flushes denormals.
struct Exponential : Overwrite {
  const float* shift;
  float* sum;
  RowsAhead* ahead;
  HWY_INLINE void begin() const { ahead->step(); }
  HWY_INLINE Vector start(int64_t column) const { return hn::Neg(hn::LoadU(Lanes(), shift + column)); }
  HWY_INLINE Vector open(int64_t column, int64_t) const { return hn::LoadU(Lanes(), sum + column); }
  HWY_INLINE Vector join(Vector& total, Vector logit, const float*, int64_t) const {
    const Vector weight = exp2_flushed(logit);
    total = hn::Add(total, weight);
    return weight;
  }
  HWY_INLINE void close(Vector total, int64_t column) const { hn::StoreU(total, Lanes(), sum + column); }
};

/// C += A B; `ahead` takes a step a register tile.
struct AddAhead : Add {
  RowsAhead* ahead;
  HWY_INLINE void begin() const { ahead->step(); }
};

/// The same, and 0 for hidden pairs whatever their logits. `bits` as cover_tile writes them; `width` floats a row of C.
struct MaskedExponential : Exponential {
  const uint32_t* bits;
  int64_t width;
  struct State {
    Vector total;
    hn::Vec<Words> seen;
  };
  HWY_INLINE State open(int64_t column, int64_t row) const {
    return {hn::LoadU(Lanes(), sum + column), hn::LoadU(Words(), bits + row / 32 * width + column)};
  }
  HWY_INLINE Vector join(State& state, Vector logit, const float*, int64_t row) const {
    const auto seen = hn::TestBit(state.seen, hn::Set(Words(), uint32_t{1} << (row % 32)));
    const Vector weight = hn::IfThenElseZero(hn::RebindMask(Lanes(), seen), exp2_flushed(logit));
    state.total = hn::Add(state.total, weight);
    return weight;
  }
  HWY_INLINE void close(const State& state, int64_t column) const { hn::StoreU(state.total, Lanes(), sum + column); }
};

}  // namespace store

HWY_INLINE void exponentiate(const Panel& panel, const TileCover& cover, float* tile, const float* maximum,
                             float* sum) {
  const int64_t keys = cover.end - cover.begin;
  if (panel.vectors == 3) {
    exponentiate_columns<3>(tile, keys, maximum, sum);
  } else if (panel.vectors == 2) {
    exponentiate_columns<2>(tile, keys, maximum, sum);
  } else {
    exponentiate_columns<1>(tile, keys, maximum, sum);
  }
}

/// The maximum moved from `before` to `after`: factor = 2^(before - after), sum *= factor. False when nothing moved.
HWY_INLINE bool rescale(int64_t width, const float* before, const float* after, float* sum, float* factor) {
  const Lanes d;
  bool moved = false;
  for (int64_t c = 0; c < width; c += kLanes) {
    const Vector old_top = hn::LoadU(d, before + c), top = hn::LoadU(d, after + c);
    moved |= !hn::AllTrue(d, hn::Eq(old_top, top));
    const Vector f = exp2_of(hn::Sub(old_top, finite_maximum(top)));
    hn::StoreU(f, d, factor + c);
  }
  if (!moved) return false;
  for (int64_t c = 0; c < width; c += kLanes)
    hn::StoreU(hn::Mul(hn::LoadU(d, sum + c), hn::LoadU(d, factor + c)), d, sum + c);
  return true;
}

/// gamma [width] of the panel's rows.
HWY_INLINE void fill_gammas(const Panel& panel, float* gammas) {
  for (int64_t r = 0; r < panel.width(); ++r) {
    const int64_t row = panel.i0 + std::min(r, panel.rows - 1);
    gammas[r] = static_cast<float>(gamma_of(panel.task->p, panel.sequence, panel.head, row));
  }
}

/// tile = clip((zeta - gamma) 2^(tile - log_sum) + gamma, 0, 1). NaN stays.
HWY_INLINE void clipped_softmax(const Panel& panel, const TileCover& cover, float* tile, const float* log_sum,
                                const float* gammas) {
  const Lanes d;
  const Vector zeta = hn::Set(d, static_cast<float>(panel.task->p.normalizer.zeta));
  for (int64_t v = 0; v < panel.vectors; ++v) {
    const Vector offset = hn::LoadU(d, gammas + v * kLanes), stretch = hn::Sub(zeta, offset);
    for (int64_t j = cover.begin; j < cover.end; ++j) {
      float* at = tile + (j - cover.begin) * panel.width() + v * kLanes;
      const Vector p = exp2_of(hn::Sub(hn::LoadU(d, at), hn::LoadU(d, log_sum + v * kLanes)));
      const Vector stretched = hn::MulAdd(stretch, p, offset);
      const Vector clipped = hn::Min(hn::Max(stretched, hn::Zero(d)), hn::Set(d, 1.0f));
      hn::StoreU(hn::IfThenElse(hn::IsNaN(stretched), stretched, clipped), d, at);
    }
  }
}

/// Queries [i, i + count) of a tensor, as vector_rows has them.
HWY_INLINE FloatRows query_rows(const FlashTask& task, const AnyView& view, int64_t b, int64_t h, int64_t i,
                                int64_t count, float* scratch, bool whole = false) {
  if (task.order == nullptr) return vector_rows(view, b, h, i, count, scratch, whole);
  const int64_t width = round_up(view.size[3], kLanes);
  gather_rows(view, b, h, task.order->query_rows() + i, count, scratch, width);
  return {scratch, width};
}

/// Keys [j, j + count) of a tensor, as float_rows has them.
HWY_INLINE FloatRows key_rows(const FlashTask& task, const AnyView& view, int64_t b, int64_t h, int64_t j,
                              int64_t count, float* scratch) {
  if (task.order == nullptr) return float_rows(view, b, h, j, count, scratch);
  const int64_t width = round_up(view.size[3], kLanes);
  gather_rows(view, b, h, task.order->key_rows() + j, count, scratch, width);
  return {scratch, width};
}

/// Q^T [d][width] of a panel: the variant's transform, then the scale.
HWY_INLINE void pack_queries(const Panel& panel, FloatRows rows, float factor, float* to) {
  const auto transform = panel.task->hook(&VariantTable::queries);
  pack_transposed(rows.data, rows.stride, panel.rows, panel.task->d, transform == nullptr ? factor : 1, to,
                  panel.width());
  if (transform == nullptr) return;
  transform(variant_panel(panel), to, panel.task->d);
  const Vector f = hn::Set(Lanes(), factor);
  for (int64_t c = 0; c < panel.task->d * panel.width(); c += kLanes)
    hn::StoreU(hn::Mul(f, hn::LoadU(Lanes(), to + c)), Lanes(), to + c);
}

/// A panel [columns][width] into queries [i, i + rows) of a tensor, each times its factor. `scratch`: kPanelRows padded
/// rows.
HWY_INLINE void write_panel(const FlashTask& task, const float* panel, int64_t width, int64_t rows,
                            const float* factors, const AnyView& to, int64_t b, int64_t h, int64_t i, float* scratch) {
  const int64_t columns = to.size[3];
  if (to.dtype == DType::f32 && task.order == nullptr) {
    unpack_rows(panel, width, rows, columns, factors, to.as<float>().row(b, h, i), to.stride[2]);
    return;
  }
  const int64_t stride = round_up(columns, kLanes);
  unpack_rows(panel, width, rows, columns, factors, scratch, stride);
  with_float_type(to, [&](auto* data) {
    const auto typed = to.as<std::remove_pointer_t<decltype(data)>>();
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = task.query_row(i + r);
      if (row < 0) continue;
      write_row(scratch + r * stride, 1.0f, columns, typed.row(b, h, row));
    }
  });
}

HWY_INLINE float sigmoid_bias(const Panel& panel) {
  const AnyView& bias = panel.task->p.normalizer.sigmoid_bias;
  if (!bias) return static_cast<float>(default_sigmoid_bias(panel.sequence));
  return static_cast<const float*>(bias.data)[bias.size[1] == 1 ? 0 : panel.head * bias.stride[1]];
}

/// tile = sigmoid(tile + bias), natural units.
HWY_INLINE void sigmoid(const Panel& panel, const TileCover& cover, float* tile, float bias) {
  const Lanes d;
  const Vector b = hn::Set(d, bias);
  const int64_t count = (cover.end - cover.begin) * panel.width();
  for (int64_t c = 0; c < count; c += kLanes) hn::StoreU(sigmoid_of(hn::Add(hn::LoadU(d, tile + c), b)), d, tile + c);
}

/// tile *= factors, without letting a hidden pair's factor in.
HWY_INLINE void multiply(const Panel& panel, const TileCover& cover, float* tile, const float* factors) {
  const Lanes d;
  const int64_t count = (cover.end - cover.begin) * panel.width();
  for (int64_t c = 0; c < count; c += kLanes)
    hn::StoreU(hn::Mul(hn::LoadU(d, tile + c), hn::LoadU(d, factors + c)), d, tile + c);
}

/// True when some element of rows x columns is NaN or infinite.
HWY_INLINE bool has_nonfinite(const float* data, int64_t stride, int64_t rows, int64_t columns) {
  const Lanes d;
  const Vector zero = hn::Zero(d);
  // As many sums as hide the latency of a product.
  Vector sum[4] = {zero, zero, zero, zero};
  float rest = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = data + r * stride;
    int64_t c = 0;
    for (; c + 4 * kLanes <= columns; c += 4 * kLanes) {
      HWY_UNROLL(4) for (int v = 0; v < 4; ++v) {
        sum[v] = hn::MulAdd(hn::LoadU(d, row + c + v * kLanes), zero, sum[v]);
      }
    }
    for (; c + kLanes <= columns; c += kLanes) sum[0] = hn::MulAdd(hn::LoadU(d, row + c), zero, sum[0]);
    for (; c < columns; ++c) rest += 0 * row[c];
  }
  const Vector total = hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3]));
  return !(hn::AllTrue(d, hn::Eq(total, total)) && rest == rest);
}

/// C[r][lanes] += A[j][r] * B[j][lanes] over visible pairs only: the product for tiles in which a hidden key must not
/// matter although it is NaN or infinite.
HWY_INLINE void gemm_tn_visible(const Panel& panel, const TileCover& cover, const uint32_t* bits, const float* a,
                                ptrdiff_t lda, const float* b, float* c, int64_t rows) {
  const Lanes d;
  const int64_t width = panel.width();
  for (int64_t j = cover.begin; j < cover.end; ++j) {
    for (int64_t v = 0; v < panel.vectors; ++v) {
      const auto seen = visible_lanes(panel, cover, bits, v, j);
      const Vector p = hn::LoadU(d, b + (j - cover.begin) * width + v * kLanes);
      for (int64_t r = 0; r < rows; ++r) {
        float* at = c + r * width + v * kLanes;
        const Vector before = hn::LoadU(d, at);
        const Vector product = hn::MulAdd(hn::Set(d, a[(j - cover.begin) * lda + r]), p, before);
        hn::StoreU(hn::IfThenElse(seen, product, before), d, at);
      }
    }
  }
}

/// C[j][columns] += A[j][r] * B[r][columns] over visible pairs (j, r) only.
HWY_INLINE void gemm_nn_visible(const Panel& panel, const TileCover& cover, const uint32_t* bits, const float* a,
                                const float* b, ptrdiff_t ldb, float* c, ptrdiff_t ldc, int64_t vectors) {
  const Lanes d;
  for (int64_t j = 0; j < cover.end - cover.begin; ++j) {
    for (int64_t r = 0; r < panel.rows; ++r) {
      if ((bits[j / 32 * panel.width() + r] >> (j % 32) & 1) == 0) continue;
      const Vector weight = hn::Set(d, a[j * panel.width() + r]);
      for (int64_t v = 0; v < vectors * kLanes; v += kLanes) {
        hn::StoreU(hn::MulAdd(weight, hn::LoadU(d, b + r * ldb + v), hn::LoadU(d, c + j * ldc + v)), d,
                   c + j * ldc + v);
      }
    }
  }
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
