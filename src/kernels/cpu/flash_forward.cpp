// The forward of the tile engine: for a block of query rows, one pass over the key tiles (two for clipped softmax).
#include <array>
#include <bitset>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/flash_forward.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/flash_engine.h"
#include "kernels/cpu/gemm_reach-inl.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/softmax_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

using Kind = Normalizer::Kind;

/// Tiles of fewer than kWholeKeys are joined to as many as kJoinedKeys.
inline constexpr int64_t kWholeKeys = 64, kJoinedKeys = 128;

struct ForwardScratch {
  float *queries, *outputs, *maximum, *sum, *tile, *again, *factors, *pairs, *key_rows, *value_rows, *row, *before,
      *moved, *state;
  float* gammas;  ///< clipped softmax
  float *joined_keys, *joined_values;
  uint32_t* bits;

  ForwardScratch(Arena& arena, const FlashTask& task) {
    const int64_t d_padded = round_up(task.d, 16), dv_padded = round_up(task.dv, 16);
    queries = arena.take<float>(task.d * task.forward_rows);
    outputs = arena.take<float>(task.dv * task.forward_rows);
    maximum = arena.take<float>(task.forward_rows);
    sum = arena.take<float>(task.forward_rows);
    tile = arena.take<float>(kForwardKeys * kPanelRows);
    again = arena.take<float>((kForwardKeys + 1) * kPanelRows);
    factors = task.has_factors ? arena.take<float>(kForwardKeys * kPanelRows) : nullptr;
    pairs = task.has_pairs ? arena.take<float>(kForwardKeys * kPanelRows) : nullptr;
    const bool converts = task.p.q.dtype != DType::f32 || task.order != nullptr;
    key_rows = converts ? arena.take<float>(task.group_keys * d_padded) : nullptr;
    value_rows = converts ? arena.take<float>(task.group_keys * dv_padded) : nullptr;
    row = arena.take<float>(kPanelRows * std::max(d_padded, dv_padded));
    before = arena.take<float>(kPanelRows);
    moved = arena.take<float>(kPanelRows);
    const int floats = task.variant.table != nullptr ? task.variant.table->row_state : 0;
    state = floats > 0 ? arena.take<float>(floats * task.forward_rows) : nullptr;
    const bool clips = task.p.normalizer.kind == Normalizer::Kind::clipped_softmax;
    gammas = clips ? arena.take<float>(task.forward_rows) : nullptr;
    joined_keys = task.p.blocks != nullptr ? arena.take<float>(kJoinedKeys * d_padded) : nullptr;
    joined_values = task.p.blocks != nullptr ? arena.take<float>(kJoinedKeys * dv_padded) : nullptr;
    bits = arena.take<uint32_t>(kForwardKeys / 32 * kPanelRows);
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
    start();
    const Kind kind = p_.normalizer.kind;
    if (task_.own_weights) {
      if (s_.state != nullptr) sweep_state();
      sweep(Pass::own);
    } else if (kind == Kind::softmax) {
      sweep(Pass::softmax);
    } else if (kind == Kind::sigmoid) {
      sweep(Pass::sigmoid);
    } else {
      panels([&](const Panel& panel, int64_t first) { fill_gammas(panel, s_.gammas + first); });
      sweep(Pass::statistics);
      for (int64_t r = 0; r < count(); ++r) {
        // A row without weight takes +inf: every exponential is 0 then.
        const float log_sum = s_.maximum[r] + std::log2(s_.sum[r]);
        s_.sum[r] = log_sum == -INFINITY ? INFINITY : log_sum;
      }
      sweep(Pass::clipped);
    }
    write();
  }

 private:
  int64_t count() const { return item_.end - item_.begin; }

  template <class Visit>
  void panels(const Visit& visit) {
    each_panel(task_, sequence_, item_.head, item_.begin, item_.end, visit);
  }

  void sweep_state() {
    panels([&](const Panel& panel, int64_t first) { task_.variant.table->start(variant_panel(panel), state(first)); });
    sweep(Pass::own_state);
  }

