#include "heed/nn/partial_attention.h"

#include <limits>

namespace heed::nn {

AttentionResult join_parts(const std::vector<AttentionResult>& parts) {
  constexpr double kNothing = -std::numeric_limits<double>::infinity();
  torch::Tensor top;
  for (const auto& part : parts) {
    const auto lse = part.lse.detach();
    top = top.defined() ? torch::maximum(top, lse) : lse;
  }
  // Where nobody saw anything every weight is exp(-inf - 0).
  top = top.masked_fill(top == kNothing, 0);
  torch::Tensor sum, out;
  for (const auto& part : parts) {
    const auto weight = torch::exp(part.lse - top);
    const auto term = part.out * weight.unsqueeze(3).to(part.out.scalar_type());
    sum = sum.defined() ? sum + weight : weight;
    out = out.defined() ? out + term : term;
  }
  const auto empty = sum.detach() == 0;
  sum = sum.masked_fill(empty, 1);
  return {out / sum.unsqueeze(3).to(out.scalar_type()), (sum.log() + top).masked_fill(empty, kNothing)};
}

}  // namespace heed::nn
