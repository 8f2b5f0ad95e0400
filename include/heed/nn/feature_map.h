// Feature maps of linear attention: phi with phi(q) . phi(k) in the place of exp(q . k).
#pragma once

#include <torch/torch.h>

#include <string>
#include <vector>

namespace heed::nn {

/// Elementwise maps, and softmax over the features.
enum class FeatureMap { identity, relu, elu, elu_plus_one, silu, sigmoid, exp, softmax, leaky_relu };

/// Names as a configuration has them: identity, relu, elu, elu_plus_one, silu, sigmoid, exp, softmax, leaky_relu (x /
/// 100 below 0).
const std::vector<std::string>& feature_map_names();
FeatureMap feature_map(const std::string& name);
/// Whether no feature is negative, as a denominator asks for.
bool is_positive(FeatureMap map);

torch::Tensor apply(FeatureMap map, const torch::Tensor& x);

/// [1, x / d^{1/4}, x_a x_b / sqrt(2 d)] with x [..., d], so that phi(q) . phi(k) = 1 + s + s^2 / 2 for
/// s = q . k / sqrt(d) (arXiv 2402.18668). Products a < b stand once, times sqrt(2): 1 + d + d (d + 1) / 2 features.
torch::Tensor taylor_features(const torch::Tensor& x);

}  // namespace heed::nn
