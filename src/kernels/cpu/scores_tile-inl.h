// Score terms and weight factors of one panel against one key tile: extra passes over a tile that lies in L1.
#if defined(HEED_KERNELS_CPU_SCORES_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_SCORES_TILE_INL_H_
#undef HEED_KERNELS_CPU_SCORES_TILE_INL_H_
#else
#define HEED_KERNELS_CPU_SCORES_TILE_INL_H_
#endif

#include "kernels/cpu/exp-inl.h"
#include "kernels/cpu/flash_task.h"
#include "kernels/cpu/mask_tile.h"
#include "kernels/cpu/philox-inl.h"
#include "kernels/cpu/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

/// Query rows [i0, i0 + rows) of one (sequence, head), in `vectors` vectors.
struct Panel {
  const FlashTask* task;
  Sequence sequence;
  int64_t head, i0, rows, vectors;
  int64_t width() const { return vectors * kLanes; }
};

HWY_INLINE VariantPanel variant_panel(const Panel& panel) {
  return {panel.task->variant.parameters, panel.sequence.index,   panel.head, panel.i0, panel.rows, panel.width(),
          panel.sequence.num_queries,     panel.sequence.num_keys};
}

HWY_INLINE VariantKeys variant_keys(const TileCover& cover, const uint32_t* bits) {
  return {cover.begin, cover.end - cover.begin, cover.masked ? bits : nullptr};
}

/// What the mask and the variant leave of a tile for a panel.
HWY_INLINE TileCover cover_panel(const Panel& panel, int64_t j0, int64_t j1, uint32_t* bits) {
  if (const TileOrder* order = panel.task->order)
    return order->cover(panel.sequence.index, panel.i0, panel.rows, j0, j1, panel.width(), bits);
  const MaskScope scope = scope_of(panel.sequence, panel.head);
  TileCover cover = cover_tile(panel.task->p.mask, scope, panel.i0, panel.rows, j0, j1, panel.width(), bits);
  const auto visible = panel.task->hook(&VariantTable::visible);
  if (visible == nullptr || cover.empty()) return cover;
  if (!cover.masked) std::fill_n(bits, (cover.end - cover.begin + 31) / 32 * panel.width(), 0xFFFFFFFFu);
  cover.masked = true;
  visible(variant_panel(panel), variant_keys(cover, bits), bits);
  return cover;
}

/// Calls visit(panel, first row inside the block) for rows [begin, end).
template <class Visit>
HWY_INLINE void each_panel(const FlashTask& task, const Sequence& sequence, int64_t head, int64_t begin, int64_t end,
                           const Visit& visit) {
  // Four vectors left are two pairs: a lone vector of queries cannot keep the multipliers busy.
  int64_t left = (end - begin + kLanes - 1) / kLanes;
  for (int64_t i = begin; left > 0;) {
    const int64_t take = left == 4 ? 2 : std::min<int64_t>(left, kTileVectors);
    visit(Panel{&task, sequence, head, i, std::min(take * kLanes, end - i), take}, i - begin);
    i += take * kLanes, left -= take;
  }
}

/// A [1|B, 1|Hq, 1|N, M] tensor read as vectors of the panel's queries.
class PairReader {
 public:
  /// For a tile's keys; `scratch`: kTileKeys * kPanelRows floats.
  PairReader(const AnyView& view, const Panel& panel, const TileCover& cover, float* scratch)
      : begin_(cover.begin), last_(panel.rows - 1), width_(panel.width()) {
    if (!view) return;
    const auto stride = [&](int axis) { return view.size[axis] == 1 ? 0 : view.stride[axis]; };
    row_ = stride(2), key_ = stride(3);
    base_ = static_cast<const float*>(view.data) + panel.sequence.index * stride(0) + panel.head * stride(1) +
            panel.i0 * row_;
    // Rows of neighbouring keys are read whole and turned; a gather would open a line for every element.
    if (key_ != 1 || row_ == 0 || row_ > kLargestGatherStride || row_ < -kLargestGatherStride) return;
    pack_transposed(base_ + cover.begin, row_, panel.rows, cover.end - cover.begin, 1, scratch, width_);
    turned_ = scratch;
  }

  explicit operator bool() const { return base_ != nullptr; }

  HWY_INLINE Vector at(int64_t v, int64_t j) const {
    const Lanes d;
    if (turned_ != nullptr) return hn::LoadU(d, turned_ + (j - begin_) * width_ + v * kLanes);
    const float* from = base_ + j * key_;
    if (row_ == 0) return hn::Set(d, *from);
    if (row_ <= kLargestGatherStride && row_ >= -kLargestGatherStride) {
      return hn::GatherIndex(d, from, row_indices(v * kLanes, last_, row_));
    }
    HWY_ALIGN float lanes[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] = from[std::min(v * kLanes + lane, last_) * row_];
    return hn::Load(d, lanes);
  }

 private:
  const float *base_ = nullptr, *turned_ = nullptr;
  int64_t row_ = 0, key_ = 0, begin_, last_, width_;
};

