// The engine's entries behind the dispatch: one item of work at a time, in scratch that the caller owns.
#pragma once

#include "kernels/cpu/flash_task.h"

namespace heed::kernels {

/// Output and lse rows of one block. `block`: forward_scratch_bytes(task), 64-byte aligned.
void run_forward_item(const FlashTask& task, const BlockItem& item, void* block);
int64_t forward_scratch_bytes(const FlashTask& task);

}  // namespace heed::kernels
