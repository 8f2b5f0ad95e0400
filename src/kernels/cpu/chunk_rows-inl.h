// What goes in and out of the chunk engines: rows of a chunk, states, the decays of every kind, one token of a step.
#if defined(HEED_KERNELS_CPU_CHUNK_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_CHUNK_ROWS_INL_H_
#undef HEED_KERNELS_CPU_CHUNK_ROWS_INL_H_
#else
#define HEED_KERNELS_CPU_CHUNK_ROWS_INL_H_
#endif

#include <initializer_list>

#include "kernels/cpu/chunk_decay-inl.h"
#include "kernels/cpu/chunk_task.h"
#include "kernels/cpu/chunk_tile-inl.h"
#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/exp-inl.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/softmax_tile-inl.h"
#include "kernels/cpu/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

HWY_INLINE void scale_in_place(float factor, float* values, int64_t count) {
  if (factor == 1) return;
  const Vector f = hn::Set(Lanes(), factor);
  for (int64_t i = 0; i < count; i += kLanes)
    hn::StoreU(hn::Mul(f, hn::LoadU(Lanes(), values + i)), Lanes(), values + i);
}

/// Rows of whole vectors, the padding 0: q (times the scale), k, v, and q and k after their decays.
struct ChunkRows {
  int64_t d_width, dv_width;
  float *q, *k, *v, *decayed_q, *decayed_k;

  template <class Params>
  ChunkRows(Arena& arena, const Params& p, int64_t chunk)
      : d_width(round_up(p.q.size[3], kLanes)),
        dv_width(round_up(p.v.size[3], kLanes)),
        q(arena.take<float>(chunk * d_width)),
        k(arena.take<float>(chunk * d_width)),
        v(arena.take<float>(chunk * dv_width)),
        decayed_q(arena.take<float>(chunk * d_width)),
        decayed_k(arena.take<float>(chunk * d_width)) {}

  template <class Params>
  void read_queries(const Params& p, int64_t b, int64_t h, int64_t begin, int64_t n) const {
    read_rows(p.q, b, shared_head(p.q, h, p.out.size[1]), begin, n, q, d_width);
    scale_in_place(static_cast<float>(p.scale), q, n * d_width);
  }
  template <class Params>
  void read_keys_and_values(const Params& p, int64_t b, int64_t h, int64_t begin, int64_t n) const {
    read_rows(p.k, b, shared_head(p.k, h, p.out.size[1]), begin, n, k, d_width);
    read_rows(p.v, b, shared_head(p.v, h, p.out.size[1]), begin, n, v, dv_width);
  }
};

/// The decays of a chunk, whatever their kind.
class ChunkDecays {
 public:
  ChunkDecays(Arena& arena, DecayKind kind, int64_t chunk, int64_t d_width)
      : kind_(kind),
        d_width_(d_width),
        totals_(arena.take<float>(d_width)),
        carry_(arena.take<float>(1)),
        pairs_(arena, kind == DecayKind::channel ? 0 : chunk),
        channels_(arena, kind == DecayKind::channel ? d_width : 0) {}

  /// What all chunks of a head share. Both return false where a log decay is above 0.
  template <class Params>
  bool begin_head(const Params& p, int64_t h, int64_t chunk) const {
    if (kind_ == DecayKind::constant)
      return pairs_.read(p.log_decay.template as<const float>().row(0, shared_head(p.log_decay, h, p.out.size[1]), 0),
                         0, chunk);
    if (kind_ == DecayKind::none) {
      std::fill_n(pairs_.own, chunk, 1.0f);
      pairs_.from_own(chunk);
    }
    return true;
  }
  template <class Params>
  bool read(const Params& p, int64_t b, int64_t h, int64_t begin, int64_t n) const {
    if constexpr (requires { p.coefficients; }) {
      if (kind_ == DecayKind::given) return read_coefficients(p, b, h, begin, n);
    }
    const int64_t head = is_absent(p.log_decay) ? 0 : shared_head(p.log_decay, h, p.out.size[1]);
    if (kind_ == DecayKind::channel) return channels_.read(p.log_decay, b, head, begin, n);
    if (kind_ == DecayKind::scalar)
      return pairs_.read(p.log_decay.template as<const float>().row(b, head, begin), p.log_decay.stride[2], n);
    return true;
  }