  float* state(int64_t first) const {
    return s_.state == nullptr ? nullptr : s_.state + first * task_.variant.table->row_state;
  }

  void start() {
    const int64_t lanes = round_up(count(), kLanes);
    std::fill_n(s_.maximum, lanes, 0.0f);
    std::fill_n(s_.maximum, count(), -INFINITY);
    std::fill_n(s_.sum, lanes, 0.0f);
  }

  /// A panel's queries, packed when first asked for.
  const float* queries_of(const Panel& panel, int64_t first) {
    float* queries = s_.queries + first * task_.d;
    if (packed_[first]) return queries;
    packed_.set(first);
    const int64_t batch = sequence_.tensor_batch, i = sequence_.q_begin + panel.i0, next = i + panel.rows,
                  end = std::min(next + panel.rows, sequence_.q_begin + item_.end);
    pack_queries(panel, query_rows(task_, p_.q, batch, item_.head, i, panel.rows, s_.row), pack_factor_, queries);
    ahead_.ask(kQueries, p_.q, batch, item_.head, next, end, task_.query_rows());
    ahead_.ask(kOutputs, p_.out, batch, item_.head, i, next, task_.query_rows());
    return queries;
  }

  /// The sums of a panel's outputs, 0 when first asked for.
  float* outputs_of(const Panel& panel, int64_t first) {
    float* outputs = s_.outputs + first * task_.dv;
    if (!started_[first]) std::fill_n(outputs, task_.dv * panel.width(), 0.0f);
    started_.set(first);
    return outputs;
  }

  struct LoadedTile {
    int64_t begin, end, place;  ///< keys, and where their converted rows go
    FloatRows keys, values;
    enum class Values { unknown, finite, not_finite } found = Values::unknown;

    int64_t count() const { return end - begin; }
  };

  struct TileGroup {
    std::array<LoadedTile, 64> tiles;
    size_t count = 0;
    int64_t keys = 0;

    bool takes(int64_t more, int64_t most) const { return count < tiles.size() && keys + more <= most; }
    void add(int64_t begin, int64_t end) {
      tiles[count++] = {begin, end, keys, {}, {}};
      keys += end - begin;
    }
  };

  // A group of tiles at a time, panel by panel: the panel's rows stay in L1, the tiles in L2, and a tile is converted
  // once. A group is swept when the next one is known.
  void sweep(Pass pass) {
    TileGroup groups[2];
    int open = 0;
    const auto close = [&] {
      TileGroup& before = groups[1 - open];
      sweep_group(pass, before, groups[open]);
      before.count = 0, before.keys = 0;
      open = 1 - open;
    };
    walk_tiles(task_, sequence_, item_.head, item_.begin, item_.end, kForwardKeys, [&](int64_t j0, int64_t j1) {
      if (groups[open].count > 0 && !groups[open].takes(j1 - j0, task_.group_keys)) close();
      groups[open].add(j0, j1);
    });
    close();
    close();
  }

  /// The first keys of `next`, which come after, are fetched meanwhile.
  void sweep_group(Pass pass, TileGroup& group, const TileGroup& next) {
    if (group.count == 0) return;
    fetch_ahead(next);
    panels([&](const Panel& panel, int64_t first) {
      joined_ = 0;
      for (size_t t = 0; t < group.count; ++t) {
        LoadedTile& tile = group.tiles[t];
        const TileCover cover = cover_panel(panel, tile.begin, tile.end, s_.bits);
        if (cover.empty()) continue;
        if (tile.keys.data == nullptr) load(pass, tile);
        if (can_join(pass, tile, cover)) {
          join(panel, first, tile);
        } else {
          flush_joined(panel, first);
          panel_tile(pass, panel, cover, first, tile);
        }
      }
      flush_joined(panel, first);
    });
  }

