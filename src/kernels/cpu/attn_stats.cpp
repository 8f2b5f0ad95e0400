// Functionals of the attention map: one sweep over the tiles of a block of query rows.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attn_stats.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/weights_block-inl.h"
#include "kernels/cpu/weights_task.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

struct StatsScratch {
  StatsScratch(Arena& arena, const FlashTask& task, const AttnStats& stats)
      : weights(arena, task),
        entropy(arena.take<float>(kBlockRows)),
        distance(arena.take<float>(kBlockRows)),
        largest(arena.take<float>(kBlockRows)),
        segments(stats.segment_mass ? arena.take<float>(stats.segment_mass.size[3] * kBlockRows) : nullptr) {}

  WeightScratch weights;
  float *entropy, *distance, *largest;
  float* segments;  ///< [S][kBlockRows]
};

class StatsBlock {
 public:
  StatsBlock(const FlashTask& task, const AttnStats& stats, const BlockItem& rows, const StatsItem& sums,
             const StatsScratch& scratch)
      : p_(task.p),
        stats_(stats),
        rows_(rows),
        columns_(sums.columns),
        diagonals_(sums.diagonals),
        s_(scratch),
        block_(task, rows, scratch.weights),
        row_end_(stats.row_end < 0 ? p_.q.size[2] : stats.row_end) {}

  void run() {
    block_.prepare();
    for (float* sums : {s_.entropy, s_.distance, s_.largest}) std::fill_n(sums, kBlockRows, 0.0f);
    if (s_.segments != nullptr) std::fill_n(s_.segments, stats_.segment_mass.size[3] * kBlockRows, 0.0f);
    block_.sweep([&](const Panel& panel, int64_t first, const TileCover& cover, FloatRows keys) {
      block_.log_weights(panel, first, cover, keys);
      for (int64_t v = 0; v < panel.vectors; ++v) sum_rows(panel, first, cover, v);
      if (s_.segments != nullptr) sum_segments(panel, first, cover);
      if (columns_ != nullptr) sum_columns(panel, cover);
      if (diagonals_ != nullptr) sum_diagonals(panel, cover);
    });
    write();
  }

 private:
  /// One vector of queries against a tile; the tile's sums are joined to the rows' as a whole, which keeps them
  /// accurate. Leaves weights where their logarithms were.
  void sum_rows(const Panel& panel, int64_t first, const TileCover& cover, int64_t v) const {
    const Lanes d;
    const Vector zero = hn::Zero(d), unit = hn::Set(d, kLog2E);
    const int64_t shift = panel.sequence.num_keys - panel.sequence.num_queries;
    Vector entropy = zero, distance = zero, largest = hn::LoadU(d, s_.largest + first + v * kLanes);
    for (int64_t j = cover.begin; j < cover.end; ++j) {
      float* at = s_.weights.tile + (j - cover.begin) * panel.width() + v * kLanes;
      const Vector x = hn::LoadU(d, at), p = exp2_of(hn::Mul(x, unit));
      // 0 log 0 is 0, also where the logarithm is -inf.
      entropy = hn::Sub(entropy, hn::IfThenZeroElse(hn::Eq(p, zero), hn::Mul(p, x)));
      const auto steps = hn::Iota(Integers(), static_cast<int32_t>(panel.i0 + v * kLanes + shift - j));
      distance = hn::MulAdd(p, hn::Abs(hn::ConvertTo(d, steps)), distance);
      largest = hn::IfThenElse(hn::Or(hn::Gt(p, largest), hn::IsNaN(p)), p, largest);
      hn::StoreU(p, d, at);
    }
    const auto join = [&](float* sums, Vector more) {
      hn::StoreU(hn::Add(hn::LoadU(d, sums + first + v * kLanes), more), d, sums + first + v * kLanes);
    };
    join(s_.entropy, entropy);
    join(s_.distance, distance);
    hn::StoreU(largest, d, s_.largest + first + v * kLanes);
  }

  void sum_segments(const Panel& panel, int64_t first, const TileCover& cover) const {
    const Lanes d;
    const int32_t* segments = stats_.segments + panel.sequence.k_begin;
    for (int64_t v = 0; v < panel.vectors; ++v) {
      for (int64_t j = cover.begin; j < cover.end;) {
        const int32_t segment = segments[j];
        Vector sum = hn::Zero(d);
        for (; j < cover.end && segments[j] == segment; ++j)
          sum = hn::Add(sum, hn::LoadU(d, s_.weights.tile + (j - cover.begin) * panel.width() + v * kLanes));
        if (segment < 0) continue;
        float* to = s_.segments + segment * kBlockRows + first + v * kLanes;
        hn::StoreU(hn::Add(hn::LoadU(d, to), sum), d, to);
      }
    }
  }

