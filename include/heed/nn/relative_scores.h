// Score terms of distance, made for all distances at once and shifted into place (Transformer-XL, arXiv 1901.02860).
#pragma once

#include <torch/torch.h>

namespace heed::nn {

/// x [..., r, w], whose column c of row t belongs to the key at distance t + w - r - c, -> [..., r, w - r + 1]: column
/// j is key j, and out[t, j] = x[t, r - 1 - t + j]. A view where x is contiguous. Throws heed::Error for w < r.
torch::Tensor relative_shift(const torch::Tensor& x);

}  // namespace heed::nn
