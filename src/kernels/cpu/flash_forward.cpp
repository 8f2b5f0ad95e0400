// The forward of the tile engine: for a block of query rows, one pass over the key tiles (two for clipped softmax).
#include <array>
#include <bit>
#include <cmath>
#include <span>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/flash_forward.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/flash_engine.h"
#include "kernels/cpu/gemm_tile-inl.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/softmax_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

using Kind = Normalizer::Kind;

struct ForwardScratch {
  float *queries, *outputs, *maximum, *sum, *tile, *factors, *pairs, *key_rows, *value_rows, *row, *before, *moved,
      *state;
  uint32_t* bits;

  ForwardScratch(Arena& arena, const FlashTask& task) {
    const int64_t d_padded = round_up(task.d, 16), dv_padded = round_up(task.dv, 16);
    queries = arena.take<float>(task.d * kForwardRows);
    outputs = arena.take<float>(task.dv * kForwardRows);
    maximum = arena.take<float>(kForwardRows);
    sum = arena.take<float>(kForwardRows);
    tile = arena.take<float>(kTileKeys * kPanelRows);
    factors = task.has_factors ? arena.take<float>(kTileKeys * kPanelRows) : nullptr;
    pairs = task.has_pairs ? arena.take<float>(kTileKeys * kPanelRows) : nullptr;
    const bool converts = task.p.q.dtype != DType::f32;
    key_rows = converts ? arena.take<float>(task.group_keys * d_padded) : nullptr;
    value_rows = converts ? arena.take<float>(task.group_keys * dv_padded) : nullptr;
    row = arena.take<float>(kPanelRows * std::max(d_padded, dv_padded));
    before = arena.take<float>(kPanelRows);
    moved = arena.take<float>(kPanelRows);
    const int floats = task.variant.table != nullptr ? task.variant.table->row_state : 0;
    state = floats > 0 ? arena.take<float>(floats * kForwardRows) : nullptr;
    bits = arena.take<uint32_t>(kTileKeys / 32 * kPanelRows);
  }
};

enum class Pass {
  softmax,     // online: statistics and output together
  statistics,  // maximum and sum only
  clipped,     // output from known statistics
  sigmoid,
  own_state,  // the variant's row state
  own,        // the variant's weights
};

class ForwardBlock {
 public:
  ForwardBlock(const FlashTask& task, const BlockItem& item, const ForwardScratch& scratch)
      : task_(task), p_(task.p), item_(item), s_(scratch), sequence_(sequence_at(task.p, item.sequence)) {
    key_head_ = key_head(p_, item.head), value_head_ = value_head(p_, item.head);
    pack_factor_ = static_cast<float>(task.natural ? task.scale : task.scale * M_LOG2E);
    unit_ = task.natural ? kLog2E : 1.0f;
  }

  void run() {
    clear();
    const Kind kind = p_.normalizer.kind;
    if (task_.own_weights) {
      if (s_.state != nullptr) sweep_state();
      sweep(Pass::own, true);
    } else if (kind == Kind::softmax) {
      sweep(Pass::softmax, true);
    } else if (kind == Kind::sigmoid) {
      sweep(Pass::sigmoid, true);
    } else {
      sweep(Pass::statistics, false);
      for (int64_t r = 0; r < count(); ++r) {
        // A row without weight takes +inf: every exponential is 0 then.
        const float log_sum = s_.maximum[r] + std::log2(s_.sum[r]);
        s_.sum[r] = log_sum == -INFINITY ? INFINITY : log_sum;
      }
      sweep(Pass::clipped, true);
    }
  }

 private:
  int64_t count() const { return item_.end - item_.begin; }

  template <class Visit>
  void panels(const Visit& visit) {
    each_panel(task_, sequence_, item_.head, item_.begin, item_.end, visit);
  }

  void sweep_state() {
    panels([&](const Panel& panel, int64_t first) { task_.variant.table->start(variant_panel(panel), state(first)); });
    sweep(Pass::own_state, false);
  }

  float* state(int64_t first) const {
    return s_.state == nullptr ? nullptr : s_.state + first * task_.variant.table->row_state;
  }

  void clear() {
    const int64_t lanes = round_up(count(), kLanes);
    std::fill_n(s_.outputs, task_.dv * lanes, 0.0f);
    std::fill_n(s_.maximum, lanes, 0.0f);
    std::fill_n(s_.maximum, count(), -INFINITY);
    std::fill_n(s_.sum, lanes, 0.0f);
  }

  void pack(const Panel& panel, int64_t first) const {
    const FloatRows rows =
        vector_rows(p_.q, sequence_.tensor_batch, item_.head, sequence_.q_begin + panel.i0, panel.rows, s_.row);
    pack_queries(panel, rows, pack_factor_, s_.queries + first * task_.d);
  }

