// One step of training as the small models here take it: AdamW, warm-up and cosine, a clipped gradient.
#pragma once

#include <torch/torch.h>

#include <string>
#include <vector>

namespace heed::train {

class ScheduledAdamW {
 public:
  /// Up over a tenth of the steps, then down a cosine to a tenth of `learning_rate`. `owner` begins messages.
  ScheduledAdamW(std::string owner, const std::vector<torch::Tensor>& parameters, int64_t steps, double learning_rate,
                 double weight_decay);
  /// With weight decay on those that take it (train/weight_decay.h) alone.
  ScheduledAdamW(std::string owner, const torch::OrderedDict<std::string, torch::Tensor>& parameters, int64_t steps,
                 double learning_rate, double weight_decay);

  /// Goes down the gradient of `loss` and returns its value; throws heed::Error where it is not finite.
  double step(const torch::Tensor& loss);
  int64_t steps_done() const { return done_; }
  /// Mean loss of the last tenth of the steps, of those done.
  double last_loss() const { return averaged_ > 0 ? sum_ / static_cast<double>(averaged_) : 0; }

 private:
  ScheduledAdamW(std::string owner, const std::vector<torch::Tensor>& parameters,
                 const std::vector<torch::optim::OptimizerParamGroup>& groups, int64_t steps, double learning_rate);

  std::string owner_;
  std::vector<torch::Tensor> parameters_;
  torch::optim::AdamW adamw_;
  int64_t steps_, done_ = 0, averaged_ = 0;
  double learning_rate_, sum_ = 0;
};

}  // namespace heed::train
