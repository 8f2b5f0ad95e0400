// Mixers whose queries see keys of their own choice: blocks of queries with the keys that some of them sees.
#pragma once

#include "heed/nn/core_report.h"
#include "heed/ops/panel_attention.h"

namespace heed::sparse {

/// Attention of q [B, Hq, N, D] to the keys k, v [B, Hk, M, D] of its panels. Of `options` scale, softcap, bias and
/// dropout count; the last two take a slower way. `report` gets pairs, and lse where it is that of plain products.
torch::Tensor attend_panels(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                            const ops::KeyPanels& panels, const AttentionOptions& options, nn::CoreReport* report);

/// Panels of keys that stay seen from their own place on until they are dropped: `dropped` int64 [B, H, M], the first
/// place whose query sees the key no more. The `queries` are at the last of the M places.
ops::KeyPanels panels_until_dropped(const torch::Tensor& dropped, int64_t queries);

/// Panels of `queries` that all see the same keys: `seen` bool [B, H, M].
ops::KeyPanels panels_of_all(const torch::Tensor& seen, int64_t queries);

}  // namespace heed::sparse
