#include "train/scheduled_adamw.h"

#include <cmath>

#include "heed/error.h"
#include "heed/train/lm_trainer.h"

namespace heed::train {

ScheduledAdamW::ScheduledAdamW(std::string owner, const std::vector<torch::Tensor>& parameters, int64_t steps,
                               double learning_rate, double weight_decay)
    : owner_(std::move(owner)),
      parameters_(parameters),
      adamw_(parameters, torch::optim::AdamWOptions(learning_rate).weight_decay(weight_decay)),
      steps_(steps),
      learning_rate_(learning_rate) {
  require(steps >= 1, "{}: {} steps: 1 or more is accepted", owner_, steps);
}

double ScheduledAdamW::step(const torch::Tensor& loss) {
  const double value = loss.item<double>();
  require(std::isfinite(value), "{}: step {}: the loss is {}; a smaller learning rate than {} may help", owner_, done_,
          value, learning_rate_);
  LmTrainOptions schedule;
  schedule.steps = steps_;
  schedule.learning_rate = learning_rate_;
  schedule.warmup = steps_ / 10;
  adamw_.zero_grad();
  loss.backward();
  torch::nn::utils::clip_grad_norm_(parameters_, 1.0);
  static_cast<torch::optim::AdamWOptions&>(adamw_.param_groups()[0].options()).lr(scheduled_rate(schedule, done_));
  adamw_.step();
  if (++done_ > steps_ - std::max<int64_t>(1, steps_ / 10)) sum_ += value, ++averaged_;
  return value;
}

}  // namespace heed::train