  /// Calls visit(v, weights of key j in vector v, 0 in rows that do not count for sums over rows) for every vector.
  template <class Visit>
  void counted_weights(const Panel& panel, const TileCover& cover, int64_t j, const Visit& visit) const {
    const Lanes d;
    // Lanes [begin, end) of the panel are rows that count.
    const int64_t i0 = panel.sequence.q_begin + panel.i0;
    const int64_t begin = std::clamp<int64_t>(stats_.row_begin - i0, 0, panel.rows);
    const int64_t end = std::clamp<int64_t>(row_end_ - i0, begin, panel.rows);
    const float* row = s_.weights.tile + (j - cover.begin) * panel.width();
    for (int64_t v = 0; v < panel.vectors; ++v) {
      const auto upto = [&](int64_t lane) {
        return hn::FirstN(d, static_cast<size_t>(std::clamp<int64_t>(lane - v * kLanes, 0, kLanes)));
      };
      const Vector weights = hn::IfThenElseZero(upto(end), hn::LoadU(d, row + v * kLanes));
      visit(v, hn::IfThenZeroElse(upto(begin), weights));
    }
  }

  void sum_columns(const Panel& panel, const TileCover& cover) const {
    const Lanes d;
    for (int64_t j = cover.begin; j < cover.end; ++j) {
      Vector sum = hn::Zero(d);
      counted_weights(panel, cover, j, [&](int64_t, Vector weights) HWY_ATTR { sum = hn::Add(sum, weights); });
      columns_[j] += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, sum)));
    }
  }

  /// Queries of a vector have consecutive distances to a key: its weights are added as they lie, one entry further for
  /// every key before it.
  void sum_diagonals(const Panel& panel, const TileCover& cover) const {
    const Lanes d;
    float sums[kTileKeys + kPanelRows] = {};
    for (int64_t j = cover.begin; j < cover.end; ++j) {
      float* to = sums + (cover.end - 1 - j);
      counted_weights(panel, cover, j, [&](int64_t v, Vector weights) HWY_ATTR {
        hn::StoreU(hn::Add(hn::LoadU(d, to + v * kLanes), weights), d, to + v * kLanes);
      });
    }
    const int64_t keys = panel.sequence.num_keys, entries = cover.end - cover.begin + panel.width() - 1;
    const int64_t first = panel.i0 + keys - panel.sequence.num_queries - (cover.end - 1);
    for (int64_t t = std::max<int64_t>(0, -first); t < entries && first + t < keys; ++t)
      diagonals_[first + t] += static_cast<double>(sums[t]);
  }

  void write() const {
    const Sequence& sequence = block_.sequence();
    const AnyView& sinks = p_.normalizer.sink_logit;
    const int64_t b = sequence.tensor_batch, h = rows_.head;
    for (int64_t r = 0; r < rows_.end - rows_.begin; ++r) {
      const int64_t n = sequence.q_begin + rows_.begin + r;
      const auto at = [&](const AnyView& view, int64_t c) -> float& { return view.as<float>().at(b, h, n, c); };
      if (stats_.entropy) {
        const float x = sinks ? *sinks.as<float>().row(0, h, 0) - s_.weights.lse[r] : -INFINITY, weight = std::exp(x);
        at(stats_.entropy, 0) = s_.entropy[r] - (weight == 0 ? 0 : weight * x);
      }
      if (stats_.distance) at(stats_.distance, 0) = s_.distance[r];
      if (stats_.max_weight) at(stats_.max_weight, 0) = s_.largest[r];
      if (s_.segments == nullptr) continue;
      for (int64_t c = 0; c < stats_.segment_mass.size[3]; ++c)
        at(stats_.segment_mass, c) = s_.segments[c * kBlockRows + r];
    }
  }

  const FlashParams& p_;
  const AttnStats& stats_;
  const BlockItem rows_;
  double *columns_, *diagonals_;
  const StatsScratch& s_;
  const WeightBlock block_;
  const int64_t row_end_;
};

void RunStatsItem(const FlashTask& task, const AttnStats& stats, const StatsItem& item, void* block) {
  Arena arena(block);
  const StatsScratch scratch(arena, task, stats);
  BlockItem rows = item.rows;
  // A block list speaks of whole query blocks, so no block of rows may reach over the border of two.
  const int64_t border = task.p.blocks != nullptr ? task.p.blocks->query_block : INT64_MAX;
  while (rows.begin < item.rows.end) {
    const int64_t left_in_list = border == INT64_MAX ? INT64_MAX : border - rows.begin % border;
    rows.end = rows.begin + std::min({kBlockRows, item.rows.end - rows.begin, left_in_list});
    StatsBlock(task, stats, rows, item, scratch).run();
    rows.begin = rows.end;
  }
}

int64_t StatsBytes(const FlashTask& task, const AttnStats& stats) {
  Arena arena;
  const StatsScratch scratch(arena, task, stats);
  return arena.used();
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(RunStatsItem);
HWY_EXPORT(StatsBytes);

void run_stats_item(const FlashTask& task, const AttnStats& stats, const StatsItem& item, void* scratch) {
  HEED_DISPATCH(RunStatsItem)(task, stats, item, scratch);
}
int64_t stats_scratch_bytes(const FlashTask& task, const AttnStats& stats) {
  return HEED_DISPATCH(StatsBytes)(task, stats);
}

}  // namespace heed::kernels
#endif  // HWY_ONCE
