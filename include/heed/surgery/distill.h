// Repairing a converted model by what its original says.
#pragma once

#include <vector>

#include "heed/train/lm_trainer.h"

namespace heed::surgery {

/// Weights of the terms of the loss.
struct DistillWeights {
  double labels = 1;  ///< cross-entropy to the teacher's likeliest tokens
  double kl = 1;      ///< KL(teacher || student) of the next token, temperature 1
  double hidden = 1;  ///< mean squared difference of the residual stream behind the layers `matched`
};

/// Differentiable in the student; the teacher gets no gradient. `matched`: layers that both models have. Targets of
/// weight 0 in the batch do not count in the first two terms.
torch::Tensor distill_loss(DecoderLm& teacher, DecoderLm& student, const train::LmBatch& batch,
                           const std::vector<int64_t>& matched, const DistillWeights& weights = {}, uint64_t seed = 0);

}  // namespace heed::surgery
