#include "heed/nn/partial.h"

namespace heed::nn {

using torch::Tensor;

AttentionResult merge(const std::vector<AttentionResult>& parts) {
  Tensor top;
  for (const auto& part : parts) {
    const auto lse = part.lse.detach();
    top = top.defined() ? torch::maximum(top, lse) : lse;
  }
  // Where nothing was seen the shift is 0, so that no difference of infinities is made.
  const auto shift = top.masked_fill(top == -INFINITY, 0);
  Tensor sum, out;
  for (const auto& part : parts) {
    const auto share = torch::exp(part.lse - shift);
    const auto term = part.out * share.unsqueeze(-1).to(part.out.scalar_type());
    sum = sum.defined() ? sum + share : share;
    out = out.defined() ? out + term : term;
  }
  const auto empty = sum.detach() == 0;
  sum = sum.masked_fill(empty, 1);
  return {out / sum.unsqueeze(-1).to(out.scalar_type()), (sum.log() + shift).masked_fill(empty, -INFINITY)};
}

AttentionResult merge(const AttentionResult& a, const AttentionResult& b) { return merge(std::vector{a, b}); }

AttentionResult merge_parts(const Tensor& out, const Tensor& lse) {
  const auto top = lse.detach().amax(-1, true);
  const auto shift = top.masked_fill(top == -INFINITY, 0);
  const auto shares = torch::exp(lse - shift);
  const auto sum = shares.sum(-1, true);
  const auto empty = sum.detach() == 0;
  const auto weights = (shares / sum.masked_fill(empty, 1)).to(out.scalar_type());
  const auto total = (shift + sum.masked_fill(empty, 1).log()).masked_fill(empty, -INFINITY);
  return {torch::matmul(weights.unsqueeze(-2), out).squeeze(-2), total.squeeze(-1)};
}

}  // namespace heed::nn
