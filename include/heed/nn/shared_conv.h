// A linear map of tokens as a convolution: a token is a square map, and all tokens share the kernels (ConvShareViT,
// arXiv 2504.11517).
#pragma once

#include <torch/torch.h>

namespace heed::nn {

struct SharedConvOptions {
  int64_t side = 8, kernel = 8;  ///< of a token's map and of the kernels; kernel = side is a linear map
  int64_t kernels = 64;
  int64_t cells = 0;     ///< of a map that the kernels cover as a whole: zeros lie behind so many cells; 0: side^2
  bool same = false;     ///< maps keep their side (odd kernels); else kernels stay inside
  bool optical = false;  ///< through the Fourier plane, as a 4f correlator computes it

  /// Of what a kernel makes of a map.
  int64_t out_side() const { return same ? side : side - kernel + 1; }
};

class SharedConvImpl : public torch::nn::Module {
 public:
  explicit SharedConvImpl(const SharedConvOptions& options);
  /// x [..., cells] -> [..., kernels out_side^2], correlation with each kernel plus its bias.
  torch::Tensor forward(const torch::Tensor& x);

  torch::Tensor weight, bias;  ///< [kernels, 1, kernel, kernel] or [kernels, cells], [kernels]

 private:
  SharedConvOptions options_;
};
TORCH_MODULE(SharedConv);

/// Of the smallest square map that holds `cells`.
int64_t side_of_map(int64_t cells);

}  // namespace heed::nn
