// The chunk engines' entries behind the dispatch: one head of one sequence at a time, in scratch that the caller owns.
#pragma once

#include "kernels/recurrence_problem.h"

namespace heed::kernels {

/// One head of a sequence, or of a piece of one.
struct ChunkItem {
  int64_t state;  ///< row of the states
  int64_t head;
  TokenSpan span;
};

struct LinearTask {
  explicit LinearTask(const LinearChunkParams& params);

  const LinearChunkParams& p;
  DecayKind decay;
  int64_t heads, d, dv;
  int64_t chunk;  ///< tokens of a chunk, as the decays allow
  int64_t group;  ///< of the backward: tokens whose chunks share one kept state
};

struct DeltaTask {
  explicit DeltaTask(const DeltaChunkParams& params);

  const DeltaChunkParams& p;
  DecayKind decay;
  int64_t heads, d, dv, chunk;
};

struct ItemGradients {
  bool valid = true;      ///< no log decay is above 0
  double d_constant = 0;  ///< of a head's constant log decay
};

/// Each returns false when a log decay is above 0. `block`: as many bytes as the other function says, 64-byte aligned.
bool run_linear_item(const LinearTask& task, const ChunkItem& item, void* block);
int64_t linear_scratch_bytes(const LinearTask& task);
/// A sequence of one token.
bool run_linear_step(const LinearTask& task, const ChunkItem& item);
/// The final state alone. kept [d]: how much of the rows of the initial state is in it.
bool run_linear_state(const LinearTask& task, const ChunkItem& item, float* kept, void* block);
/// As a final state of the call the gradient of the item's initial state, where that of its own final state is 0.
void run_linear_state_gradient(const LinearTask& task, const AnyView& d_out, const ChunkItem& item, void* block);
/// Gradients have all heads. `longest`: tokens of the longest sequence.
ItemGradients run_linear_gradient_item(const LinearTask& task, const LinearChunkGrads& grads, const ChunkItem& item,
                                       int64_t longest, void* block);
int64_t linear_gradient_scratch_bytes(const LinearTask& task, int64_t longest);

bool run_delta_item(const DeltaTask& task, const ChunkItem& item, void* block);
int64_t delta_scratch_bytes(const DeltaTask& task);
bool run_delta_step(const DeltaTask& task, const ChunkItem& item);
ItemGradients run_delta_gradient_item(const DeltaTask& task, const DeltaChunkGrads& grads, const ChunkItem& item,
                                      int64_t longest, void* block);
int64_t delta_gradient_scratch_bytes(const DeltaTask& task, int64_t longest);

}  // namespace heed::kernels
