// Functions of one score, of which learned operators on scores are sums (kolmogorov_arnold_attention).
#pragma once

#include <torch/torch.h>

#include <string>

namespace heed::vision {

struct ScoreBasis {
  /// fourier: cos(m s) and sin(m s), m = 1..size. spline: silu(s) and the cubic B-splines over `size` equal intervals
  /// of
  /// [-range, range] (KAN, arXiv 2404.19756). wavelet: `size` Mexican hats, whose centres and widths are learned,
  /// evenly spread over [-range, range] at first (Wav-KAN, arXiv 2405.12832). rational: s^m / (1 + |b_1 s + ... + b_n
  /// s^n|), m = 0..size, n = max(1, size - 1), b learned (KAT, arXiv 2409.10594; safe Pade units, arXiv 1907.06732).
  std::string kind = "fourier";
  int64_t size = 3;
  double range = 3;

  bool operator==(const ScoreBasis&) const = default;

  /// Functions of a score.
  int64_t count() const;
  /// What they learn, as it begins: [heads, numbers]; undefined for nothing.
  torch::Tensor first_shape(int64_t heads) const;
  /// scores [B, heads, N, M], shape [heads, numbers] -> [B, heads, N, M, count].
  torch::Tensor values(const torch::Tensor& scores, const torch::Tensor& shape) const;
};

}  // namespace heed::vision