  // A panel's rows are read once and written once, at the memory's pace: other panels' products hide it.
  void prefetch_rows(const Panel& panel, bool writes) const {
    const auto touch = [&](const AnyView& view, int64_t begin, int64_t end, auto for_writing) {
      if (view.stride[3] != 1) return;
      const int64_t unit = static_cast<int64_t>(size_of(view.dtype)), bytes = view.size[3] * unit;
      const char* head = static_cast<const char*>(view.data) +
                         (sequence_.tensor_batch * view.stride[0] + item_.head * view.stride[1]) * unit;
      for (int64_t i = sequence_.q_begin + begin; i < sequence_.q_begin + end; ++i) {
        for (int64_t at = 0; at < bytes; at += 64) {
          __builtin_prefetch(head + i * view.stride[2] * unit + at, for_writing.value, 2);
        }
      }
    };
    const int64_t next = panel.i0 + panel.rows;
    if (!packed_) touch(p_.q, next, std::min(next + kPanelRows, item_.end), std::false_type());
    if (writes) touch(p_.out, panel.i0, next, std::true_type());
  }

  static constexpr int kMostTiles = 32;

  // A few tiles at a time, panel by panel: the panel's rows stay in L1, the tiles in L2, and a tile is converted once.
  void sweep(Pass pass, bool writes) {
    std::array<LoadedTile, kMostTiles> tiles;
    int count = 0;
    int64_t keys = 0;
    const auto flush = [&](bool last) {
      sweep_group(pass, {tiles.data(), static_cast<size_t>(count)}, last && writes);
      count = 0, keys = 0;
    };
    walk_tiles(p_, sequence_, item_.head, item_.begin, item_.end, [&](int64_t j0, int64_t j1) {
      if (count == kMostTiles || keys + (j1 - j0) > task_.group_keys) flush(false);
      tiles[count++] = {j0, j1, keys, {}, {}};
      keys += j1 - j0;
    });
    flush(true);
  }

  struct LoadedTile {
    int64_t begin, end, place;  ///< keys, and where their converted rows go
    FloatRows keys, values;
    enum class Values { unknown, finite, not_finite } found = Values::unknown;
  };

  void sweep_group(Pass pass, std::span<LoadedTile> tiles, bool writes) {
    panels([&](const Panel& panel, int64_t first) {
      if (!packed_) pack(panel, first);
      prefetch_rows(panel, writes);
      const auto visit = [&](LoadedTile& tile) {
        const TileCover cover = cover_panel(panel, tile.begin, tile.end, s_.bits);
        if (cover.empty()) return;
        if (tile.keys.data == nullptr) load(pass, tile);
        panel_tile(pass, panel, cover, first, tile);
      };
      // What every row sees comes first: every row then has a maximum, and masked tiles are weighed in registers too.
      const bool sorts = pass == Pass::softmax && task_.hook(&VariantTable::visible) == nullptr;
      const auto is_full = [&](const LoadedTile& tile) {
        return p_.mask.classify_quickly(scope_of(sequence_, item_.head), panel.i0, panel.i0 + panel.rows, tile.begin,
                                        tile.end) == Coverage::full;
      };
      uint32_t later = 0;
      static_assert(kMostTiles <= 32);
      for (size_t t = 0; t < tiles.size(); ++t) {
        if (sorts && !is_full(tiles[t])) {
          later |= uint32_t{1} << t;
        } else {
          visit(tiles[t]);
        }
      }
      for (; later != 0; later &= later - 1) visit(tiles[std::countr_zero(later)]);
      if (writes) write(panel, first);
    });
    packed_ = true;
  }

  void load(Pass pass, LoadedTile& tile) const {
    const int64_t batch = sequence_.tensor_batch, begin = sequence_.k_begin + tile.begin, count = tile.end - tile.begin;
    tile.keys = float_rows(p_.k, batch, key_head_, begin, count, s_.key_rows + tile.place * round_up(task_.d, 16));
    if (pass == Pass::statistics || pass == Pass::own_state) return;
    tile.values =
        float_rows(p_.v, batch, value_head_, begin, count, s_.value_rows + tile.place * round_up(task_.dv, 16));
  }

  bool has_nonfinite_values(LoadedTile& tile) const {
    using Values = LoadedTile::Values;
    if (tile.found == Values::unknown) {
      const bool found = has_nonfinite(tile.values.data, tile.values.stride, tile.end - tile.begin, task_.dv);
      tile.found = found ? Values::not_finite : Values::finite;
    }
    return tile.found == Values::not_finite;
  }

