#include "heed/models/self_ensemble.h"

#include <cmath>

#include "heed/error.h"
#include "heed/mixers/subsampling.h"

namespace heed {

torch::Tensor ensemble_log_probabilities(DecoderLm& model, const torch::Tensor& tokens, int64_t draws, uint64_t seed) {
  require(draws >= 1, "self-ensemble: {} draws: 1 or more is accepted", draws);
  torch::NoGradGuard no_grad;
  const SubsamplingScope drawn(*model, Subsampling::When::always);
  require(drawn.layers() > 0, "self-ensemble: no layer is stochastic_subsampled_attention");
  const bool training = model->is_training();
  model->eval();
  torch::Tensor sum;
  for (int64_t draw = 0; draw < draws; ++draw) {
    // Far from the seeds of training steps, which count up from theirs.
    const auto logits = model->forward(tokens, nullptr, seed + (uint64_t(draw) << 40));
    const auto log_p = torch::log_softmax(logits.to(torch::kFloat32), -1);
    sum = sum.defined() ? torch::logaddexp(sum, log_p) : log_p;
  }
  model->train(training);
  return sum - std::log(double(draws));
}

}  // namespace heed
