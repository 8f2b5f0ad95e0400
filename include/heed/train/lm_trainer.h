// Next-token training: AdamW, warm-up and cosine schedule, gradient clipping, checkpoints that survive a kill at any
// moment.
#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <functional>
#include <memory>

#include "heed/models/decoder_lm.h"

namespace heed::train {

struct LmBatch {
  torch::Tensor tokens;   ///< int64 [B, T + 1]: inputs are the first T, targets the last T
  torch::Tensor weights;  ///< float [B, T]: weight of each target in the loss
};

/// Batch `step` of training. Must be a pure function of `step`, so that a resumed run sees what the killed one would
/// have.
using BatchSource = std::function<LmBatch(int64_t step)>;

/// Scalar loss of a batch; `seed` of dropout.
using LossFunction = std::function<torch::Tensor(DecoderLm& model, const LmBatch& batch, uint64_t seed)>;

struct LmTrainOptions {
  std::filesystem::path out;    ///< folder of the checkpoint and of the training state; empty: none is written
  int64_t steps = 1000;         ///< of this schedule, counted from its begin
  double learning_rate = 1e-3;  ///< peak
  double final_rate = 0.1;      ///< share of the peak at the end of the cosine
  int64_t warmup = 100;         ///< steps of linear warm-up
  double weight_decay = 0.1;    ///< on matrices; vectors have none, nor do rates of state spaces
  double clip = 1.0;            ///< of the gradient's norm; 0: none
  int64_t save_every = 200;
  int64_t eval_every = 200;
  uint64_t seed = 0;      ///< of dropout
  bool bfloat16 = false;  ///< matrix products in bfloat16; weights, norms and the loss stay float32
  bool resume = false;    ///< go on from the training state in `out`
  LossFunction loss;      ///< default: lm_loss
  /// Share of the steps, the last ones, in which layers that draw their keys see all (heed/mixers/subsampling.h).
  double dense_end = 0.1;
};

struct LmEvaluation {
  int64_t step = 0;
  double loss = 0;  ///< mean training loss since the last evaluation, nats
  double tokens_per_second = 0;
};

/// Learning rate of `step`.
double scheduled_rate(const LmTrainOptions& options, int64_t step);

/// The first of `steps` steps in which layers that draw their keys see all, for a share `dense_end` of them.
int64_t first_dense_step(int64_t steps, double dense_end);

/// Weighted mean cross-entropy in nats.
torch::Tensor lm_loss(DecoderLm& model, const LmBatch& batch, uint64_t seed = 0);

/// Trains `model` in place. Where there is a folder `out`: every `save_every` steps and at the end, writes
/// `training.safetensors` (weights in float32, both moments, the step; one file, written beside and renamed, so that a
/// kill leaves the old or the new one) and calls `save` to export the checkpoint. Returns the last training loss.
double train_lm(DecoderLm& model, const BatchSource& batches, const LmTrainOptions& options,
                const std::function<void(DecoderLm&)>& save,
                const std::function<void(const LmEvaluation&)>& report = {});

}  // namespace heed::train
