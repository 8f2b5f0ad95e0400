#include "mixers/linear/region_pool.h"

#include <cmath>

namespace heed::linear {

using torch::Tensor;

RegionPoolImpl::RegionPoolImpl(const std::string& kind, const std::string& map, int64_t size)
    : kind_(kind), rectified_(map != "identity") {
  if (map != "deepset") return;
  const auto drawn = [&](const char* name) {
    return register_parameter(name, torch::randn({size, size}) / std::sqrt(static_cast<double>(size)));
  };
  query_weight_ = drawn("query_weight");
  key_weight_ = drawn("key_weight");
}

Tensor RegionPoolImpl::mapped(const Tensor& tokens, const Tensor& weight) const {
  const auto x = weight.defined() ? torch::matmul(tokens, weight) : tokens;
  return rectified_ ? torch::relu(x) : x;
}

Tensor RegionPoolImpl::pool(const Tensor& tokens, const Tensor& real) const {
  if (kind_ == "max") return tokens.masked_fill(real == 0, -INFINITY).amax(-2).masked_fill(real.sum(-2) == 0, 0);
  const auto sum = (tokens * real).sum(-2);
  return kind_ == "sum" ? sum : sum / real.sum(-2).clamp_min(1);
}

Tensor RegionPoolImpl::run(const Tensor& tokens, const Tensor& real) const {
  const auto counts = real.cumsum(-2);
  if (kind_ == "max") {
    const auto largest = std::get<0>(torch::cummax(tokens.masked_fill(real == 0, -INFINITY), -2));
    return largest.masked_fill(counts == 0, 0);
  }
  const auto sum = (tokens * real).cumsum(-2);
  return kind_ == "sum" ? sum : sum / counts.clamp_min(1);
}

Tensor RegionPoolImpl::queries(const Tensor& t, const Tensor& real) { return pool(mapped(t, query_weight_), real); }
Tensor RegionPoolImpl::keys(const Tensor& t, const Tensor& real) { return pool(mapped(t, key_weight_), real); }
Tensor RegionPoolImpl::running_queries(const Tensor& t, const Tensor& real) {
  return run(mapped(t, query_weight_), real);
}
Tensor RegionPoolImpl::running_keys(const Tensor& t, const Tensor& real) { return run(mapped(t, key_weight_), real); }

}  // namespace heed::linear
