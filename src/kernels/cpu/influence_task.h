// The entries behind the dispatch for the influence of weights.
#pragma once

#include "heed/kernels/weight_influence.h"
#include "kernels/cpu/flash_task.h"

namespace heed::kernels {

/// Query block `block` of one (sequence, head): writes its row of blocks.
struct InfluenceItem {
  int64_t sequence, head, block;
};
void run_influence_item(const FlashTask& task, const WeightInfluence& influence, const InfluenceItem& item,
                        void* scratch);
int64_t influence_scratch_bytes(const FlashTask& task, const WeightInfluence& influence);

}  // namespace heed::kernels
