// Decays inside a chunk. All are products of exp(g) <= 1, never differences of sums of g: nothing overflows, nothing
// cancels, and a gate of -inf closes exactly.
#if defined(HEED_KERNELS_CPU_CHUNK_DECAY_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_CHUNK_DECAY_INL_H_
#undef HEED_KERNELS_CPU_CHUNK_DECAY_INL_H_
#else
#define HEED_KERNELS_CPU_CHUNK_DECAY_INL_H_
#endif

#include <cmath>

#include "kernels/cpu/chunk_tile-inl.h"
#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/exp-inl.h"
#include "kernels/cpu/scratch.h"
#include "kernels/recurrence_problem.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

/// exp(g); 0 below 2^-100.
HWY_INLINE Vector decay_of(Vector log_decay) { return exp2_of(hn::Mul(hn::Set(Lanes(), kLog2E), log_decay)); }

/// Decays of a chunk whose tokens have one each.
struct PairDecays {
  float* own;  ///< [C] exp(g_r)
  float*
      pairs;  ///< [C][stride]: exp(g_{j+1} + ... + g_r) for j <= r, 0 for j > r among the columns of its kTriangleRows
  float* reads;  ///< [C] exp(g_0 + ... + g_r): of the state before the chunk at token r
  int64_t stride;

  PairDecays(Arena& arena, int64_t chunk)
      : own(arena.take<float>(round_up(chunk, kLanes))),
        pairs(arena.take<float>(chunk * round_up(chunk, kLanes))),
        reads(arena.take<float>(round_up(chunk, kLanes))),
        stride(round_up(chunk, kLanes)) {}

  /// [n]: of token j in the state after a chunk of n.
  const float* writes(int64_t n) const { return pairs + (n - 1) * stride; }
  float total(int64_t n) const { return reads[n - 1]; }

  void from_own(int64_t n) const {
    const Lanes d;
    const Integers di;
    for (int64_t v = 0; v < n; v += kLanes) {
      const auto columns = count_from(v);
      Vector row = hn::Zero(d);
      for (int64_t r = v / kTriangleRows * kTriangleRows; r < v; ++r) hn::StoreU(row, d, pairs + r * stride + v);
      for (int64_t r = v; r < n; ++r) {
        const auto diagonal = hn::RebindMask(d, hn::Eq(columns, hn::Set(di, static_cast<int32_t>(r))));
        row = hn::IfThenElse(diagonal, hn::Set(d, 1.0f), hn::Mul(row, hn::Set(d, own[r])));
        hn::StoreU(row, d, pairs + r * stride + v);
      }
    }
    float product = 1;
    for (int64_t r = 0; r < n; ++r) reads[r] = product *= own[r];
  }

  /// Of tokens whose log decays are values[0], values[step], ...; false where one is above 0.
  bool read(const float* values, int64_t step, int64_t n) const {
    bool valid = true;
    for (int64_t r = 0; r < n; ++r) {
      own[r] = values[r * step];
      valid &= !(own[r] > 0);
    }
    for (int64_t r = n; r < round_up(n, kLanes); ++r) own[r] = 0;
    for (int64_t r = 0; r < n; r += kLanes) hn::StoreU(decay_of(hn::LoadU(Lanes(), own + r)), Lanes(), own + r);
    from_own(n);
    return valid;
  }
};

/// Decays of such a chunk, rows of channels.
struct ChannelDecays {
  float* own;     ///< [16][width] exp(g_r)
  float* reads;   ///< [16][width] exp(g_0 + ... + g_r)
  float* writes;  ///< [16][width] exp(g_{r+1} + ... + g_{n-1})
  int64_t width;

  ChannelDecays(Arena& arena, int64_t width)
      : own(arena.take<float>(kMostChannelChunk * width)),
        reads(arena.take<float>(kMostChannelChunk * width)),
        writes(arena.take<float>(kMostChannelChunk * width)),
        width(width) {}

  const float* total(int64_t n) const { return reads + (n - 1) * width; }

  /// Log decays of tokens [begin, begin + n); false where one is above 0.
  bool read(const AnyView& log_decay, int64_t b, int64_t h, int64_t begin, int64_t n) const {
    const Lanes d;
    read_rows(log_decay, b, h, begin, n, own, width);
    Vector highest = hn::Zero(d);
    for (int64_t c = 0; c < width; c += kLanes) {
      Vector product = hn::Set(d, 1.0f);
      for (int64_t r = 0; r < n; ++r) {
        const Vector g = hn::LoadU(d, own + r * width + c);
        highest = hn::Max(g, highest);  // in this order a NaN is passed over on x86
        const Vector a = decay_of(g);
        product = hn::Mul(product, a);
        hn::StoreU(a, d, own + r * width + c);
        hn::StoreU(product, d, reads + r * width + c);
      }
      product = hn::Set(d, 1.0f);
      for (int64_t r = n - 1; r >= 0; --r) {
        hn::StoreU(product, d, writes + r * width + c);
        product = hn::Mul(product, hn::LoadU(d, own + r * width + c));
      }
    }
    return hn::AllFalse(d, hn::Gt(highest, hn::Zero(d)));
  }