/// Which lanes of vector v see key j of a masked tile.
HWY_INLINE hn::Mask<Lanes> visible_lanes(const Panel& panel, const TileCover& cover, const uint32_t* bits, int64_t v,
                                         int64_t j) {
  const Words du;
  const int64_t c = j - cover.begin;
  const auto words = hn::LoadU(du, bits + c / 32 * panel.width() + v * kLanes);
  return hn::RebindMask(Lanes(), hn::TestBit(words, hn::Set(du, uint32_t{1} << (c % 32))));
}

/// 1 / temperature of the lanes; 1 beyond the rows.
HWY_INLINE Vector inverse_temperature(const Panel& panel, int64_t v) {
  const AnyView& view = panel.task->p.scores.temperature;
  if (!view) return hn::Set(Lanes(), 1.0f);
  HWY_ALIGN float lanes[kLanes];
  const auto stride = [&](int axis) { return view.size[axis] == 1 ? 0 : view.stride[axis]; };
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    const int64_t r = v * kLanes + lane;
    lanes[lane] = 1;
    if (r >= panel.rows) continue;
    lanes[lane] =
        1 / static_cast<const float*>(
                view.data)[panel.sequence.index * stride(0) + panel.head * stride(1) + (panel.i0 + r) * stride(2)];
  }
  return hn::Load(Lanes(), lanes);
}

/// S^T [keys][width], natural units: the variant's logits, soft cap, bias, ALiBi, temperature. With `saturation` the
/// tanh of the soft cap is kept, with `derivative` that of the variant's logits.
HWY_INLINE void apply_scores(const Panel& panel, const TileCover& cover, float* tile, float* pairs, float* saturation,
                             float* derivative = nullptr) {
  if (const auto logits = panel.task->hook(&VariantTable::logits)) {
    logits(variant_panel(panel), variant_keys(cover, nullptr), tile, derivative);
  }
  const Lanes d;
  const Scores& scores = panel.task->p.scores;
  const int64_t width = panel.width();
  const PairReader bias(scores.bias, panel, cover, pairs);
  const bool capped = scores.softcap > 0, alibi = scores.alibi_slopes != nullptr;
  const Vector cap = hn::Set(d, static_cast<float>(scores.softcap)),
               inverse_cap = hn::Set(d, capped ? static_cast<float>(1 / scores.softcap) : 0.0f);
  const Vector slope = hn::Set(d, alibi ? scores.alibi_slopes[panel.head] : 0.0f);
  const int64_t shift = panel.sequence.num_keys - panel.sequence.num_queries;
  for (int64_t v = 0; v < panel.vectors; ++v) {
    const Vector inverse_t = inverse_temperature(panel, v);
    const IntegerVector own = count_from(panel.i0 + v * kLanes + shift);
    for (int64_t j = cover.begin; j < cover.end; ++j) {
      float* at = tile + (j - cover.begin) * width + v * kLanes;
      Vector s = hn::LoadU(d, at);
      if (capped) {
        const Vector t = tanh_of(hn::Mul(s, inverse_cap));
        if (saturation != nullptr) hn::StoreU(t, d, saturation + (j - cover.begin) * width + v * kLanes);
        s = hn::Mul(t, cap);
      }
      if (bias) s = hn::Add(s, bias.at(v, j));
      if (alibi) {
        const auto distance = hn::Sub(own, hn::Set(Integers(), static_cast<int32_t>(j)));
        s = hn::NegMulAdd(slope, hn::Abs(hn::ConvertTo(d, distance)), s);
      }
      hn::StoreU(hn::Mul(s, inverse_t), d, at);
    }
  }
}

/// F^T [keys][width]: keep / (1 - dropout), times the multiplier unless it is left out.
HWY_INLINE void fill_factors(const Panel& panel, const TileCover& cover, float* tile, float* pairs,
                             bool with_multiplier = true) {
  const Lanes d;
  const FlashParams& p = panel.task->p;
  const int64_t width = panel.width();
  const PairReader multiplier(with_multiplier ? p.scores.multiplier : AnyView(), panel, cover, pairs);
  const bool drops = p.dropout.probability > 0;
  const uint32_t threshold = dropout_threshold(p.dropout.probability);
  const Vector kept = hn::Set(d, static_cast<float>(1 / (1 - p.dropout.probability)));
  HWY_ALIGN uint32_t words[4 * kLanes];
  for (int64_t v = 0; v < panel.vectors; ++v) {
    int64_t group = -1;
    for (int64_t j = cover.begin; j < cover.end; ++j) {
      Vector f = multiplier ? multiplier.at(v, j) : hn::Set(d, 1.0f);
      if (drops) {
        if (j / 4 != group) {
          group = j / 4;
          philox_words(p.dropout.seed, panel.i0 + v * kLanes, group, panel.head, panel.sequence.index, words);
        }
        const auto word = hn::Load(Words(), words + j % 4 * kLanes);
        const auto keep = hn::RebindMask(d, hn::Eq(hn::Max(word, hn::Set(Words(), threshold)), word));
        f = hn::Mul(f, hn::IfThenElseZero(keep, kept));
      }
      hn::StoreU(f, d, tile + (j - cover.begin) * width + v * kLanes);
    }
  }
  const auto multipliers = panel.task->hook(&VariantTable::multipliers);
  if (multipliers != nullptr && with_multiplier) multipliers(variant_panel(panel), variant_keys(cover, nullptr), tile);
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
