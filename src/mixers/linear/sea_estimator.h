// The linear-cost network of SEA (arXiv 2310.01777) that foretells where attention lies.
#pragma once

#include "heed/mixers/recurrent_mixer.h"
#include "mixers/linear/heads_config.h"
#include "mixers/linear/sea_columns.h"

namespace heed::linear {

struct SeaEstimatorConfig {
  int64_t heads = 4, head_dim = 16;
  int64_t columns = 128;      ///< K of a compressed map
  int64_t features = 0;       ///< random features; 0: head_dim ln head_dim
  int64_t max_length = 2048;  ///< causal: rows of the learned table of positions
  bool causal = true;
  uint64_t seed = 0;
};

class SeaEstimatorImpl : public torch::nn::Module {
 public:
  explicit SeaEstimatorImpl(const SeaEstimatorConfig& config);

  struct Estimate {
    torch::Tensor map;    ///< [B, H, N, K], rows sum to 1
    torch::Tensor gates;  ///< [B, H, N, 2], in (0, 1)
  };
  /// Slots first_slot to first_slot + 2 of the call are its memory. `ranks` int64 [B, N] and `shown` bool [B, N] of the
  /// call's tokens.
  Estimate forward(RecurrentCall& call, size_t first_slot, const Heads& heads, const torch::Tensor& ranks,
                   const torch::Tensor& shown);

 private:
  torch::Tensor places(RecurrentCall& call, const torch::Tensor& ranks, const torch::Tensor& shown) const;
  torch::Tensor causal_maps(RecurrentCall& call, size_t first_slot, torch::Tensor image, const torch::Tensor& shown);
  torch::Tensor whole_maps(torch::Tensor image, const torch::Tensor& shown);

  SeaEstimatorConfig config_;
  int64_t reduced_, planes_;  // columns / r, s
  torch::Tensor rows_, places_;
  torch::nn::Linear in_{nullptr}, out_{nullptr}, gates_{nullptr};
  torch::nn::LayerNorm norm_{nullptr}, image_norm_{nullptr}, map_norm_{nullptr};
  torch::nn::Conv2d conv1_{nullptr}, conv2_{nullptr}, conv3_{nullptr};
};
TORCH_MODULE(SeaEstimator);

}  // namespace heed::linear
