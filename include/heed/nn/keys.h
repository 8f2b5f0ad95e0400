// Small moves of keys that many mechanisms make.
#pragma once

#include "heed/attention.h"

namespace heed::nn {

/// Keys where `hidden` bool [B, M] is true are seen by none of the `queries`.
inline void hide_keys(AttentionOptions& options, const torch::Tensor& hidden, int64_t queries) {
  options.k_documents = hidden.to(torch::kInt32).neg();
  options.q_documents = torch::zeros({hidden.size(0), queries}, torch::kInt32);
}

/// Rows of x [B, H, M, D] by index int64 [B, H, n]: [B, H, n, D].
inline torch::Tensor gather_rows(const torch::Tensor& x, const torch::Tensor& index) {
  return x.gather(2, index.unsqueeze(3).expand({x.size(0), x.size(1), index.size(2), x.size(3)}));
}

}  // namespace heed::nn
