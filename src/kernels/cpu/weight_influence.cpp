// Influence of attention weights: one sweep over the tiles of a query block, weights and their gradients side by side.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/weight_influence.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/influence_task.h"
#include "kernels/cpu/weights_block-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

struct InfluenceScratch {
  InfluenceScratch(Arena& arena, const FlashTask& task, const WeightInfluence& influence)
      : weights(arena, task),
        d_outs(arena.take<float>(task.dv * kBlockRows)),
        gradients(arena.take<float>(kTileKeys * kPanelRows)),
        values(arena.take<float>(std::max(kTileKeys, kPanelRows) * round_up(task.dv, 16))),
        means(arena.take<float>(kBlockRows)),
        lonely(arena.take<float>(kBlockRows)),
        sums(arena.take<double>(influence.influence.size[3])) {}

  WeightScratch weights;
  float* d_outs;     ///< [dv][panel width] a panel
  float* gradients;  ///< of the weights of a tile: d_out v^T
  float* values;
  float* means;   ///< [kBlockRows]: sum_k g_ik P_ik
  float* lonely;  ///< [kBlockRows]: 1 where a row sees one key, else 0
  double* sums;   ///< [key blocks]
};

/// At most kBlockRows query rows of one query block.
class InfluenceBlock {
 public:
  InfluenceBlock(const FlashTask& task, const WeightInfluence& influence, const BlockItem& rows,
                 const InfluenceScratch& scratch)
      : task_(task), p_(task.p), in_(influence), rows_(rows), s_(scratch), block_(task, rows, scratch.weights) {}

  void run() {
    block_.prepare();
    prepare();
    sweep([&](const Panel& panel, int64_t first, const TileCover& cover) { add_to_means(panel, first, cover); });
    sweep([&](const Panel& panel, int64_t first, const TileCover& cover) {
      for (int64_t j = cover.begin; j < cover.end;) {
        const int64_t block = j / in_.key_block, end = std::min(cover.end, (block + 1) * in_.key_block);
        s_.sums[block] += sum_keys(panel, first, cover, j, end);
        j = end;
      }
    });
  }

 private:
  void prepare() const {
    const Sequence& sequence = block_.sequence();
    block_.panels([&](const Panel& panel, int64_t first) {
      const FloatRows d_out =
          vector_rows(in_.d_out, sequence.tensor_batch, rows_.head, panel.i0, panel.rows, s_.values);
      pack_transposed(d_out.data, d_out.stride, panel.rows, task_.dv, 1, s_.d_outs + first * task_.dv, panel.width());
      for (int64_t r = 0; r < panel.width(); ++r) {
        s_.means[first + r] = 0;
        s_.lonely[first + r] = r < panel.rows && visible_keys(p_, sequence, rows_.head, panel.i0 + r) == 1 ? 1 : 0;
      }
    });
  }

  /// Calls visit(panel, first, cover) with the logarithms of a tile's weights and their gradients in place.
  template <class Visit>
  void sweep(const Visit& visit) const {
    const int64_t b = block_.sequence().tensor_batch, head = value_head(p_, rows_.head);
    block_.sweep([&](const Panel& panel, int64_t first, const TileCover& cover, FloatRows keys) {
      block_.log_weights(panel, first, cover, keys);
      const FloatRows values = float_rows(p_.v, b, head, cover.begin, cover.end - cover.begin, s_.values);
      gemm_nn(values.data, values.stride, s_.d_outs + first * task_.dv, panel.width(), s_.gradients, panel.width(),
              cover.end - cover.begin, panel.vectors, task_.dv, store::Overwrite());
      visit(panel, first, cover);
    });
  }

  void add_to_means(const Panel& panel, int64_t first, const TileCover& cover) const {
    const Lanes d;
    for (int64_t v = 0; v < panel.vectors; ++v) {
      Vector sum = hn::Zero(d);
      for (int64_t at = v * kLanes; at < (cover.end - cover.begin) * panel.width(); at += panel.width()) {
        const Vector weight = exp2_of(hn::Mul(hn::LoadU(d, s_.weights.tile + at), hn::Set(d, kLog2E)));
        const Vector product = hn::Mul(weight, hn::LoadU(d, s_.gradients + at));
        // Hidden pairs have weight 0, whatever their values are.
        sum = hn::Add(sum, hn::IfThenZeroElse(hn::Eq(weight, hn::Zero(d)), product));
      }
      float* to = s_.means + first + v * kLanes;
      hn::StoreU(hn::Add(hn::LoadU(d, to), sum), d, to);
    }
  }