  void panel_tile(Pass pass, const Panel& panel, const TileCover& cover, int64_t first, LoadedTile& tile) {
    const int64_t width = panel.width(), count = cover.end - cover.begin, skip = cover.begin - tile.begin;
    const FloatRows keys{tile.keys.data + skip * tile.keys.stride, tile.keys.stride};
    const FloatRows values{tile.values.data + skip * tile.values.stride, tile.values.stride};
    float *maximum = s_.maximum + first, *sum = s_.sum + first, *outputs = s_.outputs + first * task_.dv;
    const float* queries = s_.queries + first * task_.d;
    const bool online = pass == Pass::softmax || pass == Pass::statistics;
    if (pass == Pass::softmax && !task_.has_scores && !task_.has_factors &&
        weigh_in_registers(panel, cover, first, keys)) {
      return add_values(panel, cover, tile, values, outputs, nullptr);
    }
    if (online) std::copy_n(maximum, width, s_.before);

    if (online && !cover.masked && !task_.has_scores) {
      gemm_nn(keys.data, keys.stride, queries, width, s_.tile, width, count, panel.vectors, task_.d,
              store::Maximum(maximum));
    } else {
      gemm_nn(keys.data, keys.stride, queries, width, s_.tile, width, count, panel.vectors, task_.d,
              store::Overwrite());
      if (task_.has_scores) apply_scores(panel, cover, s_.tile, s_.pairs, nullptr);
      if (pass == Pass::own_state) {
        task_.variant.table->update(variant_panel(panel), variant_keys(cover, s_.bits), s_.tile, state(first));
        return;
      }
      if (pass != Pass::sigmoid && pass != Pass::own) {
        std::copy_n(maximum, width, s_.moved);
        hide_and_maximize(panel, cover, s_.bits, unit_, s_.tile, online ? maximum : s_.moved);
      }
    }

    bool moved = false;
    if (online) {
      moved = rescale(width, s_.before, maximum, sum, s_.moved);
      exponentiate(panel, cover, s_.tile, maximum, sum);
      if (pass == Pass::statistics) return;
    } else if (pass == Pass::clipped) {
      clipped_softmax(panel, cover, s_.tile, sum);
    } else if (pass == Pass::own) {
      task_.variant.table->weights(variant_panel(panel), variant_keys(cover, nullptr), s_.tile, state(first));
    } else {
      sigmoid(panel, cover, s_.tile, sigmoid_bias(panel));
    }
    if (task_.has_factors) {
      fill_factors(panel, cover, s_.factors, s_.pairs);
      multiply(panel, cover, s_.tile, s_.factors);
    }
    if (task_.has_factors || pass == Pass::sigmoid || pass == Pass::own) zero_hidden(panel, cover, s_.bits, s_.tile);

    add_values(panel, cover, tile, values, outputs, moved ? s_.moved : nullptr);
  }

  /// outputs = outputs * factors + values^T weights. `factors`: null when they are 1.
  void add_values(const Panel& panel, const TileCover& cover, LoadedTile& tile, FloatRows values, float* outputs,
                  const float* factors) const {
    const int64_t width = panel.width(), count = cover.end - cover.begin;
    if (cover.masked && has_nonfinite_values(tile)) {
      if (factors != nullptr) scale_columns(outputs, factors, task_.dv, width);
      gemm_tn_visible(panel, cover, s_.bits, values.data, values.stride, s_.tile, outputs, task_.dv);
    } else if (factors != nullptr) {
      gemm_tn(values.data, values.stride, s_.tile, width, outputs, width, task_.dv, panel.vectors, count,
              store::RescaleAdd(factors));
    } else {
      gemm_tn(values.data, values.stride, s_.tile, width, outputs, width, task_.dv, panel.vectors, count, store::Add());
    }
  }

