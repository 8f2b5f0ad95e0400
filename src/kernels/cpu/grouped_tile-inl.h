// A block of queries against its own keys and against whole blocks before it: logits, and what a landmark shares out.
#if defined(HEED_KERNELS_CPU_GROUPED_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_GROUPED_TILE_INL_H_
#undef HEED_KERNELS_CPU_GROUPED_TILE_INL_H_
#else
#define HEED_KERNELS_CPU_GROUPED_TILE_INL_H_
#endif

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/exp-inl.h"
#include "kernels/cpu/gemm_tile-inl.h"
#include "kernels/cpu/grouped_task.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

constexpr int64_t kGroupedWidth = kTileVectors * kLanes;

/// What forward and backward keep for a block of queries and for the tile in work; a panel is a few vectors of queries.
struct GroupedScratch {
  float *queries, *outputs, *d_outputs, *d_queries;                 ///< panels [size][width]
  float *query_rows, *d_output_rows, *key_rows, *value_rows, *row;  ///< whole vectors a row
  float *maximum, *sum, *delta;                                     ///< a number a query
  float* factor;                                                    ///< of a panel
  float *tile, *gradients, *slopes;                                 ///< [keys][width]
  float *landmarks, *totals;                                        ///< [blocks of the tile][lanes]

  GroupedScratch(Arena& arena, const GroupedParams& p) {
    const int64_t d = round_up(p.q.size[3], 16), dv = round_up(p.v.size[3], 16), rows = round_up(p.block, 16);
    const auto take = [&](int64_t count) { return arena.take<float>(count); };
    queries = take(d * rows), outputs = take(dv * rows), d_outputs = take(dv * rows), d_queries = take(d * rows);
    query_rows = take(d * rows), d_output_rows = take(dv * rows), row = take(std::max(d, dv) * rows);
    key_rows = take(d * kMostGroupedKeys), value_rows = take(dv * kMostGroupedKeys);
    maximum = take(rows), sum = take(rows), delta = take(rows), factor = take(kGroupedWidth);
    tile = take(kMostGroupedKeys * kGroupedWidth), gradients = take(kMostGroupedKeys * kGroupedWidth);
    slopes = take(p.softcap > 0 ? kMostGroupedKeys * kGroupedWidth : 0);
    landmarks = take(kMostGroupedKeys / 2 * kLanes), totals = take(kMostGroupedKeys / 2 * kLanes);
  }
};

class GroupedBlock {
 public:
  /// `first` counts from the first query of the item, which stands `offset` places behind its block's first key.
  struct Panel {
    int64_t first, rows, vectors;
    int64_t width() const { return vectors * kLanes; }
  };

  GroupedBlock(const GroupedParams& p, const GroupedItem& item, const GroupedScratch& scratch)
      : p_(p),
        item_(item),
        s_(scratch),
        d_(p.q.size[3]),
        dv_(p.v.size[3]),
        kv_head_(item.head * p.k.size[1] / p.q.size[1]),
        own_begin_(item.own * p.block),
        offset_(p.k.size[2] - p.q.size[2] + item.begin - own_begin_),
        scale_(p.scale != 0 ? p.scale : 1 / std::sqrt(static_cast<double>(p.q.size[3]))) {
    // Logits are in units of log 2.
    pack_factor_ = static_cast<float>(p.softcap > 0 ? scale_ / p.softcap : scale_ * M_LOG2E);
  }

  int64_t count() const { return item_.end - item_.begin; }
  double scale() const { return scale_; }
  int64_t own_begin() const { return own_begin_; }

  template <class Visit>
  void panels(const Visit& visit) const {
    int64_t left = (count() + kLanes - 1) / kLanes;
    for (int64_t i = 0; left > 0;) {
      const int64_t take = left == 4 ? 2 : std::min<int64_t>(left, kTileVectors);
      visit(Panel{i, std::min(take * kLanes, count() - i), take});
      i += take * kLanes, left -= take;
    }
  }

  /// Rows of a tensor of the queries' shape, as a panel [size][width].
  void pack(const AnyView& view, const Panel& panel, float factor, float* to) const {
    const FloatRows rows = vector_rows(view, item_.batch, item_.head, item_.begin + panel.first, panel.rows, s_.row);
    pack_transposed(rows.data, rows.stride, panel.rows, view.size[3], factor, to, panel.width());
  }
  void pack_queries(const Panel& panel) const { pack(p_.q, panel, pack_factor_, s_.queries + panel.first * d_); }

  struct Tile {
    int64_t begin, keys, blocks;  ///< blocks 0: keys of the own block
    FloatRows key_rows, value_rows;
  };

  /// Calls visit(tile) for the own keys, then for the blocks before, as many at a time as fit a tile.
  template <class Visit>
  void tiles(bool gradients, const Visit& visit) const {
    const int64_t own = std::min(offset_ + count(), p_.block - 1);
    visit(load(own_begin_, own, 0, gradients));
    const int64_t together = kMostGroupedKeys / p_.block;
    for (int64_t g = 0; g < item_.own; g += together) {
      const int64_t blocks = std::min(together, item_.own - g);
      visit(load(g * p_.block, blocks * p_.block, blocks, gradients));
    }
  }

