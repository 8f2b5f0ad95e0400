// Random features whose products estimate exp(q . k).
#pragma once

#include <torch/torch.h>

namespace heed::nn {

/// [count, dim]: rows orthogonal within every `dim` of them, with the norms of Gaussian rows (arXiv 2009.14794).
/// The same `seed` draws the same rows.
torch::Tensor orthogonal_rows(int64_t count, int64_t dim, uint64_t seed);

/// w . x - |x|^2 / 2 of x [..., dim] and rows w [count, dim]: logarithms of the positive features, times sqrt(count).
torch::Tensor positive_feature_logits(const torch::Tensor& x, const torch::Tensor& rows);

}  // namespace heed::nn
