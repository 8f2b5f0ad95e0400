// One call of slot_scores, resolved, and the entries behind the dispatch.
#pragma once

#include "kernels/cpu/decode_call.h"
#include "kernels/slot_scores_problem.h"

namespace heed::kernels {

/// Slots an item treats: large enough for its queries to be packed once for much work, small enough for many threads.
inline constexpr int64_t kItemSlots = 1024;

/// Largest score of a query row in the slots of a step, and the sum of exponentials against it.
struct RowMass {
  float top, sum;
};

struct SlotScoresCall {
  explicit SlotScoresCall(const SlotScoresParams& params)
      : p(params),
        problem(decode_problem(params)),
        decode(problem),
        all_heads(p.heads != HeadReduction::none && p.scores.size[1] != decode.kv_heads),
        heads_per_item(all_heads ? decode.kv_heads : 1),
        chunks((p.scores.size[3] + kItemSlots - 1) / kItemSlots),
        steps((p.scores.size[3] + kStepSlots - 1) / kStepSlots),
        weight_stride((p.scores.size[3] + 15) / 16 * 16) {
    if (!p.softmax) return;
    const int64_t rows = decode.batch * decode.heads * decode.rows;
    block = allocate((rows * weight_stride) * static_cast<int64_t>(sizeof(float)) +
                     rows * steps * static_cast<int64_t>(sizeof(RowMass)));
    weights = static_cast<float*>(block.get());
    masses = reinterpret_cast<RowMass*>(weights + rows * weight_stride);
  }
  int64_t items() const { return decode.batch * (decode.kv_heads / heads_per_item) * chunks; }
  /// Row r of the query rows of a (sequence, KV head) among all.
  int64_t row_index(int64_t b, int64_t h, int64_t r) const { return (b * decode.kv_heads + h) * decode.query_rows + r; }

  const SlotScoresParams& p;
  const DecodeParams problem;
  const DecodeCall decode;
  const bool all_heads;  ///< one score for all KV heads: an item goes through them all
  const int64_t heads_per_item, chunks, steps, weight_stride;
  /// With softmax: exponentials of all candidates against their step's maximum, [row][weight_stride], and [row][steps]
  /// of their mass.
  float* weights = nullptr;
  RowMass* masses = nullptr;
  Block block;
};

/// Item `index` of call.items(). First pass: products, which with softmax become call.weights; else scores are written.
/// Second pass, with softmax: weights are written.
void run_scores_item(const SlotScoresCall& call, int64_t index, bool second_pass, void* scratch);
int64_t scores_scratch_bytes(const SlotScoresCall& call);

}  // namespace heed::kernels
