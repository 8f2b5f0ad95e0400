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

/// Blocks first, first + step, ... before last of a unit, summed into a buffer of their own for the keys [key_begin,
/// key_end), beyond which they reach none.
struct BackwardPart {
  int64_t unit, first, last, step, key_begin, key_end;
};

/// A function of the shapes, so that the order of every sum is too.
struct BackwardPlan {
  std::vector<BackwardUnit> units;
  std::vector<BackwardPart> parts;
  bool shared = false;  ///< some unit has several parts, whose buffers are added afterwards
};

BackwardPlan plan_backward(const FlashTask& task);

/// Gradients of the keys and values of a part: for each key head of its unit [keys][padded D], then its value heads.
struct KeyGradients {
  float* data = nullptr;
  int64_t begin = 0, keys = 0, d_padded = 0, dv_padded = 0, key_heads = 0, value_heads = 0;

  KeyGradients(const FlashTask& task, const BackwardUnit& unit, const BackwardPart& part, float* data);
  int64_t floats() const { return keys * (key_heads * d_padded + value_heads * dv_padded); }
  /// Where the row of key 0 is or would be; only those of the part's keys exist.
  float* key_rows(int64_t place) const { return data + (place * keys - begin) * d_padded; }
  float* value_rows(int64_t place) const {
    return data + keys * key_heads * d_padded + (place * keys - begin) * dv_padded;
  }
};

}  // namespace heed::kernels
