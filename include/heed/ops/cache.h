// Kernels over a cache, on torch tensors: attention of a few queries, and the scores by which slots are selected.
// Nothing here is differentiable.
#pragma once

#include <torch/torch.h>

#include <optional>

#include "heed/kernels/decode.h"
#include "heed/kernels/page_scores.h"
#include "heed/kernels/select.h"

namespace heed::ops {

/// How codes in place of keys or values are read.
struct CodeTensors {
  int bits = 0;  ///< 0: there are none; 8, 4 or 2
  torch::Tensor scale,
      zero;  ///< of 8 bits float [slots, 1] and none; else as in kernels::PackedCodes, which they become
  int64_t slot_group = 1, channel_group = 1;
  torch::Tensor exact_of;  ///< int32 [groups], or undefined
  torch::Tensor exact;     ///< [E, slots of a group, D]
};

/// A cache as kernels read it: whole rows, or pages through a table; a page size of 1 gathers single slots.
struct CacheTensors {
  torch::Tensor k, v;                  ///< [B, Hkv, slots, D|Dv]; with a table [pages, page_size, 1, D|Dv]
  CodeTensors k_codes, v_codes;        ///< of pages only: k and v are then bytes
  std::optional<torch::Tensor> table;  ///< int32 [B, Hkv, entries]
  int64_t page_size = 0;
  torch::Tensor lengths;  ///< int64 [B, Hkv]: slots in use

  int64_t kv_heads() const { return lengths.size(1); }
  CacheTensors sequence(int64_t b) const;  ///< of this sequence alone, a view
};

/// Rotation of keys when they are read; kernels::ReadRotation.
struct KeyRotation {
  torch::Tensor inverse_frequencies;  ///< float [rotated / 2]
  bool interleaved = false;
  torch::Tensor positions;  ///< int64 [B, Hkv, slots] or undefined: slot s stands at s
};

struct DecodeOptions {
  double scale = 0, softcap = 0;
  kernels::Mask mask = kernels::Causal{};
  std::optional<KeyRotation> rotation;
  torch::Tensor synthetic_k, synthetic_v;  ///< float [1|B, 1|Hkv, S, D|Dv]: slots tied to no token
  torch::Tensor synthetic_bias;            ///< float [1|B, 1|Hq, 1, S]
  bool column_sum = false;                 ///< asks for the weights of the slots
  bool arg_max = false;                    ///< asks for the slot of the largest weight
};

struct DecodeResult {
  torch::Tensor out;         ///< [B, Hq, N, Dv], dtype of q
  torch::Tensor lse;         ///< float [B, Hq, N, 1]
  torch::Tensor column_sum;  ///< float [B, Hq, slots], over the N rows
  torch::Tensor arg_max;     ///< int64 [B, Hq, N]
  int64_t slots_read = 0;    ///< key rows visited
};

/// q [B, Hq, N, D] against the cache. Throws heed::Error for what does not fit.
DecodeResult decode(const torch::Tensor& q, const CacheTensors& cache, const DecodeOptions& options = {});

struct SlotScoreOptions {
  double scale = 0;  ///< 0: 1 / sqrt(D)
  std::optional<KeyRotation> rotation;
  int64_t begin = 0, exclude_last = 0;  ///< slots at both ends that are no candidates
  bool softmax = false;
  kernels::HeadReduction heads = kernels::HeadReduction::none;
  bool all_heads = false;  ///< the reduction runs over all query heads, not over those of a group
};

/// Scores of q [B, Hq, N, D] against the slots: float [B, H, N, slots], H being Hq, Hkv or 1 by the reduction.
torch::Tensor slot_scores(const torch::Tensor& q, const CacheTensors& cache, const SlotScoreOptions& options = {});

/// Indices of the k largest of each row of scores [B, H, R, S] whose lengths are int64 [B, H] (undefined: S): int32
/// [B, H, R, min(S, max(k, first + last))], ascending, -1 behind the last. The `first` and `last` of a row are always
/// among them.
torch::Tensor top_k(const torch::Tensor& scores, int64_t k, int64_t first = 0, int64_t last = 0,
                    const torch::Tensor& lengths = {});

/// Indices of the fewest largest entries of each row of weights [B, H, R, S] that hold `mass` of its sum, `first` and
/// `last` entries always among them, at least `least` in all: int32 [B, H, R, S], ascending, -1 behind the last.
torch::Tensor top_p(const torch::Tensor& weights, double mass, int64_t first = 0, int64_t last = 0, int64_t least = 0);

/// Pooling of stride 1 along the rows of scores [B, H, R, S]; width odd.
torch::Tensor pool(const torch::Tensor& scores, int64_t width, kernels::PoolParams::Kind kind,
                   const torch::Tensor& lengths = {});

/// Channel-wise maxima, then minima, of the keys of each page: extremes [B, Hkv, P, 2 D] in the dtype of the keys, P at
/// least the pages there are. Pages below the slots `summarized` (int64 [B, Hkv]) are left as they are.
void summarize_keys(const CacheTensors& cache, const torch::Tensor& summarized, int64_t page_slots,
                    torch::Tensor& extremes);

/// Channel-wise means, likewise: float [B, Hkv, P, D].
void average_keys(const CacheTensors& cache, const torch::Tensor& summarized, int64_t page_slots, torch::Tensor& means);

/// Upper bounds of the scores of q [B, Hq, N, D] in each page, float [B, H, N, P]; -inf beyond the pages of `lengths`.
torch::Tensor page_bounds(const torch::Tensor& q, const torch::Tensor& extremes, const torch::Tensor& lengths,
                          int64_t page_slots, double scale, kernels::HeadReduction heads);

}  // namespace heed::ops
