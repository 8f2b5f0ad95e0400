#include "kernels/cpu/flash_task.h"

namespace heed::kernels {

// Little beside the block's own rows, so that an L2 of 1 MiB holds both; the panels of a block read it in turn.
static constexpr int64_t kGroupBytes = int64_t{128} << 10;

FlashTask::FlashTask(const FlashParams& params, const Variant& variant, const TileOrder* order)
    : p(params),
      variant(variant),
      order(order),
      d(params.q.size[3]),
      dv(params.v.size[3]),
      forward_rows(forward_rows_of(params)),
      group_keys(std::max<int64_t>(1, kGroupBytes / static_cast<int64_t>(sizeof(float)) / (d + dv) / kForwardKeys) *
                 kForwardKeys),
      scale(scale_of(params)),
      has_scores(params.scores.softcap > 0 || params.scores.alibi_slopes != nullptr || params.scores.bias ||
                 params.scores.temperature || hook(&VariantTable::logits) != nullptr),
      has_factors(params.scores.multiplier || params.dropout.probability > 0 ||
                  hook(&VariantTable::multipliers) != nullptr),
      has_pairs(params.scores.bias || params.scores.multiplier),
      own_weights(variant.table != nullptr && variant.table->normalizer == VariantTable::Normalizer::own),
      natural(has_scores || own_weights || params.normalizer.kind == Normalizer::Kind::sigmoid) {}

std::vector<BlockItem> cut_into_blocks(const FlashTask& task, int64_t most_rows) {
  const FlashParams& p = task.p;
  const int64_t sequences = count_sequences(p), heads = p.q.size[1];
  // Short calls get smaller blocks, so that there is work for many threads.
  constexpr int64_t kEnough = 32;
  int64_t rows = most_rows;
  const auto count = [&] {
    int64_t items = 0;
    for (int64_t s = 0; s < sequences; ++s) items += heads * ((sequence_at(p, s).num_queries + rows - 1) / rows);
    return items;
  };
  while (rows > kPanelRows && count() < kEnough) rows /= 2;

  std::vector<BlockItem> items;
  for (int64_t s = 0; s < sequences; ++s) {
    const int64_t queries = sequence_at(p, s).num_queries;
    const int64_t list_block = task.order != nullptr ? task.order->block_rows()
                               : p.blocks != nullptr ? p.blocks->query_block
                                                     : queries;
    for (int64_t h = 0; h < heads; ++h) {
      const size_t first = items.size();
      for (int64_t list_begin = 0; list_begin < queries; list_begin += list_block) {
        const int64_t list_end = std::min(queries, list_begin + list_block);
        for (int64_t i = list_begin; i < list_end; i += rows) items.push_back({s, h, i, std::min(list_end, i + rows)});
      }
      std::reverse(items.begin() + first, items.end());
    }
  }
  return items;
}

}  // namespace heed::kernels