  /// Capped logits of a panel against a tile into s_.tile; s_.slopes: derivatives of the cap.
  void logits(const Panel& panel, const Tile& tile) const {
    const Lanes d;
    const int64_t width = panel.width();
    gemm_nn(tile.key_rows.data, tile.key_rows.stride, s_.queries + panel.first * d_, width, s_.tile, width, tile.keys,
            panel.vectors, d_, store::Overwrite());
    if (p_.softcap <= 0) return;
    const Vector cap = hn::Set(d, static_cast<float>(p_.softcap * M_LOG2E)), one = hn::Set(d, 1.0f);
    for (int64_t at = 0; at < tile.keys * width; at += kLanes) {
      const Vector t = tanh_of(hn::LoadU(d, s_.tile + at));
      hn::StoreU(hn::Mul(t, cap), d, s_.tile + at);
      hn::StoreU(hn::NegMulAdd(t, t, one), d, s_.slopes + at);
    }
  }

  /// Which of the queries of vector v see key `c` of their own block.
  hn::Mask<Lanes> seen(const Panel& panel, int64_t v, int64_t c) const {
    const auto before = hidden(own_begin_ + c) ? std::numeric_limits<int32_t>::max() : static_cast<int32_t>(c - 1);
    const auto at = count_from(offset_ + panel.first + v * kLanes);
    return hn::RebindMask(Lanes(), hn::Gt(at, hn::Set(Integers(), before)));
  }

  bool hidden(int64_t place) const {
    return p_.hidden != nullptr && p_.hidden[item_.batch * p_.hidden_stride + place] != 0;
  }

  /// The logits of block `g` of a tile for vector v become exp2(logit - their maximum), 0 where hidden; returned are
  /// their sum, and the landmark's logit, -inf where the block has no weight.
  struct Shares {
    Vector total, landmark;
  };
  HWY_INLINE Shares share_out(const Panel& panel, const Tile& tile, int64_t g, int64_t v) const {
    const Lanes d;
    const Vector none = hn::Set(d, -std::numeric_limits<float>::infinity());
    const int64_t width = panel.width(), regular = p_.block - 1, place = tile.begin + g * p_.block;
    float* const rows = s_.tile + g * p_.block * width + v * kLanes;
    if (p_.hidden != nullptr)
      for (int64_t c = 0; c < regular; ++c)
        if (hidden(place + c)) hn::StoreU(none, d, rows + c * width);
    // As many maxima and sums as hide their latency.
    Vector top[4] = {none, none, none, none};
    int64_t c = 0;
    for (; c + 4 <= regular; c += 4)
      HWY_UNROLL(4) for (int u = 0; u < 4; ++u) top[u] = hn::Max(hn::LoadU(d, rows + (c + u) * width), top[u]);
    for (; c < regular; ++c) top[0] = hn::Max(hn::LoadU(d, rows + c * width), top[0]);
    Vector limit = hn::Max(hn::Max(top[0], top[1]), hn::Max(top[2], top[3]));
    limit = hn::IfThenZeroElse(hn::Eq(limit, none), limit);
    Vector sum[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
    for (c = 0; c + 4 <= regular; c += 4) HWY_UNROLL(4) for (int u = 0; u < 4; ++u) {
        float* const at = rows + (c + u) * width;
        const Vector e = exp2_of(hn::Sub(hn::LoadU(d, at), limit));
        hn::StoreU(e, d, at);
        sum[u] = hn::Add(sum[u], e);
      }
    for (; c < regular; ++c) {
      const Vector e = exp2_of(hn::Sub(hn::LoadU(d, rows + c * width), limit));
      hn::StoreU(e, d, rows + c * width);
      sum[0] = hn::Add(sum[0], e);
    }
    const Vector total = hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3]));
    const auto dead = hn::Eq(total, hn::Zero(d));
    const Vector landmark = hidden(place + regular) ? none : hn::LoadU(d, rows + regular * width);
    return {total, hn::IfThenElse(dead, none, landmark)};
  }

 private:
  Tile load(int64_t begin, int64_t keys, int64_t blocks, bool gradients) const {
    Tile tile{begin, keys, blocks, {}, {}};
    const int64_t b = item_.batch, d_width = round_up(d_, kLanes), dv_width = round_up(dv_, kLanes);
    const bool copies = gradients && p_.hidden != nullptr;
    tile.key_rows = copies ? FloatRows{s_.key_rows, d_width} : float_rows(p_.k, b, kv_head_, begin, keys, s_.key_rows);
    if (copies) read_rows(p_.k, b, kv_head_, begin, keys, s_.key_rows, d_width);
    // What nobody sees must not matter, be it NaN: 0 in the products.
    read_rows(p_.v, b, kv_head_, begin, keys, s_.value_rows, dv_width);
    tile.value_rows = {s_.value_rows, dv_width};
    for (int64_t r = 0; r < keys; ++r) {
      const bool unseen = hidden(begin + r);
      if (unseen || (begin + r) % p_.block == p_.block - 1)
        std::memset(s_.value_rows + r * dv_width, 0, dv_width * sizeof(float));
      if (unseen && copies) std::memset(s_.key_rows + r * d_width, 0, d_width * sizeof(float));
    }
    return tile;
  }

  const GroupedParams& p_;
  const GroupedItem& item_;
  const GroupedScratch& s_;
  const int64_t d_, dv_, kv_head_, own_begin_, offset_;
  const double scale_;
  float pack_factor_;
};

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