  /// Queries as they meet the state before the chunk.
  void apply_to_queries(const float* q, int64_t n, float* decayed_q) const {
    if (kind_ == DecayKind::channel) {
      multiply(q, channels_.reads, n * d_width_, decayed_q);
    } else {
      scale_rows(q, pairs_.reads, n, d_width_, decayed_q);
    }
  }
  /// Keys as the state after the chunk holds them.
  void apply_to_keys(const float* k, int64_t n, float* decayed_k) const {
    if (kind_ == DecayKind::channel) {
      multiply(k, channels_.writes, n * d_width_, decayed_k);
    } else {
      scale_rows(k, writes(n), n, d_width_, decayed_k);
    }
  }
  /// Factors of the products of undecayed queries with the state; null where channels differ.
  const float* reads() const { return kind_ == DecayKind::channel ? nullptr : pairs_.reads; }

  /// Of tokens, in the state after a chunk of n; channels have their own.
  const float* writes(int64_t n) const { return kind_ == DecayKind::given ? pairs_.own : pairs_.writes(n); }

  /// weights = the products of all pairs, decayed, 0 where the key comes later; returns their stride.
  int64_t pair_products(const float* q, const float* k, int64_t n, int64_t d, float* transposed, int64_t padded,
                        float* weights) const {
    if (kind_ == DecayKind::channel) {
      channels_.pair_products(q, k, n, weights);
      return kMostChannelChunk;
    }
    pack_transposed(k, d_width_, n, d, 1, transposed, padded);
    lower_products(q, d_width_, transposed, padded, n, d, pairs_.pairs, pairs_.stride, weights, padded);
    return padded;
  }

  /// [d]: of the rows of the state over the whole chunk.
  const float* totals(int64_t n) const {
    if (kind_ == DecayKind::channel) return channels_.total(n);
    std::fill_n(totals_, d_width_, kind_ == DecayKind::given ? *carry_ : pairs_.total(n));
    return totals_;
  }

  const PairDecays& pairs() const { return pairs_; }
  const ChannelDecays& channels() const { return channels_; }

 private:
  template <class Params>
  bool read_coefficients(const Params& p, int64_t b, int64_t h, int64_t begin, int64_t n) const {
    const auto& [pairs, reads, writes, carries] = p.coefficients;
    const auto row = [&](const AnyView& view, int64_t t) {
      return view.template as<const float>().row(b, shared_head(view, h, p.out.size[1]), t);
    };
    for (int64_t r = 0; r < n; ++r) {
      float* to = pairs_.pairs + r * pairs_.stride;
      std::fill(std::copy_n(row(pairs, begin + r), r + 1, to), to + pairs_.stride, 0.0f);
      pairs_.reads[r] = *row(reads, begin + r);
      pairs_.own[r] = *row(writes, begin + r);
    }
    *carry_ = *row(carries, begin / p.chunk);
    return true;
  }

  DecayKind kind_;
  int64_t d_width_;
  float *totals_, *carry_;
  PairDecays pairs_;
  ChannelDecays channels_;
};

/// Rows that are written once and, in tensors larger than a core's caches, past these.
class RowWriter {
 public:
  explicit RowWriter(const AnyView& view) : view_(view) {
    constexpr int64_t kCaches = int64_t{4} << 20;
    whole_ = view.dtype == DType::f32 && view.size[3] % kLanes == 0;
    const int64_t bytes = view.size[0] * view.size[1] * view.size[2] * view.size[3] * 4;
    bool aligned = reinterpret_cast<uintptr_t>(view.data) % sizeof(Vector) == 0;
    for (int axis = 0; axis < 3; ++axis) aligned &= view.stride[axis] % kLanes == 0;
    streams_ = whole_ && aligned && bytes >= kCaches;
  }
  /// Rows of whole vectors may be computed where they belong.
  bool in_place() const { return whole_ && !streams_; }