  void fetch_ahead(const TileGroup& next) {
    int32_t count = 0;
    for (size_t t = 0; t < next.count; ++t) {
      const LoadedTile& tile = next.tiles[t];
      for (int64_t j = tile.begin; j < tile.end && count < kForwardKeys; ++j) {
        const int64_t row = sequence_.k_begin + j;
        next_rows_[count++] = task_.order == nullptr ? static_cast<int32_t>(row) : task_.key_rows()[row];
      }
    }
    ahead_.ask(kKeys, p_.k, sequence_.tensor_batch, key_head_, 0, count, next_rows_.data());
    ahead_.ask(kValues, p_.v, sequence_.tensor_batch, value_head_, 0, count, next_rows_.data());
  }

  // Lists of small blocks lead to tiles of a few keys, whose products are too short for the registers. Those that all
  // rows of a panel see whole are copied side by side.
  bool can_join(Pass pass, const LoadedTile& tile, const TileCover& cover) const {
    return pass == Pass::softmax && s_.joined_keys != nullptr && !task_.has_scores && !task_.has_factors &&
           !cover.masked && cover.end - cover.begin == tile.count() && tile.count() < kWholeKeys;
  }

  void join(const Panel& panel, int64_t first, const LoadedTile& tile) {
    if (joined_ + tile.count() > kJoinedKeys) flush_joined(panel, first);
    const FloatRows keys = joined_keys(), values = joined_values();
    for (int64_t j = 0; j < tile.count(); ++j, ++joined_) {
      std::copy_n(tile.keys.data + j * tile.keys.stride, task_.d, s_.joined_keys + joined_ * keys.stride);
      std::copy_n(tile.values.data + j * tile.values.stride, task_.dv, s_.joined_values + joined_ * values.stride);
    }
  }

  void flush_joined(const Panel& panel, int64_t first) {
    if (joined_ == 0) return;
    LoadedTile all{0, joined_, 0, joined_keys(), joined_values()};
    joined_ = 0;
    panel_tile(Pass::softmax, panel, {0, all.end, false}, first, all);
  }

  FloatRows joined_keys() const { return {s_.joined_keys, round_up(task_.d, 16)}; }
  FloatRows joined_values() const { return {s_.joined_values, round_up(task_.dv, 16)}; }

