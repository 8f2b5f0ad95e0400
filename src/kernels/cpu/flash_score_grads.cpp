// Gradients of the [1|B, 1|Hq, 1|N, M] terms: bias and multiplier. Each item owns some of their elements and visits, in
// a fixed order, every (sequence, head, query) that reads them.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/flash_score_grads.cpp"
#include "kernels/cpu/targets.h"

#include <hwy/foreach_target.h>

#include "kernels/cpu/flash_engine.h"
#include "kernels/cpu/flash_gradient-inl.h"

HWY_BEFORE_NAMESPACE();
namespace heed::kernels::HWY_NAMESPACE {

struct TermScratch {
  double* sums;
  GradientScratch shared;
  TermScratch(Arena& arena, const FlashTask& task)
      : sums(arena.take<double>(kBlockRows * kTermKeys)), shared(arena, task, true) {}
};

// Adds a tile [keys][queries] to sums[row][key - j0]; one row for all queries when they share it.
HWY_INLINE void add_tile(const Panel& panel, const TileCover& cover, const float* tile, int64_t first, bool shared_rows,
                         int64_t j0, double* sums) {
  for (int64_t j = cover.begin; j < cover.end; ++j) {
    const float* queries = tile + (j - cover.begin) * panel.width();
    double* to = sums + (shared_rows ? 0 : first * kTermKeys) + (j - j0);
    for (int64_t r = 0; r < panel.rows; ++r) to[shared_rows ? 0 : r * kTermKeys] += queries[r];
  }
}

void TermItemSum(const FlashTask& task, const FlashGrads& grads, const TermItem& item, void* block) {
  Arena arena(block);
  const TermScratch scratch(arena, task);
  const FlashParams& p = task.p;
  const AnyView& to = item.of_bias ? grads.d_bias : grads.d_multiplier;
  const bool shared_rows = to.size[2] == 1;
  const int64_t heads = p.q.size[1], rows = shared_rows ? 1 : item.end - item.begin;
  std::fill_n(scratch.sums, rows * kTermKeys, 0.0);
  for (int64_t s = 0; s < count_sequences(p); ++s) {
    if (to.size[0] != 1 && s != item.batch) continue;
    const Sequence sequence = sequence_at(p, s);
    if (item.key_begin >= sequence.num_keys) continue;
    const int64_t begin = shared_rows ? 0 : item.begin,
                  end = shared_rows ? sequence.num_queries : std::min(item.end, sequence.num_queries);
    const int64_t list_block = p.blocks != nullptr ? p.blocks->query_block : kBlockRows;
    for (int64_t h = 0; h < heads; ++h) {
      if (to.size[1] != 1 && h != item.head) continue;
      for (int64_t i = begin; i < end;) {
        // A block stays inside one row of the block list.
        const int64_t next = std::min({end, i + kBlockRows, (i / list_block + 1) * list_block});
        const BlockItem rows_item{s, h, i, next};
        GradientBlock gradient(task, grads, rows_item, scratch.shared);
        gradient.prepare();
        gradient.sweep(
            item.key_begin, item.key_begin + kTermKeys,
            [&](const Panel& panel, int64_t first, const TileCover& cover, FloatRows keys, FloatRows values) {
              gradient.tile(Gradient::terms, panel, cover, Reach(), first, keys, values);
              const float* tile = item.of_bias ? scratch.shared.d_logits : scratch.shared.weights;
              add_tile(panel, cover, tile, i - begin + first, shared_rows, item.key_begin, scratch.sums);
            });
        i = next;
      }
    }
  }
  float* data = static_cast<float*>(to.data) + item.batch * to.stride[0] + item.head * to.stride[1];
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = item.key_begin; j < std::min(item.key_begin + kTermKeys, to.size[3]); ++j) {
      data[(item.begin + r) * to.stride[2] + j * to.stride[3]] =
          static_cast<float>(scratch.sums[r * kTermKeys + j - item.key_begin]);
    }
  }
}

int64_t TermBytes(const FlashTask& task) {
  Arena arena;
  const TermScratch scratch(arena, task);
  return arena.used();
}

}  // namespace heed::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace heed::kernels {

HWY_EXPORT(TermItemSum);
HWY_EXPORT(TermBytes);

std::vector<TermItem> cut_terms(const FlashGrads& grads) {
  std::vector<TermItem> items;
  for (const bool of_bias : {true, false}) {
    const AnyView& to = of_bias ? grads.d_bias : grads.d_multiplier;
    if (!to) continue;
    for (int64_t b = 0; b < to.size[0]; ++b) {
      for (int64_t h = 0; h < to.size[1]; ++h) {
        for (int64_t i = 0; i < to.size[2]; i += kBlockRows) {
          for (int64_t j = 0; j < to.size[3]; j += kTermKeys)
            items.push_back({of_bias, b, h, i, std::min(i + kBlockRows, to.size[2]), j});
        }
      }
    }
  }
  return items;
}

void run_term_item(const FlashTask& task, const FlashGrads& grads, const TermItem& item, void* block) {
  HEED_DISPATCH(TermItemSum)(task, grads, item, block);
}
int64_t term_scratch_bytes(const FlashTask& task) { return HEED_DISPATCH(TermBytes)(task); }

}  // namespace heed::kernels
#endif  // HWY_ONCE
