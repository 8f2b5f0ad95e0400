// Sums over explicit neighbourhoods: lanes over the channels, rows of neighbouring tokens found in the nearest caches.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/neighborhood_band.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/band_task.h"
#include "kernels/cpu/convert-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

// As many sums in flight as hide the latency of their products.
constexpr int kSums = 4;

/// to[e.place] = scale <row, keys of e.token> over the entries.
void BandRowScores(const BandRow& of, const float* HWY_RESTRICT row, float scale, float* HWY_RESTRICT to) {
  const Lanes d;
  const int64_t whole = of.columns / kLanes * kLanes, rest = of.columns - whole;
  for (int64_t e = 0; e < of.count; e += kSums) {
    const int64_t some = std::min<int64_t>(kSums, of.count - e);
    const float* keys[kSums];
    for (int64_t s = 0; s < kSums; ++s) keys[s] = of.rows + of.entries[e + std::min(s, some - 1)].token * of.stride;
    Vector sum[kSums];
    HWY_UNROLL(4) for (int s = 0; s < kSums; ++s) sum[s] = hn::Zero(d);
    for (int64_t c = 0; c < whole; c += kLanes) {
      const Vector x = hn::LoadU(d, row + c);
      HWY_UNROLL(4) for (int s = 0; s < kSums; ++s) sum[s] = hn::MulAdd(x, hn::LoadU(d, keys[s] + c), sum[s]);
    }
    if (rest > 0) {
      const Vector x = load_some(row + whole, rest);
      for (int s = 0; s < kSums; ++s) sum[s] = hn::MulAdd(x, load_some(keys[s] + whole, rest), sum[s]);
    }
    for (int64_t s = 0; s < some; ++s) to[of.entries[e + s].place] = scale * hn::GetLane(hn::SumOfLanes(d, sum[s]));
  }
}

/// kSums vectors of `to` from column c on += weights[e] * rows of e.token.
template <int V>
HWY_INLINE void add_columns(const BandRow& of, const float* HWY_RESTRICT weights, int64_t c, float* HWY_RESTRICT to) {
  const Lanes d;
  Vector sum[V];
  HWY_UNROLL(4) for (int v = 0; v < V; ++v) sum[v] = hn::LoadU(d, to + c + v * kLanes);
  for (int64_t e = 0; e < of.count; ++e) {
    const Vector weight = hn::Set(d, weights[e]);
    const float* from = of.rows + of.entries[e].token * of.stride + c;
    HWY_UNROLL(4) for (int v = 0; v < V; ++v) sum[v] = hn::MulAdd(weight, hn::LoadU(d, from + v * kLanes), sum[v]);
  }
  HWY_UNROLL(4) for (int v = 0; v < V; ++v) hn::StoreU(sum[v], d, to + c + v * kLanes);
}

void BandRowSums(const BandRow& of, const float* weights, float* to) {
  int64_t c = 0;
  for (; c + kSums * kLanes <= of.columns; c += kSums * kLanes) add_columns<kSums>(of, weights, c, to);
  for (; c + kLanes <= of.columns; c += kLanes) add_columns<1>(of, weights, c, to);
  for (; c < of.columns; ++c) {
    float sum = to[c];
    for (int64_t e = 0; e < of.count; ++e) sum += weights[e] * of.rows[of.entries[e].token * of.stride + c];
    to[c] = sum;
  }
}

void BandRowAdds(const BandRow& of, const float* weights, const float* HWY_RESTRICT row, float* to) {
  const Lanes d;
  const int64_t whole = of.columns / kLanes * kLanes;
  for (int64_t e = 0; e < of.count; ++e) {
    float* HWY_RESTRICT at = to + of.entries[e].token * of.stride;
    const Vector weight = hn::Set(d, weights[e]);
    for (int64_t c = 0; c < whole; c += kLanes)
      hn::StoreU(hn::MulAdd(weight, hn::LoadU(d, row + c), hn::LoadU(d, at + c)), d, at + c);
    for (int64_t c = whole; c < of.columns; ++c) at[c] += weights[e] * row[c];
  }
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(BandRowScores);
HWY_EXPORT(BandRowSums);
HWY_EXPORT(BandRowAdds);

void band_row_scores(const BandRow& of, const float* row, float scale, float* to) {
  HEED_DISPATCH(BandRowScores)(of, row, scale, to);
}
void band_row_sums(const BandRow& of, const float* weights, float* to) { HEED_DISPATCH(BandRowSums)(of, weights, to); }
void band_row_adds(const BandRow& of, const float* weights, const float* row, float* to) {
  HEED_DISPATCH(BandRowAdds)(of, weights, row, to);
}

}  // namespace heed::kernels
#endif  // HWY_ONCE