  void load(Pass pass, LoadedTile& tile) const {
    const int64_t batch = sequence_.tensor_batch, begin = sequence_.k_begin + tile.begin, count = tile.count();
    tile.keys = key_rows(task_, p_.k, batch, key_head_, begin, count, s_.key_rows + tile.place * round_up(task_.d, 16));
    if (pass == Pass::statistics || pass == Pass::own_state) return;
    tile.values =
        key_rows(task_, p_.v, batch, value_head_, begin, count, s_.value_rows + tile.place * round_up(task_.dv, 16));
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
    float *maximum = s_.maximum + first, *sum = s_.sum + first, *outputs = outputs_of(panel, first);
    const float* queries = queries_of(panel, first);
    const bool online = pass == Pass::softmax || pass == Pass::statistics;
    const Reach reach = cover.masked ? Reach(s_.bits, count, panel.vectors) : Reach();
    if (pass == Pass::softmax && !task_.has_scores && !task_.has_factors) {
      const bool moved = weigh_in_registers(panel, cover, reach, first, keys);
      return add_values(panel, cover, reach, tile, values, outputs, moved ? s_.moved : nullptr);
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
      clipped_softmax(panel, cover, s_.tile, sum, s_.gammas + first);
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

    add_values(panel, cover, reach, tile, values, outputs, moved ? s_.moved : nullptr);
  }

  /// outputs = outputs * factors + values^T weights. `factors`: null when they are 1.
  void add_values(const Panel& panel, const TileCover& cover, const Reach& reach, LoadedTile& tile, FloatRows values,
                  float* outputs, const float* factors) {
    const int64_t width = panel.width(), count = cover.end - cover.begin;
    if (cover.masked && has_nonfinite_values(tile)) {
      if (factors != nullptr) scale_columns(outputs, factors, task_.dv, width);
      gemm_tn_visible(panel, cover, s_.bits, values.data, values.stride, s_.tile, outputs, task_.dv);
    } else if (cover.masked && factors != nullptr) {
      gemm_tn_reach(values.data, values.stride, s_.tile, width, outputs, width, task_.dv, panel.vectors, reach,
                    store::RescaleAdd(factors));
    } else if (cover.masked) {
      gemm_tn_reach(values.data, values.stride, s_.tile, width, outputs, width, task_.dv, panel.vectors, reach,
                    store::AddAhead{{}, &ahead_});
    } else if (factors != nullptr) {
      gemm_tn(values.data, values.stride, s_.tile, width, outputs, width, task_.dv, panel.vectors, count,
              store::RescaleAdd(factors));
    } else {
      gemm_tn(values.data, values.stride, s_.tile, width, outputs, width, task_.dv, panel.vectors, count,
              store::AddAhead{{}, &ahead_});
    }
  }

  static void scale_columns(float* rows, const float* factors, int64_t count, int64_t width) {
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t c = 0; c < width; ++c) rows[r * width + c] *= factors[c];
    }
  }

  // Weights against a reference that need not be the maximum, taken in the registers of the product: the reference of
  // the tiles before, or 0 for a row that has seen nothing. Rows whose weights leave the range in which floats are at
  // ease are weighed again, against their maximum; no row depends on another. True when s_.moved holds factors for the
  // outputs.
  bool weigh_in_registers(const Panel& panel, const TileCover& cover, const Reach& reach, int64_t first,
                          FloatRows keys) {
    const Lanes d;
    const int64_t width = panel.width(), count = cover.end - cover.begin;
    float *reference = s_.maximum + first, *sum = s_.sum + first, *shift = s_.before, *total = s_.moved;
    for (int64_t c = 0; c < width; c += kLanes) {
      hn::StoreU(finite_maximum(hn::LoadU(d, reference + c)), d, shift + c);
    }
    std::fill_n(total, width, 0.0f);
    {
      const FlushDenormals flush;
      const store::Exponential plain{{}, shift, total, &ahead_};
      const float* queries = s_.queries + first * task_.d;
      if (cover.masked) {
        gemm_nn_reach(keys.data, keys.stride, queries, width, s_.tile, width, count, panel.vectors, task_.d, reach,
                      store::MaskedExponential{plain, s_.bits, width});
      } else {
        gemm_nn(keys.data, keys.stride, queries, width, s_.tile, width, count, panel.vectors, task_.d, plain);
      }
    }
    bool all_good = true;
    for (int64_t c = 0; c < width; c += kLanes) {
      const auto good = at_ease(panel, cover, c, hn::LoadU(d, reference + c), hn::LoadU(d, total + c));
      all_good &= hn::AllTrue(d, good);
    }
    if (!all_good) return weigh_again(panel, cover, first, keys);
    for (int64_t c = 0; c < width; c += kLanes) {
      const Vector more = hn::LoadU(d, total + c);
      hn::StoreU(hn::Add(hn::LoadU(d, sum + c), more), d, sum + c);
      // The reference of a row that has now seen something is the 0 that it was weighed against.
      const auto seen = hn::Ne(more, hn::Zero(d));
      hn::StoreU(hn::IfThenElse(seen, hn::LoadU(d, shift + c), hn::LoadU(d, reference + c)), d, reference + c);
    }
    return false;
  }

  // Whether the weights of a row, which add up to `total`, may stay as they are. Not when they are NaN.
  hn::Mask<Lanes> at_ease(const Panel& panel, const TileCover& cover, int64_t c, Vector reference, Vector total) const {
    const Lanes d;
    const Vector most = hn::Set(d, 16384.0f), least = hn::Set(d, 1.0f / (1 << 20));
    const auto fresh = hn::Eq(reference, minus_infinity());
    const auto bounded = hn::And(hn::Lt(total, most), hn::Or(hn::IsFinite(reference), fresh));
    const auto large = hn::Or(hn::Not(fresh), hn::Ge(total, least));
    if (!cover.masked) return hn::And(bounded, large);
    auto words = hn::LoadU(Words(), s_.bits + c);
    for (int64_t word = 1; word * 32 < cover.end - cover.begin; ++word)
      words = hn::Or(words, hn::LoadU(Words(), s_.bits + word * panel.width() + c));
    const auto blind = hn::RebindMask(d, hn::Eq(words, hn::Zero(Words())));
    return hn::And(bounded, hn::Or(large, blind));
  }

  // After weigh_in_registers, which left the shifts in s_.before and the sums in s_.moved: rows that are not at ease
  // get the maximum as their reference.
  bool weigh_again(const Panel& panel, const TileCover& cover, int64_t first, FloatRows keys) const {
    const Lanes d;
    const int64_t width = panel.width(), count = cover.end - cover.begin;
    float *reference = s_.maximum + first, *sum = s_.sum + first, *again = s_.again,
          *maximum = again + kForwardKeys * width;
    gemm_nn(keys.data, keys.stride, s_.queries + first * task_.d, width, again, width, count, panel.vectors, task_.d,
            store::Overwrite());
    std::copy_n(reference, width, maximum);
    hide_and_maximize(panel, cover, s_.bits, 1, again, maximum);
    for (int64_t c = 0; c < width; c += kLanes) {
      const Vector old = hn::LoadU(d, reference + c), total = hn::LoadU(d, s_.moved + c),
                   top = hn::LoadU(d, maximum + c);
      const auto good = at_ease(panel, cover, c, old, total);
      const Vector limit = finite_maximum(top),
                   factor = hn::IfThenElse(good, hn::Set(d, 1.0f), exp2_of(hn::Sub(old, limit)));
      Vector more = hn::Zero(d);
      for (int64_t j = 0; j < count; ++j) {
        const Vector weight = exp2_of(hn::Sub(hn::LoadU(d, again + j * width + c), limit));
        more = hn::Add(more, weight);
        float* at = s_.tile + j * width + c;
        hn::StoreU(hn::IfThenElse(good, hn::LoadU(d, at), weight), d, at);
      }
      const auto seen = hn::Ne(total, hn::Zero(d));
      const Vector kept = hn::IfThenElse(seen, hn::LoadU(d, s_.before + c), old);
      hn::StoreU(hn::IfThenElse(good, kept, top), d, reference + c);
      hn::StoreU(hn::MulAdd(hn::LoadU(d, sum + c), factor, hn::IfThenElse(good, total, more)), d, sum + c);
      hn::StoreU(factor, d, s_.moved + c);
    }
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

  void write() {
    const int64_t batch = sequence_.tensor_batch;
    panels([&](const Panel& panel, int64_t first) {
      float *factors = s_.before, *lse = s_.moved, *outputs = outputs_of(panel, first);
      const int64_t i = sequence_.q_begin + panel.i0;
      const auto transform = task_.hook(&VariantTable::outputs);
      if (transform != nullptr) transform(variant_panel(panel), outputs, task_.dv);
      finish(panel, first, factors, lse);
      write_panel(task_, outputs, panel.width(), panel.rows, factors, p_.out, batch, item_.head, i, s_.row);
      if (!p_.lse) return;
      for (int64_t r = 0; r < panel.rows; ++r) {
        const int64_t row = task_.query_row(i + r);
        if (row >= 0) *p_.lse.as<float>().row(batch, item_.head, row) = lse[r];
      }
    });
  }

  const FlashTask& task_;
  const FlashParams& p_;
  const BlockItem& item_;
  const ForwardScratch& s_;
  const Sequence sequence_;
  std::bitset<kMostForwardRows> packed_, started_;  // by the panel's first row
  enum Ahead { kQueries, kOutputs, kKeys, kValues };
  // A group's keys and values are 2048 lines of 64 channels, and 64 queries pass over it in some 90 register tiles.
  RowsAhead ahead_{24};
  std::array<int32_t, kForwardKeys> next_rows_;  // of tensors
  int64_t joined_ = 0;                           // keys in s_.joined_keys
  int64_t key_head_, value_head_;
  float pack_factor_, unit_;
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
