// Locality-sensitive hashing by signs and arg-maxima of random products: vectors of near directions get near numbers.
#pragma once

#include <torch/torch.h>

namespace heed::nn {

/// Cross-polytope hashing (arXiv 1509.02897): the number of the largest of [x R; -x R]. x [B, H, N, D], rotations
/// [rounds, D, buckets / 2] -> int64 [B, H, rounds, N].
torch::Tensor polytope_buckets(const torch::Tensor& x, const torch::Tensor& rotations);

/// Signs of products as bits, the first direction the highest, and the place of that code in the Gray sequence, whose
/// neighbours differ in one bit. x [B, H, N, D], directions [D, bits] -> int64 [B, H, N] in [0, 2^bits).
torch::Tensor gray_places(const torch::Tensor& x, const torch::Tensor& directions);

/// Normal numbers of a seed.
torch::Tensor seeded_normal(at::IntArrayRef sizes, uint64_t seed);

}  // namespace heed::nn
