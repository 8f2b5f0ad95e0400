// Which parameters a training pulls towards 0.
#pragma once

#include <torch/torch.h>

#include <string>
#include <vector>

namespace heed::train {

/// Matrices, but for those that say how fast a state fades, turns or steps, under whatever number of dimensions: a_log,
/// log_decay, frequency, log_step, step_bias, skip as the last part of `name` (arXiv 2312.00752). 0 is no neutral value
/// of them.
bool takes_weight_decay(const std::string& name, const torch::Tensor& parameter);

/// Two groups under `options`: those that take its weight decay, and the others without.
std::vector<torch::optim::OptimizerParamGroup> weight_decay_groups(
    const torch::OrderedDict<std::string, torch::Tensor>& named, const torch::optim::AdamWOptions& options);

}  // namespace heed::train
