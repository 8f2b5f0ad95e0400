#include "heed/nn/rollout.h"

#include <cmath>

#include "heed/error.h"

namespace heed::nn {

using torch::Tensor;

Tensor mean_weights(const Tensor& q, const Tensor& k) {
  torch::NoGradGuard no_grad;
  const auto keys = k.repeat_interleave(q.size(1) / k.size(1), 1);
  return torch::softmax(torch::matmul(q, keys.transpose(2, 3)) / std::sqrt(double(q.size(3))), 3).mean(1);
}

Tensor rollout(const std::vector<Tensor>& maps) {
  require(!maps.empty(), "a rollout over no layers; 1 or more are accepted");
  Tensor flow;
  for (const auto& map : maps) {
    const auto layer = (map + torch::eye(map.size(1), map.options())) / 2;
    flow = flow.defined() ? torch::bmm(layer, flow) : layer;
  }
  return flow;
}

Tensor rollout_row(const std::vector<Tensor>& maps, int64_t row) {
  require(!maps.empty(), "a rollout over no layers; 1 or more are accepted");
  const int64_t tokens = maps[0].size(1);
  require(row >= 0 && row < tokens, "row {} of a rollout over {} tokens", row, tokens);
  auto flow = torch::zeros({maps[0].size(0), 1, tokens}, maps[0].options());
  flow.select(2, row).fill_(1);
  for (size_t l = maps.size(); l-- > 0;) flow = (torch::bmm(flow, maps[l]) + flow) / 2;
  return flow.squeeze(1);
}

}  // namespace heed::nn
