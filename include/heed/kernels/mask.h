// Which keys a query sees, as a value: terms combined with &, | and ~, small enough to copy, serialise and classify.
#pragma once

#include <array>
#include <cstdint>

namespace heed::kernels {

enum class Alignment : uint8_t {
  bottom_right,  ///< the last query sits on the last key: i' = i + M - N (the default everywhere)
  top_left,      ///< the first query sits on the first key: i' = i
};

/// Visible iff j <= i'.
struct Causal {
  Alignment alignment = Alignment::bottom_right;
};
/// Visible iff -left <= j - i' <= right. `Window{w}` is the w keys that end at the own one: (w - 1, 0). left + right >=
/// 0; sizes beyond any sequence, such as INT64_MAX, mean no bound on that side.
struct Window {
  int64_t left, right;
  Alignment alignment = Alignment::bottom_right;
  constexpr Window(int64_t keys) : left(keys - 1), right(0) {}
  constexpr Window(int64_t left, int64_t right, Alignment alignment = Alignment::bottom_right)
      : left(left), right(right), alignment(alignment) {}
};
/// Visible iff j < count.
struct SinkTokens {
  int64_t count;
};
/// Visible iff j < lengths[b]. Used as `Causal{} | Prefix{lengths}`.
struct Prefix {
  const int64_t* lengths;
};
/// Visible iff both tokens carry the same id: q_ids[b * q_stride + i] == k_ids[b * k_stride + j]. Any order of ids.
struct DocumentIds {
  const int32_t* q_ids;
  const int32_t* k_ids;
  int64_t q_stride, k_stride;
};
/// Visible iff (i' - j) is a multiple of step.
struct Dilation {
  int64_t step;
  Alignment alignment = Alignment::bottom_right;
};
/// Visible iff the user's function says so. The one term that is evaluated key by key. Must be pure and thread-safe.
struct Predicate {
  bool (*visible)(const void* context, int64_t b, int64_t h, int64_t i, int64_t j);
  const void* context = nullptr;
};

enum class Coverage : uint8_t { empty, partial, full };

/// One sequence's geometry, against which a mask is asked.
struct MaskScope {
  int64_t batch = 0, head = 0;
  int64_t num_queries = 0, num_keys = 0;  ///< N and M of this sequence
};

/// A postfix program of terms. Default: everything is visible.
class Mask {
 public:
  static constexpr int kMaxTerms = 15;

  Mask() = default;
  Mask(const Causal&);
  Mask(const Window&);
  Mask(const SinkTokens&);
  Mask(const Prefix&);
  Mask(const DocumentIds&);
  Mask(const Dilation&);
  Mask(const Predicate&);

  friend Mask operator&(const Mask& a, const Mask& b);
  friend Mask operator|(const Mask& a, const Mask& b);
  friend Mask operator~(const Mask& a);

  bool everything() const { return size_ == 0; }
  bool visible(const MaskScope&, int64_t i, int64_t j) const;
  /// Tile of queries [i0, i1) and keys [j0, j1), clipped to the scope. Exact for every program.
  Coverage classify(const MaskScope&, int64_t i0, int64_t i1, int64_t j0, int64_t j1) const;
  /// The fast half of classify, which says partial where it can't tell. O(terms), plus O(rows + keys) for document ids.
  /// What it says of a tile it also says of every part of it, partial aside.
  Coverage classify_quickly(const MaskScope&, int64_t i0, int64_t i1, int64_t j0, int64_t j1) const;
  /// Bit c of the result: key j0 + c is visible to query i (c < 64; keys beyond the scope are 0).
  uint64_t row_bits(const MaskScope&, int64_t i, int64_t j0) const;
  /// row_bits of queries [i0, i0 + rows), cheaper than one by one. rows <= 64.
  void block_bits(const MaskScope&, int64_t i0, int64_t rows, int64_t j0, uint64_t* bits) const;
  /// Number of visible pairs.
  int64_t area(const MaskScope&) const;

 private:
  friend struct MaskTerms;
  enum class Op : uint8_t { causal, window, sink, prefix, documents, dilation, predicate, all_of, any_of, none_of };
  struct Term {
    Op op = Op::causal;
    Alignment alignment = Alignment::bottom_right;
    int64_t a = 0, b = 0;
    const void* p = nullptr;
    const void* r = nullptr;
    bool (*visible)(const void*, int64_t, int64_t, int64_t, int64_t) = nullptr;
  };
  void push(const Term&);
  std::array<Term, kMaxTerms> terms_;
  int size_ = 0;
};

Mask operator&(const Mask& a, const Mask& b);
Mask operator|(const Mask& a, const Mask& b);
Mask operator~(const Mask& a);

}  // namespace heed::kernels
