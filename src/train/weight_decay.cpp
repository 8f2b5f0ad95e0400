#include "train/weight_decay.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace heed::train {

bool takes_weight_decay(const std::string& name, const torch::Tensor& parameter) {
  constexpr std::array<std::string_view, 6> kStateSpace{"a_log",    "log_decay", "frequency",
                                                        "log_step", "step_bias", "skip"};
  const auto last = std::string_view(name).substr(name.rfind('.') + 1);  // of npos the whole
  return parameter.dim() >= 2 && std::find(kStateSpace.begin(), kStateSpace.end(), last) == kStateSpace.end();
}

std::vector<torch::optim::OptimizerParamGroup> weight_decay_groups(
    const torch::OrderedDict<std::string, torch::Tensor>& named, const torch::optim::AdamWOptions& options) {
  std::vector<torch::Tensor> decayed, others;
  for (const auto& entry : named)
    (takes_weight_decay(entry.key(), entry.value()) ? decayed : others).push_back(entry.value());
  auto plain = options;
  plain.weight_decay(0);
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(decayed, std::make_unique<torch::optim::AdamWOptions>(options));
  groups.emplace_back(others, std::make_unique<torch::optim::AdamWOptions>(plain));
  return groups;
}

}  // namespace heed::train