  /// pairs[r][j] = sum_c q_rc k_jc exp(g_{j+1,c} + ... + g_{r,c}) for j <= r, 0 for the others of 16.
  void pair_products(const float* q, const float* k, int64_t n, float* pairs) const {
    const Lanes d;
    std::fill_n(pairs, n * kMostChannelChunk, 0.0f);
    // Four vectors of channels a pass: as many decayed keys as registers hold beside the rest.
    constexpr int kBlock = 4;
    for (int64_t c = 0; c < width; c += kBlock * kLanes) {
      const auto block = [&]<int K>() {
        for (int64_t j = 0; j < n; ++j) {
          Vector key[K];
          HWY_UNROLL(4) for (int i = 0; i < K; ++i) key[i] = hn::LoadU(d, k + j * width + c + i * kLanes);
          for (int64_t r = j;; ++r) {
            const float *query = q + r * width + c, *decay = own + (r + 1) * width + c;
            Vector sum = hn::Mul(key[0], hn::LoadU(d, query));
            HWY_UNROLL(4) for (int i = 1; i < K; ++i) {
              sum = hn::MulAdd(key[i], hn::LoadU(d, query + i * kLanes), sum);
            }
            pairs[r * kMostChannelChunk + j] += hn::GetLane(hn::SumOfLanes(d, sum));
            if (r + 1 == n) break;
            HWY_UNROLL(4) for (int i = 0; i < K; ++i) key[i] = hn::Mul(key[i], hn::LoadU(d, decay + i * kLanes));
          }
        }
      };
      const int64_t left = (width - c) / kLanes;
      if (left >= 4) {
        block.template operator()<4>();
      } else if (left == 3) {
        block.template operator()<3>();
      } else if (left == 2) {
        block.template operator()<2>();
      } else {
        block.template operator()<1>();
      }
    }
  }

  /// d_q[r] += sum_{j < r} d_pairs[r][j] k_j exp(g_{j+1} + ... + g_r)
  void add_query_gradients(const float* d_pairs, int64_t stride, const float* k, int64_t n, float* d_q) const {
    const Lanes d;
    for (int64_t c = 0; c < width; c += kLanes) {
      for (int64_t j = 0; j < n; ++j) {
        Vector key = hn::LoadU(d, k + j * width + c);
        for (int64_t r = j + 1; r < n; ++r) {
          key = hn::Mul(key, hn::LoadU(d, own + r * width + c));
          float* to = d_q + r * width + c;
          hn::StoreU(hn::MulAdd(hn::Set(d, d_pairs[r * stride + j]), key, hn::LoadU(d, to)), d, to);
        }
      }
    }
  }

  /// d_k[j] += sum_{r > j} d_pairs[r][j] q_r exp(g_{j+1} + ... + g_r)
  void add_key_gradients(const float* d_pairs, int64_t stride, const float* q, int64_t n, float* d_k) const {
    const Lanes d;
    for (int64_t c = 0; c < width; c += kLanes) {
      for (int64_t r = 0; r < n; ++r) {
        Vector query = hn::LoadU(d, q + r * width + c);
        for (int64_t j = r - 1; j >= 0; --j) {
          query = hn::Mul(query, hn::LoadU(d, own + (j + 1) * width + c));
          float* to = d_k + j * width + c;
          hn::StoreU(hn::MulAdd(hn::Set(d, d_pairs[r * stride + j]), query, hn::LoadU(d, to)), d, to);
        }
      }
    }
  }
};

/// to[r] = factors[r] * from[r], rows of `width`.
HWY_INLINE void scale_rows(const float* from, const float* factors, int64_t rows, int64_t width, float* to) {
  const Lanes d;
  for (int64_t r = 0; r < rows; ++r) {
    const Vector factor = hn::Set(d, factors[r]);
    for (int64_t c = 0; c < width; c += kLanes)
      hn::StoreU(hn::Mul(factor, hn::LoadU(d, from + r * width + c)), d, to + r * width + c);
  }
}

/// to[i] = a[i] * b[i], a multiple of kLanes.
HWY_INLINE void multiply(const float* a, const float* b, int64_t count, float* to) {
  const Lanes d;
  for (int64_t i = 0; i < count; i += kLanes) hn::StoreU(hn::Mul(hn::LoadU(d, a + i), hn::LoadU(d, b + i)), d, to + i);
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