  /// factor * from into rows [begin, begin + n) of a head.
  void write(const float* from, int64_t width, float factor, int64_t b, int64_t h, int64_t begin, int64_t n) const {
    if (streams_) {
      const Vector f = hn::Set(Lanes(), factor);
      for (int64_t r = 0; r < n; ++r) {
        float* to = view_.as<float>().row(b, h, begin + r);
        for (int64_t c = 0; c < view_.size[3]; c += kLanes)
          hn::Stream(hn::Mul(f, hn::LoadU(Lanes(), from + r * width + c)), Lanes(), to + c);
      }
      return;
    }
    with_float_type(view_, [&](auto* typed) {
      const auto to = view_.as<std::remove_pointer_t<decltype(typed)>>();
      for (int64_t r = 0; r < n; ++r) write_row(from + r * width, factor, view_.size[3], to.row(b, h, begin + r));
    });
  }

 private:
  const AnyView& view_;
  bool whole_, streams_;
};

/// Where rows of whole vectors are computed: in place, or in scratch, to be written.
class FloatTarget {
 public:
  FloatTarget(const AnyView& view, int64_t b, int64_t h, int64_t begin, float* scratch, int64_t width)
      : writer_(view), b_(b), h_(h), begin_(begin) {
    data = writer_.in_place() ? view.as<float>().row(b, h, begin) : scratch;
    stride = writer_.in_place() ? view.stride[2] : width;
  }
  void write(int64_t rows) const {
    if (!writer_.in_place()) writer_.write(data, stride, 1, b_, h_, begin_, rows);
  }

  float* data;
  int64_t stride;

 private:
  const RowWriter writer_;
  int64_t b_, h_, begin_;
};

/// The rows that come next, brought nearer while these are at work.
class NextRows {
 public:
  NextRows() = default;
  NextRows(int64_t b, int64_t begin, int64_t rows) : b_(b), begin_(begin), rows_(rows) {}
  void add(const AnyView& view, int64_t h) {
    if (rows_ <= 0) return;
    const auto element = static_cast<int64_t>(size_of(view.dtype));
    const int64_t offset = b_ * view.stride[0] + h * view.stride[1] + begin_ * view.stride[2];
    sources_[count_++] = {static_cast<const char*>(view.data) + offset * element, view.stride[2] * element,
                          view.size[3] * element, element};
  }
  /// What lies in the place of a register tile.
  template <int R, int V>
  HWY_INLINE void fetch(int64_t row, int64_t column, const Vector (&)[R][V]) const {
    constexpr int64_t kLine = 64;
    for (int i = 0; i < count_; ++i) {
      const Source& source = sources_[i];
      const int64_t first = column * source.element, last = std::min(first + V * kLanes * source.element, source.bytes);
      for (int64_t r = row; r < std::min(row + R, rows_); ++r) {
        for (int64_t byte = first; byte < last; byte += kLine)
          __builtin_prefetch(source.data + r * source.stride + byte, 0, 2);
      }
    }
  }

 private:
  struct Source {
    const char* data;
    int64_t stride, bytes, element;
  };
  int64_t b_ = 0, begin_ = 0, rows_ = 0;
  int count_ = 0;
  Source sources_[4];
};

/// Rows [begin, begin + n) of some of a head's tensors, as far as they are of its sequence.
template <class Params>
HWY_INLINE NextRows next_rows(const Params& p, const TokenSpan& span, int64_t h, int64_t begin, int64_t n,
                              std::initializer_list<const AnyView*> views) {
  const int64_t first = std::max(begin, span.begin);
  NextRows next(span.batch, first, std::min(begin + n, span.end) - first);
  for (const AnyView* view : views) next.add(*view, shared_head(*view, h, p.out.size[1]));
  return next;
}

/// [d][width] of the item's state, or 0 where there is none.
HWY_INLINE void read_state(const AnyView& view, const ChunkItem& item, int64_t d, int64_t width, float* state) {
  if (is_absent(view)) {
    std::fill_n(state, d * width, 0.0f);
  } else {
    read_rows(view, item.state, item.head, 0, d, state, width);
  }
}

