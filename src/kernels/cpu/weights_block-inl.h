// Logarithms of attention weights, tile by tile: the product, the scores, the mask, minus the row's lse.
#if defined(HEED_KERNELS_CPU_WEIGHTS_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HEED_KERNELS_CPU_WEIGHTS_BLOCK_INL_H_
#undef HEED_KERNELS_CPU_WEIGHTS_BLOCK_INL_H_
#else
#define HEED_KERNELS_CPU_WEIGHTS_BLOCK_INL_H_
#endif

#include <cmath>

#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/gemm_tile-inl.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/softmax_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

struct WeightScratch {
  WeightScratch(Arena& arena, const FlashTask& task)
      : queries(arena.take<float>(task.d * kBlockRows)),
        lse(arena.take<float>(kBlockRows)),
        tile(arena.take<float>(kTileKeys * kPanelRows)),
        saturation(task.p.scores.softcap > 0 ? arena.take<float>(kTileKeys * kPanelRows) : nullptr),
        pairs(task.has_pairs ? arena.take<float>(kTileKeys * kPanelRows) : nullptr),
        key_rows(task.p.q.dtype == DType::f32 ? nullptr : arena.take<float>(kTileKeys * round_up(task.d, 16))),
        row(arena.take<float>(kPanelRows * std::max(round_up(task.d, 16), kTileKeys))),
        bits(arena.take<uint32_t>((kTileKeys + 63) / 64 * 2 * kPanelRows)) {}

  float *queries, *lse, *tile, *saturation, *pairs, *key_rows, *row;
  uint32_t* bits;
};

/// At most kBlockRows query rows of one (sequence, head).
class WeightBlock {
 public:
  WeightBlock(const FlashTask& task, const BlockItem& rows, const WeightScratch& scratch)
      : task_(task), p_(task.p), rows_(rows), s_(scratch), sequence_(sequence_at(task.p, rows.sequence)) {}

  const Sequence& sequence() const { return sequence_; }

  template <class Visit>
  void panels(const Visit& visit) const {
    each_panel(task_, sequence_, rows_.head, rows_.begin, rows_.end, visit);
  }

  void prepare() const {
    const int64_t b = sequence_.tensor_batch, rows = rows_.end - rows_.begin;
    panels([&](const Panel& panel, int64_t first) {
      const FloatRows q = vector_rows(p_.q, b, rows_.head, sequence_.q_begin + panel.i0, panel.rows, s_.row);
      pack_transposed(q.data, q.stride, panel.rows, task_.d, static_cast<float>(task_.scale),
                      s_.queries + first * task_.d, panel.width());
    });
    for (int64_t r = 0; r < round_up(rows, kLanes); ++r) {
      // Rows beyond the block and rows that see nothing: every weight is 0.
      s_.lse[r] = INFINITY;
      if (r >= rows) continue;
      const float lse = *p_.lse.as<float>().row(b, rows_.head, sequence_.q_begin + rows_.begin + r);
      if (lse != -INFINITY) s_.lse[r] = lse;
    }
  }

  /// Calls visit(panel, first, cover, keys) for the visible part of every tile and panel.
  template <class Visit>
  void sweep(const Visit& visit) const {
    walk_tiles(task_, sequence_, rows_.head, rows_.begin, rows_.end, kTileKeys, [&](int64_t j0, int64_t j1) {
      FloatRows keys{};
      panels([&](const Panel& panel, int64_t first) {
        const TileCover cover =
            cover_tile(p_.mask, scope_of(sequence_, rows_.head), panel.i0, panel.rows, j0, j1, panel.width(), s_.bits);
        if (cover.empty()) return;
        if (keys.data == nullptr) {
          keys = float_rows(p_.k, sequence_.tensor_batch, key_head(p_, rows_.head), sequence_.k_begin + j0, j1 - j0,
                            s_.key_rows);
        }
        visit(panel, first, cover, FloatRows{keys.data + (cover.begin - j0) * keys.stride, keys.stride});
      });
    });
  }

  /// s_.tile = s - lse, -inf where hidden; with a soft cap its tanh goes to s_.saturation.
  void log_weights(const Panel& panel, int64_t first, const TileCover& cover, FloatRows keys) const {
    const Lanes d;
    const int64_t width = panel.width();
    gemm_nn(keys.data, keys.stride, s_.queries + first * task_.d, width, s_.tile, width, cover.end - cover.begin,
            panel.vectors, task_.d, store::Overwrite());
    if (task_.has_scores) apply_scores(panel, cover, s_.tile, s_.pairs, s_.saturation);
    for (int64_t v = 0; v < panel.vectors; ++v) {
      const Vector lse = hn::LoadU(d, s_.lse + first + v * kLanes);
      for (int64_t j = cover.begin; j < cover.end; ++j) {
        float* at = s_.tile + (j - cover.begin) * width + v * kLanes;
        Vector x = hn::Sub(hn::LoadU(d, at), lse);
        if (cover.masked) x = hn::IfThenElse(visible_lanes(panel, cover, s_.bits, v, j), x, minus_infinity());
        hn::StoreU(x, d, at);
      }
    }
  }

 private:
  const FlashTask& task_;
  const FlashParams& p_;
  const BlockItem rows_;
  const WeightScratch& s_;
  const Sequence sequence_;
};

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
