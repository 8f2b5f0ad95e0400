#include "heed/nn/feature_map.h"

#include <cmath>

#include "heed/error.h"
#include "heed/names.h"

namespace heed::nn {

using torch::Tensor;

const std::vector<std::string>& feature_map_names() {
  static const std::vector<std::string> names{"identity", "relu", "elu",     "elu_plus_one", "silu",
                                              "sigmoid",  "exp",  "softmax", "leaky_relu"};
  return names;
}

FeatureMap feature_map(const std::string& name) {
  const auto& names = feature_map_names();
  const auto found = std::find(names.begin(), names.end(), name);
  require(found != names.end(), "unknown feature map {}: {}", name, suggest(name, names));
  return static_cast<FeatureMap>(found - names.begin());
}

bool is_positive(FeatureMap map) {
  return map != FeatureMap::identity && map != FeatureMap::elu && map != FeatureMap::silu &&
         map != FeatureMap::leaky_relu;
}

Tensor apply(FeatureMap map, const Tensor& x) {
  switch (map) {
    case FeatureMap::identity:
      return x;
    case FeatureMap::relu:
      return torch::relu(x);
    case FeatureMap::elu:
      return torch::elu(x);
    case FeatureMap::elu_plus_one:
      return torch::elu(x) + 1;
    case FeatureMap::silu:
      return torch::silu(x);
    case FeatureMap::sigmoid:
      return torch::sigmoid(x);
    case FeatureMap::leaky_relu:
      return torch::leaky_relu(x, 0.01);
    case FeatureMap::exp:
      return torch::exp(x);
    case FeatureMap::softmax:
      return torch::softmax(x, -1);
  }
  return x;
}

Tensor taylor_features(const Tensor& x) {
  const int64_t d = x.size(-1);
  const double root = std::sqrt(static_cast<double>(d));
  const auto pairs = torch::triu_indices(d, d, 0, torch::kInt64);
  const auto same = pairs[0] == pairs[1];
  const auto factors = torch::where(same, torch::full({}, 1 / (std::sqrt(2.0) * root), x.options()),
                                    torch::full({}, 1 / root, x.options()));
  const auto products = x.index_select(-1, pairs[0]) * x.index_select(-1, pairs[1]) * factors;
  auto one_shape = x.sizes().vec();
  one_shape.back() = 1;
  return torch::cat({x.new_ones(one_shape), x / std::sqrt(root), products}, -1);
}

}  // namespace heed::nn
