// Keys are read where they lie, a few rows at once, and met by all queries of a block in registers.
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/key_maxima.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/gemm_tile-inl.h"
#include "kernels/cpu/key_maxima.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

/// Rows of keys that are worked on together.
struct KeyRows {
  const float* at[kTileRows];

  /// Those of entries e, e + 1, ..., of which the last one may be repeated.
  KeyRows(const BandRow& of, int64_t e) {
    for (int r = 0; r < kTileRows; ++r) at[r] = of.rows + of.entries[std::min(e + r, of.count - 1)].token * of.stride;
  }
};

/// best[r] = max(best[r], <queries of V vectors, row r>). Rows `next` are fetched meanwhile: those of a search lie far
/// apart, so the hardware does not foresee them.
template <int V>
HWY_INLINE void raise(const KeyRows& rows, const KeyRows& next, int64_t columns, const float* HWY_RESTRICT queries,
                      int64_t width, Vector (&best)[kTileRows]) {
  const Lanes d;
  constexpr int64_t kLine = 16;  // floats
  Vector sum[kTileRows][V];
  HWY_UNROLL(8) for (int r = 0; r < kTileRows; ++r) {
    HWY_UNROLL(4) for (int v = 0; v < V; ++v) sum[r][v] = hn::Zero(d);
  }
  for (int64_t line = 0; line < columns; line += kLine) {
    HWY_UNROLL(8) for (int r = 0; r < kTileRows; ++r) __builtin_prefetch(next.at[r] + line);
    const int64_t end = std::min(line + kLine, columns);
    for (int64_t c = line; c < end; ++c) {
      Vector column[V];
      HWY_UNROLL(4) for (int v = 0; v < V; ++v) column[v] = hn::LoadU(d, queries + c * width + v * kLanes);
      HWY_UNROLL(8) for (int r = 0; r < kTileRows; ++r) {
        const Vector key = hn::Set(d, rows.at[r][c]);
        HWY_UNROLL(4) for (int v = 0; v < V; ++v) add_product(key, column[v], sum[r][v]);
      }
    }
  }
  HWY_UNROLL(8) for (int r = 0; r < kTileRows; ++r) {
    // A comparison, because NaN has to lose.
    HWY_UNROLL(4) for (int v = 0; v < V; ++v) {
      best[r] = hn::IfThenElse(hn::Gt(sum[r][v], best[r]), sum[r][v], best[r]);
    }
  }
}

int64_t PackedWidth(int64_t count) { return round_up(count, kLanes); }

void KeyMaxima(const BandRow& of, const float* packed, int64_t count, float* HWY_RESTRICT to) {
  const Lanes d;
  const int64_t width = PackedWidth(count);
  for (int64_t e = 0; e < of.count; e += kTileRows) {
    const KeyRows rows(of, e), next(of, e + kTileRows);
    Vector best[kTileRows];
    for (Vector& b : best) b = hn::Set(d, -std::numeric_limits<float>::infinity());
    for (int64_t v = 0; v < width; v += kTileVectors * kLanes) {
      const int64_t vectors = (width - v) / kLanes;
      if (vectors >= 3) {
        raise<3>(rows, next, of.columns, packed + v, width, best);
      } else if (vectors == 2) {
        raise<2>(rows, next, of.columns, packed + v, width, best);
      } else {
        raise<1>(rows, next, of.columns, packed + v, width, best);
      }
    }
    for (int64_t r = 0; r < std::min<int64_t>(kTileRows, of.count - e); ++r)
      to[of.entries[e + r].place] = hn::GetLane(hn::MaxOfLanes(d, best[r]));
  }
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(KeyMaxima);
HWY_EXPORT(PackedWidth);

int64_t packed_queries_floats(int64_t count, int64_t columns) { return HEED_DISPATCH(PackedWidth)(count) * columns; }

void pack_queries(const float* rows, int64_t stride, int64_t count, int64_t columns, float* to) {
  const int64_t width = HEED_DISPATCH(PackedWidth)(count);
  for (int64_t lane = 0; lane < width; ++lane) {
    const float* row = rows + std::min(lane, count - 1) * stride;
    for (int64_t c = 0; c < columns; ++c) to[c * width + lane] = row[c];
  }
}

void key_maxima(const BandRow& of, const float* packed, int64_t count, float* to) {
  HEED_DISPATCH(KeyMaxima)(of, packed, count, to);
}

}  // namespace heed::kernels
#endif  // HWY_ONCE
