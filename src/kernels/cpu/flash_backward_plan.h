// How the backward is cut: units whose key and value gradients nobody else touches, and parts of a unit's query blocks.
#pragma once

#include <vector>

#include "kernels/cpu/flash_task.h"

namespace heed::kernels {

/// The query heads of one sequence that share key or value heads, directly or through one another.
struct BackwardUnit {
  int64_t sequence;
  std::vector<int64_t> key_heads, value_heads;
  std::vector<BlockItem> blocks;
  int64_t first_part = 0, parts = 1;  ///< its parts in BackwardPlan::parts
};

/// Blocks part, part + parts, ... of a unit, summed into a buffer of their own.
struct BackwardPart {
  int64_t unit, part;
};

/// A function of the shapes, so that the order of every sum is too.
struct BackwardPlan {
  std::vector<BackwardUnit> units;
  std::vector<BackwardPart> parts;
  bool shared = false;  ///< some unit has several parts, whose buffers are added afterwards
};

BackwardPlan plan_backward(const FlashParams& params);

/// Gradients of the keys and values of one unit: for each of its key heads [num_keys][padded D], then its value heads.
struct KeyGradients {
  float* data = nullptr;
  int64_t keys = 0, d_padded = 0, dv_padded = 0, key_heads = 0, value_heads = 0;

  KeyGradients(const FlashTask& task, const BackwardUnit& unit, float* data);
  int64_t floats() const { return keys * (key_heads * d_padded + value_heads * dv_padded); }
  float* key_rows(int64_t place) const { return data + place * keys * d_padded; }
  float* value_rows(int64_t place) const { return data + keys * (key_heads * d_padded + place * dv_padded); }
};

}  // namespace heed::kernels
