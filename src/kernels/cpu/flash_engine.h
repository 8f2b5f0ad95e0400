// The engine's entries behind the dispatch: one item of work at a time, in scratch that the caller owns.
#pragma once

#include <vector>

#include "kernels/cpu/flash_backward_plan.h"
#include "kernels/cpu/flash_task.h"

namespace heed::kernels {

/// Whole calls, already checked.
void run_forward(const FlashTask& task);
void run_backward(const FlashTask& task, const FlashGrads& grads);

/// Floats per vector of the instruction set in use.
int64_t engine_lanes();

/// Output and lse rows of one block. `block`: forward_scratch_bytes(task), 64-byte aligned.
void run_forward_item(const FlashTask& task, const BlockItem& item, void* block);
int64_t forward_scratch_bytes(const FlashTask& task);

/// What each query row [B, Hq, N] adds to gradients that rows share; null: not asked.
struct RowSums {
  float* temperature = nullptr;
  float* sink = nullptr;
  float* sigmoid_bias = nullptr;
};

/// Writes the query gradients of one block, adds its key and value gradients to `buffer`, stores its row sums.
void run_backward_item(const FlashTask& task, const FlashGrads& grads, const BackwardUnit& unit, const BlockItem& item,
                       const KeyGradients& buffer, const RowSums& sums, void* block);
int64_t backward_scratch_bytes(const FlashTask& task);

/// Rows [begin, end) of factor * (parts[0] + parts[1] + ...) into rows first_row + ... of a gradient, or of row r into
/// rows[r], where that is not below 0. `row`: `padded` floats.
void sum_parts(const float* const* parts, int64_t count, int64_t padded, int64_t begin, int64_t end, float factor,
               const AnyView& to, int64_t b, int64_t h, int64_t first_row, float* row, const int32_t* rows = nullptr);

/// Keys of one item of the term gradients: a multiple of kTileKeys.
inline constexpr int64_t kTermKeys = 4 * kTileKeys;

/// Elements [batch][head][begin, end)[key_begin, key_begin + kTermKeys) of d_bias or d_multiplier.
struct TermItem {
  bool of_bias;
  int64_t batch, head, begin, end, key_begin;
};
std::vector<TermItem> cut_terms(const FlashGrads& grads);
void run_term_item(const FlashTask& task, const FlashGrads& grads, const TermItem& item, void* block);
int64_t term_scratch_bytes(const FlashTask& task);

}  // namespace heed::kernels
