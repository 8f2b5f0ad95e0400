#include "heed/nn/start.h"

#include <cmath>

namespace heed::nn {

double start_deviation(int64_t inputs) { return 1 / std::sqrt(3 * static_cast<double>(inputs)); }

torch::nn::Linear started_linear(int64_t in, int64_t out, bool bias) {
  torch::nn::Linear linear(torch::nn::LinearOptions(in, out).bias(bias));
  torch::NoGradGuard no_grad;
  linear->weight.normal_(0, start_deviation(in));
  if (bias) linear->bias.zero_();
  return linear;
}

torch::Tensor started_rows(at::IntArrayRef sizes) { return torch::randn(sizes) * start_deviation(sizes.back()); }

void scale_outputs(const torch::nn::Module& mixer, double factor) {
  torch::NoGradGuard no_grad;
  for (auto& parameter : mixer.named_parameters())
    if (parameter.key().ends_with("o_proj.weight")) parameter.value().mul_(factor);
}

}  // namespace heed::nn
