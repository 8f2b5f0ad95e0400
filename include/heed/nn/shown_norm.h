// Norms over cells of an image some of which are padding: statistics are of what is shown.
#pragma once

#include <torch/torch.h>

namespace heed::nn {

/// A batch norm of the channels of x [..., C]. `hidden` bool [...], or undefined: rows that are not counted, and 0 in
/// what comes back.
torch::Tensor norm_of_shown(torch::nn::BatchNorm1d& norm, const torch::Tensor& x, const torch::Tensor& hidden);
/// A group norm of x [B, C, n]. `hidden` bool [B, n], or undefined: likewise.
torch::Tensor norm_of_shown(torch::nn::GroupNorm& norm, const torch::Tensor& x, const torch::Tensor& hidden);

}  // namespace heed::nn
