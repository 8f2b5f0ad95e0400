// Experience that is trained on over and over, evenly.
#pragma once

#include <torch/torch.h>

#include "heed/models/world_model.h"

namespace heed::train {

/// Steps in the order they happened, and how often each was trained on. Draws favour what was trained on least
/// (dynamic frequency-based sampling, arXiv 2410.08893).
class Replay {
 public:
  /// Throws heed::Error for sizes below 1.
  Replay(int64_t observation, int64_t capacity);

  /// Throws heed::Error when it is full. `start`: the episode begins here; `end`: it ended with the action.
  void add(const std::vector<float>& observation, int64_t action, float reward, bool start, bool end);
  int64_t size() const { return size_; }

  /// `batch` windows of `length` steps, whose first one is drawn by `model_weights`. What they hold counts as trained
  /// on once. Throws heed::Error where there are fewer steps.
  WorldBatch windows(int64_t batch, int64_t length, uint64_t seed);

  /// `batch` windows of `length` steps that end at one drawn by `imagination_weights`, which counts as imagined from
  /// 1 / `ratio` times more. What lies before the episode of the last one, or before all, is padding.
  struct Contexts {
    WorldBatch steps;
    torch::Tensor padding;  ///< bool [B, T]
  };
  Contexts contexts(int64_t batch, int64_t length, double ratio, uint64_t seed);

  /// softmax(-n / 10) of counts n of training, float64.
  static torch::Tensor model_weights(const torch::Tensor& trained);
  /// softmax(min(0, n - m) / 10) of counts n of training and m of imagination: what was imagined from more often than
  /// trained on is drawn less.
  static torch::Tensor imagination_weights(const torch::Tensor& trained, const torch::Tensor& imagined);

  const torch::Tensor& trained() const { return trained_; }    ///< float64 [capacity]
  const torch::Tensor& imagined() const { return imagined_; }  ///< float64 [capacity]

 private:
  WorldBatch gather(const torch::Tensor& rows) const;

  WorldBatch all_;
  int64_t capacity_, size_ = 0;
  torch::Tensor episode_, trained_, imagined_;
};

}  // namespace heed::train
