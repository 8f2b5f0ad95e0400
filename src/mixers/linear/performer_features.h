// The random features of FAVOR+ (arXiv 2009.14794), as mixers use them.
#pragma once

#include <torch/torch.h>

#include <string>

namespace heed::linear {

/// phi of q or k [B, H, N, d] with rows [m, d] of nn::orthogonal_rows: "softmax" (phi(q) . phi(k) estimates exp(q . k /
/// sqrt(d)), up to a factor of a query's own), "hyperbolic" (the same from rows and their negatives), "relu". Positive.
torch::Tensor performer_features(const torch::Tensor& x, const torch::Tensor& rows, const std::string& kind,
                                 bool queries);

}  // namespace heed::linear
