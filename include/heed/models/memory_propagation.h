// Colours travel through a video: from the first frame, over a memory of past frames and attention to the last one
// remembered (ColorMNet, arXiv 2404.06251).
#pragma once

#include <torch/torch.h>

#include "heed/models/propagation_memory.h"

namespace heed {

struct MemoryPropagationConfig {
  int64_t height = 16, width = 16;  ///< pixels, multiples of 4
  int64_t channels = 32;            ///< of features and values
  int64_t key = 16;                 ///< channels of keys
  int64_t every = 5;                ///< every so many frames one is remembered
  int64_t window = 15;              ///< cells a side that local attention sees, or all of a smaller grid
  bool memory = true, local = true, recurrent = true;  ///< what the colours of a frame are made from
  PropagationMemoryConfig cells;
};

/// Attention of a frame's cells to another frame's, at most half of `window` rows and columns away and none outside of
/// the frame: logits q k / sqrt(C) and a learned map of the query to every offset; then a depthwise convolution and a
/// linear map.
class LocalPropagationImpl : public torch::nn::Module {
 public:
  LocalPropagationImpl(int64_t key, int64_t channels, int64_t height, int64_t width, int64_t window);
  /// q [B, cells, key], k [B, cells, key], v [B, cells, channels] -> [B, cells, channels]; cells row by row.
  torch::Tensor forward(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v);
  /// What attention alone gives.
  torch::Tensor attend(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v);

  torch::nn::Linear offsets{nullptr};  ///< query -> a logit for each offset

 private:
  std::vector<int64_t> grid_, window_;
  torch::Tensor where_, beyond_;  // of every cell and key of its window: the offset, and whether it is too far
  torch::nn::Conv2d mix_{nullptr};
  torch::nn::Linear out_{nullptr};
};
TORCH_MODULE(LocalPropagation);

class MemoryPropagationImpl : public torch::nn::Module {
 public:
  explicit MemoryPropagationImpl(MemoryPropagationConfig config);

  /// What a video has left so far.
  struct State {
    PropagationMemory memory;
    torch::Tensor hidden;          ///< recurrent state [B, channels, h, w]
    torch::Tensor last_k, last_v;  ///< of the frame remembered last
    int64_t frames = 0;
  };
  State start() const;

  /// The first frame: its lightness [B, 1, H, W] and colours [B, 2, H, W].
  void show(const torch::Tensor& lightness, const torch::Tensor& colours, State& state);
  /// The colours [B, 2, H, W] of the next frame, between -1 and 1. Throws heed::Error before a first frame was shown.
  torch::Tensor step(const torch::Tensor& lightness, State& state);
  /// A whole video: lightness [B, T, 1, H, W], the first frame's colours [B, 2, H, W] -> those of the others, [B, T -
  /// 1, 2, H, W].
  torch::Tensor forward(const torch::Tensor& lightness, const torch::Tensor& first);

  const MemoryPropagationConfig& config() const { return config_; }

 private:
  struct Looked {
    torch::Tensor features, k, s, e;
  };
  Looked look(const torch::Tensor& lightness);
  void remember(const Looked& looked, const torch::Tensor& colours, State& state);

  MemoryPropagationConfig config_;
  torch::nn::Sequential encoder_;
  torch::nn::Conv2d key_{nullptr}, shrinkage_{nullptr}, selection_{nullptr}, value_{nullptr}, gates_{nullptr},
      candidate_{nullptr}, decoder_{nullptr};
  LocalPropagation local_{nullptr};
};
TORCH_MODULE(MemoryPropagation);

}  // namespace heed