  static void scale_columns(float* rows, const float* factors, int64_t count, int64_t width) {
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t c = 0; c < width; ++c) rows[r * width + c] *= factors[c];
    }
  }

  // Weights against the maximum of the tiles before, taken in the registers of the product. False where a logit stands
  // far above that maximum, or there is none yet: the tile is then still to do.
  bool weigh_in_registers(const Panel& panel, const TileCover& cover, int64_t first, FloatRows keys) const {
    constexpr float kLargestSum = 4096;
    const Lanes d;
    const int64_t width = panel.width(), count = cover.end - cover.begin;
    const float *queries = s_.queries + first * task_.d, *maximum = s_.maximum + first;
    for (int64_t c = 0; c < width; c += kLanes) {
      if (!hn::AllTrue(d, hn::IsFinite(hn::LoadU(d, maximum + c)))) return false;
    }
    float *sum = s_.sum + first, *total = s_.before;
    std::copy_n(sum, width, total);
    {
      const FlushDenormals flush;
      if (cover.masked) {
        gemm_nn(keys.data, keys.stride, queries, width, s_.tile, width, count, panel.vectors, task_.d,
                store::MaskedExponential{{{}, maximum, total}, s_.bits, width});
      } else {
        gemm_nn(keys.data, keys.stride, queries, width, s_.tile, width, count, panel.vectors, task_.d,
                store::Exponential{{}, maximum, total});
      }
    }
    for (int64_t c = 0; c < width; c += kLanes) {
      const Vector more = hn::Sub(hn::LoadU(d, total + c), hn::LoadU(d, sum + c));
      if (!hn::AllTrue(d, hn::Lt(more, hn::Set(d, kLargestSum)))) return false;
    }
    std::copy_n(total, width, sum);
    return true;
  }

  // What each row's sum of values is multiplied by, and its lse, once all tiles are in.
  void finish(const Panel& panel, int64_t first, float* factors, float* lse) const {
    const Lanes d;
    const Kind kind = p_.normalizer.kind;
    const Vector one = hn::Set(d, 1.0f), zero = hn::Zero(d), ln2 = hn::Set(d, kLn2);
    const AnyView& sinks = p_.normalizer.sink_logit;
    const Vector sink = sinks ? hn::Set(d, static_cast<const float*>(sinks.data)[item_.head * sinks.stride[1]] * kLog2E)
                              : minus_infinity();
    for (int64_t v = 0; v < panel.width(); v += kLanes) {
      const Vector maximum = hn::LoadU(d, s_.maximum + first + v), sum = hn::LoadU(d, s_.sum + first + v);
      Vector factor = one, log_sum = zero;
      if (kind == Kind::clipped_softmax) {
        log_sum = hn::IfThenElse(hn::Eq(sum, hn::Neg(minus_infinity())), minus_infinity(), hn::Mul(sum, ln2));
      } else if (kind == Kind::softmax && !task_.own_weights) {
        const Vector top = finite_maximum(hn::Max(maximum, sink));
        const Vector shrink = exp2_of(hn::Sub(maximum, top));
        const Vector total = hn::MulAdd(sum, shrink, exp2_of(hn::Sub(sink, top)));
        const auto nothing = hn::Eq(total, zero);
        factor = hn::IfThenZeroElse(nothing, hn::Div(shrink, total));
        log_sum = hn::IfThenElse(nothing, minus_infinity(), hn::Mul(hn::Add(top, log2_of(total)), ln2));
      }
      hn::StoreU(factor, d, factors + v);
      hn::StoreU(log_sum, d, lse + v);
    }
  }

  void write(const Panel& panel, int64_t first) const {
    float *factors = s_.before, *lse = s_.moved, *outputs = s_.outputs + first * task_.dv;
    const int64_t batch = sequence_.tensor_batch, i = sequence_.q_begin + panel.i0;
    const auto transform = task_.hook(&VariantTable::outputs);
    if (transform != nullptr) transform(variant_panel(panel), outputs, task_.dv);
    finish(panel, first, factors, lse);
    write_panel(outputs, panel.width(), panel.rows, factors, p_.out, batch, item_.head, i, s_.row);
    if (!p_.lse) return;
    for (int64_t r = 0; r < panel.rows; ++r) *p_.lse.as<float>().row(batch, item_.head, i + r) = lse[r];
  }

  const FlashTask& task_;
  const FlashParams& p_;
  const BlockItem& item_;
  const ForwardScratch& s_;
  const Sequence sequence_;
  int64_t key_head_, value_head_;
  float pack_factor_, unit_;
  bool packed_ = false;
};

void ForwardItem(const FlashTask& task, const BlockItem& item, void* block) {
  Arena arena(block);
  const ForwardScratch scratch(arena, task);
  ForwardBlock(task, item, scratch).run();
}

int64_t EngineLanes() { return kLanes; }

int64_t ForwardBytes(const FlashTask& task) {
  Arena arena;
  const ForwardScratch scratch(arena, task);
  return arena.used();
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(ForwardItem);
HWY_EXPORT(ForwardBytes);
HWY_EXPORT(EngineLanes);

void run_forward_item(const FlashTask& task, const BlockItem& item, void* block) {
  HEED_DISPATCH(ForwardItem)(task, item, block);
}
int64_t engine_lanes() { return HEED_DISPATCH(EngineLanes)(); }
int64_t forward_scratch_bytes(const FlashTask& task) { return HEED_DISPATCH(ForwardBytes)(task); }

}  // namespace heed::kernels
#endif  // HWY_ONCE
