// What stands for a region of tokens in Combiner: one query and one key, pooled over its tokens (arXiv 2107.05768).
#pragma once

#include <torch/torch.h>

#include <string>

namespace heed::linear {

/// What a query looks up of regions: keys and values [..., regions, D], and how many tokens each has [..., regions, 1].
struct RegionSummaries {
  torch::Tensor keys, values, counts;
};

/// Maps tokens, then pools them over the axis before the last.
class RegionPoolImpl : public torch::nn::Module {
 public:
  /// `kind`: max, mean or sum. `map`: identity, relu, or deepset, relu(x W) with a W [size, size] of queries and one of
  /// keys, which all heads share.
  RegionPoolImpl(const std::string& kind, const std::string& map, int64_t size);

  /// Of all tokens: [..., tokens, size] and real [..., tokens, 1], 0 for tokens that do not count, to [..., size].
  /// Without tokens that count, 0.
  torch::Tensor queries(const torch::Tensor& tokens, const torch::Tensor& real);
  torch::Tensor keys(const torch::Tensor& tokens, const torch::Tensor& real);
  /// Of every token and those before it: [..., tokens, size].
  torch::Tensor running_queries(const torch::Tensor& tokens, const torch::Tensor& real);
  torch::Tensor running_keys(const torch::Tensor& tokens, const torch::Tensor& real);

 private:
  torch::Tensor mapped(const torch::Tensor& tokens, const torch::Tensor& weight) const;
  torch::Tensor pool(const torch::Tensor& tokens, const torch::Tensor& real) const;
  torch::Tensor run(const torch::Tensor& tokens, const torch::Tensor& real) const;

  std::string kind_;
  bool rectified_;
  torch::Tensor query_weight_, key_weight_;  // [size, size], of deepset
};
TORCH_MODULE(RegionPool);

}  // namespace heed::linear