HWY_INLINE void write_state(const float* state, int64_t width, const AnyView& view, const ChunkItem& item) {
  if (is_absent(view)) return;
  const auto to = view.as<float>();
  for (int64_t c = 0; c < view.size[2]; ++c)
    write_row(state + c * width, 1, view.size[3], to.row(item.state, item.head, c));
}

// Of a step: columns in passes of up to four vectors, the last of them partly filled.

template <class Pass>
HWY_INLINE void for_columns(int64_t columns, const Pass& pass) {
  for (int64_t c = 0; c < columns; c += 4 * kLanes) {
    const int64_t count = std::min(columns - c, 4 * kLanes);
    const int64_t vectors = (count + kLanes - 1) / kLanes;
    if (vectors == 4) {
      pass.template operator()<4>(c, count);
    } else if (vectors == 3) {
      pass.template operator()<3>(c, count);
    } else if (vectors == 2) {
      pass.template operator()<2>(c, count);
    } else {
      pass.template operator()<1>(c, count);
    }
  }
}

template <int V, class T>
HWY_INLINE void load_vectors(const T* from, int64_t count, Vector (&to)[V]) {
  HWY_UNROLL(4) for (int i = 0; i < V - 1; ++i) to[i] = load_vector(from + i * kLanes);
  const int64_t rest = count - (V - 1) * kLanes;
  to[V - 1] = rest == kLanes ? load_vector(from + (V - 1) * kLanes) : load_some(from + (V - 1) * kLanes, rest);
}

template <int V, class T>
HWY_INLINE void store_vectors(const Vector (&from)[V], T* to, int64_t count) {
  HWY_UNROLL(4) for (int i = 0; i < V - 1; ++i) store_vector(from[i], to + i * kLanes);
  const int64_t rest = count - (V - 1) * kLanes;
  if (rest == kLanes) {
    store_vector(from[V - 1], to + (V - 1) * kLanes);
  } else {
    store_some(from[V - 1], to + (V - 1) * kLanes, rest);
  }
}

/// The only row of a sequence in one head of a tensor.
class Token {
 public:
  Token(const AnyView& view, const TokenSpan& span, int64_t h, int64_t heads) : view_(view) {
    if (is_absent(view)) return;
    const int64_t index[3] = {span.batch, shared_head(view, h, heads), span.begin};
    for (int axis = 0; axis < 3; ++axis)
      if (view.size[axis] != 1) offset_ += index[axis] * view.stride[axis];
  }
  float at(int64_t c) const {
    const int64_t offset = offset_ + (view_.size[3] == 1 ? 0 : c);
    return static_cast<float>(load_element(view_.data, view_.dtype, offset));
  }
  template <int V>
  HWY_INLINE void load(int64_t column, int64_t count, Vector (&to)[V]) const {
    with_float_type(view_, [&](auto* data) { load_vectors(data + offset_ + column, count, to); });
  }

 private:
  const AnyView& view_;
  int64_t offset_ = 0;
};

template <int V>
HWY_INLINE void store_token(const Vector (&from)[V], const AnyView& view, const TokenSpan& span, int64_t h,
                            int64_t column, int64_t count) {
  with_float_type(view, [&](auto* data) {
    const auto to = view.as<std::remove_pointer_t<decltype(data)>>();
    store_vectors(from, to.row(span.batch, h, span.begin) + column, count);
  });
}

/// A state that is read or written in place; absent ones are 0 and are not written.
class StateRows {
 public:
  StateRows(const AnyView& view, const ChunkItem& item)
      : data_(is_absent(view) ? nullptr : view.as<float>().row(item.state, item.head, 0)), stride_(view.stride[2]) {}
  template <int V>
  HWY_INLINE void load(int64_t c, int64_t column, int64_t count, Vector (&to)[V]) const {
    if (data_ != nullptr) return load_vectors(data_ + c * stride_ + column, count, to);
    HWY_UNROLL(4) for (int i = 0; i < V; ++i) to[i] = hn::Zero(Lanes());
  }
  template <int V>
  HWY_INLINE void store(const Vector (&from)[V], int64_t c, int64_t column, int64_t count) const {
    if (data_ != nullptr) store_vectors(from, data_ + c * stride_ + column, count);
  }

 private:
  float* data_;
  int64_t stride_;
};

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
