#include "train/scheduled_adamw.h"

#include <cmath>

#include "heed/error.h"
#include "heed/train/lm_trainer.h"
#include "train/weight_decay.h"

namespace heed::train {

namespace {

torch::optim::AdamWOptions adamw_options(double learning_rate, double weight_decay) {
  return torch::optim::AdamWOptions(learning_rate).weight_decay(weight_decay);
}

}  // namespace

ScheduledAdamW::ScheduledAdamW(std::string owner, const std::vector<torch::Tensor>& parameters, int64_t steps,
                               double learning_rate, double weight_decay)
    : ScheduledAdamW(std::move(owner), parameters,
                     {torch::optim::OptimizerParamGroup(parameters, std::make_unique<torch::optim::AdamWOptions>(
                                                                        adamw_options(learning_rate, weight_decay)))},
                     steps, learning_rate) {}

ScheduledAdamW::ScheduledAdamW(std::string owner, const torch::OrderedDict<std::string, torch::Tensor>& parameters,
                               int64_t steps, double learning_rate, double weight_decay)
    : ScheduledAdamW(std::move(owner), parameters.values(),
                     weight_decay_groups(parameters, adamw_options(learning_rate, weight_decay)), steps,
                     learning_rate) {}

ScheduledAdamW::ScheduledAdamW(std::string owner, const std::vector<torch::Tensor>& parameters,
                               const std::vector<torch::optim::OptimizerParamGroup>& groups, int64_t steps,
                               double learning_rate)
    : owner_(std::move(owner)),
      parameters_(parameters),
      adamw_(groups, torch::optim::AdamWOptions(learning_rate)),
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
  for (auto& group : adamw_.param_groups())
    static_cast<torch::optim::AdamWOptions&>(group.options()).lr(scheduled_rate(schedule, done_));
  adamw_.step();
  if (++done_ > steps_ - std::max<int64_t>(1, steps_ / 10)) sum_ += value, ++averaged_;
  return value;
}

}  // namespace heed::train
