// How parameters start.
#pragma once

#include <torch/torch.h>

namespace heed::nn {

/// The deviation with which projections and tables start: 1 / sqrt(3 inputs), which is that of PyTorch's linear layers
/// and, at GPT-2's width of 768, GPT-2's 0.02, so that models of any width start alike.
double start_deviation(int64_t inputs);

/// A linear layer [in] -> [out] whose weights have `start_deviation(in)` and whose bias is 0.
torch::nn::Linear started_linear(int64_t in, int64_t out, bool bias = true);

/// Normal numbers [..., dim] with `start_deviation(dim)`: rows of embeddings, positions, queries that are learned.
torch::Tensor started_rows(at::IntArrayRef sizes);

/// Multiplies the weights of a mixer's projections to the residual stream, which are named o_proj, by `factor`.
void scale_outputs(const torch::nn::Module& mixer, double factor);

}  // namespace heed::nn