  /// The influence of keys [begin, end), all of one block, in the rows of a panel.
  double sum_keys(const Panel& panel, int64_t first, const TileCover& cover, int64_t begin, int64_t end) const {
    const Lanes d;
    const Vector zero = hn::Zero(d), unit = hn::Set(d, kLog2E), least = hn::Set(d, static_cast<float>(in_.epsilon));
    Vector total = zero;
    for (int64_t v = 0; v < panel.vectors; ++v) {
      const Vector mean = hn::LoadU(d, s_.means + first + v * kLanes);
      const auto lonely = hn::Gt(hn::LoadU(d, s_.lonely + first + v * kLanes), zero);
      const auto rows = hn::FirstN(d, static_cast<size_t>(std::clamp<int64_t>(panel.rows - v * kLanes, 0, kLanes)));
      for (int64_t j = begin; j < end; ++j) {
        const int64_t at = (j - cover.begin) * panel.width() + v * kLanes;
        const Vector x = hn::Mul(hn::LoadU(d, s_.weights.tile + at), unit), weight = exp2_of(x);
        const Vector gradient = hn::LoadU(d, s_.gradients + at);
        // 1 - P without cancellation, where rounding has not carried P above 1.
        const Vector rest = hn::Neg(exp2_minus_1(hn::Max(x, hn::Set(d, -126.0f))));
        const Vector ratio = hn::Div(weight, hn::IfThenElse(hn::Gt(least, rest), least, rest));
        Vector change = hn::Mul(ratio, hn::Sub(mean, gradient));
        change = hn::IfThenElse(lonely, hn::Neg(hn::Mul(weight, gradient)), change);
        if (in_.magnitude) change = hn::Abs(change);
        change = hn::IfThenZeroElse(hn::Eq(weight, zero), change);
        total = hn::Add(total, hn::IfThenElseZero(rows, change));
      }
    }
    return static_cast<double>(hn::GetLane(hn::SumOfLanes(d, total)));
  }

  const FlashTask& task_;
  const FlashParams& p_;
  const WeightInfluence& in_;
  const BlockItem rows_;
  const InfluenceScratch& s_;
  const WeightBlock block_;
};

void RunInfluenceItem(const FlashTask& task, const WeightInfluence& influence, const InfluenceItem& item,
                      void* memory) {
  Arena arena(memory);
  const InfluenceScratch scratch(arena, task, influence);
  const int64_t key_blocks = influence.influence.size[3], queries = sequence_at(task.p, item.sequence).num_queries;
  std::fill_n(scratch.sums, key_blocks, 0.0);
  // A block list speaks of whole query blocks, so no block of rows may reach over the border of two.
  const int64_t border = task.p.blocks != nullptr ? task.p.blocks->query_block : INT64_MAX;
  const int64_t end = std::min((item.block + 1) * influence.query_block, queries);
  for (int64_t i = item.block * influence.query_block; i < end;) {
    const int64_t left_in_list = border == INT64_MAX ? INT64_MAX : border - i % border;
    const int64_t next = i + std::min({kBlockRows, end - i, left_in_list});
    InfluenceBlock(task, influence, {item.sequence, item.head, i, next}, scratch).run();
    i = next;
  }
  const auto to = influence.influence.as<float>();
  for (int64_t c = 0; c < key_blocks; ++c)
    to.at(item.sequence, item.head, item.block, c) = static_cast<float>(scratch.sums[c]);
}

int64_t InfluenceBytes(const FlashTask& task, const WeightInfluence& influence) {
  Arena arena;
  const InfluenceScratch scratch(arena, task, influence);
  return arena.used();
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(RunInfluenceItem);
HWY_EXPORT(InfluenceBytes);

void run_influence_item(const FlashTask& task, const WeightInfluence& influence, const InfluenceItem& item,
                        void* scratch) {
  HEED_DISPATCH(RunInfluenceItem)(task, influence, item, scratch);
}
int64_t influence_scratch_bytes(const FlashTask& task, const WeightInfluence& influence) {
  return HEED_DISPATCH(InfluenceBytes)(task, influence);
}

}  // namespace heed::kernels
#endif  // HWY_ONCE
