// What the backwards of the chunk engines share: the rows of a group of chunks and their gradients.
#if defined(HEED_KERNELS_CPU_CHUNK_GRADIENT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_CHUNK_GRADIENT_INL_H_
#undef HEED_KERNELS_CPU_CHUNK_GRADIENT_INL_H_
#else
#define HEED_KERNELS_CPU_CHUNK_GRADIENT_INL_H_
#endif

#include <utility>
#include <vector>

#include "kernels/cpu/chunk_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

/// 1 on and below the diagonal, else 0.
HWY_INLINE void lower_ones(float* to, int64_t n, int64_t stride) {
  std::fill_n(to, n * stride, 0.0f);
  for (int64_t r = 0; r < n; ++r) std::fill_n(to + r * stride, r + 1, 1.0f);
}

/// to[c] = sum over rows of a[r][c] b[r][c]
HWY_INLINE void column_products(const float* a, const float* b, int64_t rows, int64_t width, float* to) {
  const Lanes d;
  for (int64_t c = 0; c < width; c += kLanes) {
    Vector sum = hn::Zero(d);
    for (int64_t r = 0; r < rows; ++r)
      sum = hn::MulAdd(hn::LoadU(d, a + r * width + c), hn::LoadU(d, b + r * width + c), sum);
    hn::StoreU(sum, d, to + c);
  }
}

/// [dv][width] of the item's state turned, or 0. `scratch` [d][scratch_width].
HWY_INLINE void read_transposed_state(const AnyView& view, const ChunkItem& item, int64_t d, int64_t dv, int64_t width,
                                      float* scratch, int64_t scratch_width, float* state) {
  read_state(view, item, d, scratch_width, scratch);
  pack_transposed(scratch, scratch_width, d, dv, 1, state, width);
}

/// Sets the diagonal [n] aside and 0 in its place.
HWY_INLINE void take_diagonal(float* pairs, int64_t n, int64_t stride, float* diagonal) {
  for (int64_t r = 0; r < n; ++r) diagonal[r] = std::exchange(pairs[r * stride + r], 0.0f);
}

/// to[r] += factors[r] * rows[r]
HWY_INLINE void add_scaled_rows(const float* rows, const float* factors, int64_t n, int64_t width, float* to) {
  const Lanes d;
  for (int64_t r = 0; r < n; ++r) {
    const Vector factor = hn::Set(d, factors[r]);
    for (int64_t at = r * width; at < (r + 1) * width; at += kLanes)
      hn::StoreU(hn::MulAdd(factor, hn::LoadU(d, rows + at), hn::LoadU(d, to + at)), d, to + at);
  }
}

/// factor * rows into rows [begin, begin + n) of head h of a gradient, if that is asked for.
HWY_INLINE void write_gradient(const float* from, int64_t width, float factor, const AnyView& to, int64_t b, int64_t h,
                               int64_t begin, int64_t n) {
  if (to) RowWriter(to).write(from, width, factor, b, h, begin, n);
}

/// Inputs and gradients of a group of chunks.
struct GroupRows {
  ChunkRows inputs;
  float *d_out, *d_q, *d_k, *d_v;
  float* gate;      ///< [d_width] of the state before the group: sum over its columns of state * d_state
  float* own_pair;  ///< [group] gradient of the product of a token's query with its own key

  GroupRows(Arena& arena, const ChunkRows& inputs, int64_t group)
      : inputs(inputs),
        d_out(arena.take<float>(group * inputs.dv_width)),
        d_q(arena.take<float>(group * inputs.d_width)),
        d_k(arena.take<float>(group * inputs.d_width)),
        d_v(arena.take<float>(group * inputs.dv_width)),
        gate(arena.take<float>(inputs.d_width)),
        own_pair(arena.take<float>(group)) {}

  /// Gradients of log decays, without a product of the size of the state for any token: a token's decay carries what
  /// that of the token before carried, <S, dS> of the state before the group at first, and what that token wrote, less
  /// what it read: k d_k - q d_q. A token's pair with itself, which no decay touches and whose parts would cancel, must
  /// not be in d_q and d_k yet. `more` [n], when given, is added to what a token wrote. Returns the sum over the
  /// tokens.
  template <class Grads>
  double write_gates(DecayKind kind, const Grads& g, const TokenSpan& span, int64_t h, int64_t begin, int64_t n,
                     const float* more = nullptr) const {
    const Lanes d;
    const int64_t width = inputs.d_width;
    const auto to = g.d_log_decay.template as<float>();
    if (kind == DecayKind::channel) {
      for (int64_t r = 0; r < n; ++r) {
        write_row(gate, 1, to.size[3], to.row(span.batch, h, begin + r));
        for (int64_t c = 0; c < width; c += kLanes)
          hn::StoreU(hn::Add(hn::LoadU(d, gate + c), written(r, c)), d, gate + c);
      }
      return 0;
    }
    double running = 0, total = 0;
    for (int64_t c = 0; c < width; ++c) running += gate[c];
    for (int64_t r = 0; r < n; ++r) {
      total += running;
      if (kind == DecayKind::scalar) *to.row(span.batch, h, begin + r) = static_cast<float>(running);
      Vector sum = hn::Zero(d);
      for (int64_t c = 0; c < width; c += kLanes) sum = hn::Add(sum, written(r, c));
      running += hn::GetLane(hn::SumOfLanes(d, sum));
      if (more != nullptr) running += more[r];
    }
    return total;
  }

  void add_own_pairs(int64_t n) const {
    add_scaled_rows(inputs.k, own_pair, n, inputs.d_width, d_q);
    add_scaled_rows(inputs.q, own_pair, n, inputs.d_width, d_k);
  }

  /// Every gradient is one of head h; q's own, before the scale that inputs.q has, is larger by the scale.
  template <class Params, class Grads>
  void write(const Params& p, const Grads& g, const TokenSpan& span, int64_t h, int64_t begin, int64_t n) const {
    write_gradient(d_q, inputs.d_width, static_cast<float>(p.scale), g.d_q, span.batch, h, begin, n);
    write_gradient(d_k, inputs.d_width, 1, g.d_k, span.batch, h, begin, n);
    write_gradient(d_v, inputs.dv_width, 1, g.d_v, span.batch, h, begin, n);
  }

 private:
  Vector written(int64_t r, int64_t c) const {
    const Lanes d;
    const int64_t at = r * inputs.d_width + c;
    const Vector read = hn::Mul(hn::LoadU(d, inputs.q + at), hn::LoadU(d, d_q + at));
    return hn::MulSub(hn::LoadU(d, inputs.k + at), hn::LoadU(d, d_k + at), read);
  }
};

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
