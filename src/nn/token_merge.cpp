#include "heed/nn/token_merge.h"

#include <algorithm>
#include <cmath>

#include "heed/error.h"

namespace heed::nn {

using torch::Tensor;

TokenMerge::TokenMerge(const Tensor& values, const Tensor& padding, int64_t height, int64_t width, int64_t stride,
                       double ratio) {
  require(stride >= 1 && ratio >= 0 && ratio <= 1,
          "token merging: stride = {}, ratio = {}: 1 or more, and 0 to 1, are accepted", stride, ratio);
  const auto metric = values.detach();
  const int64_t batch = metric.size(0), cells = height * width;
  const auto first = (torch::arange(height) % stride == 0).unsqueeze(1) & (torch::arange(width) % stride == 0);
  const auto kept = first.flatten().nonzero().squeeze(1), others = first.logical_not().flatten().nonzero().squeeze(1);
  const int64_t left = kept.size(0), merged = std::min<int64_t>(std::llround(ratio * double(cells)), others.size(0));
  tokens = cells - merged;
  target = torch::empty({batch, cells}, torch::kInt64);
  target.index_put_({torch::arange(batch).unsqueeze(1), kept}, torch::arange(left).expand({batch, left}));
  // A token stands where the cell is that was kept, or that stayed; one column more takes the others.
  auto places = torch::empty({batch, tokens + 1}, torch::kInt64);
  places.narrow(1, 0, left).copy_(kept.expand({batch, left}));
  if (others.size(0) > 0) {
    const auto unit = metric / metric.norm(2, 2, true).clamp_min(1e-12);
    auto [likeness, best] =
        torch::matmul(unit.index_select(1, others), unit.index_select(1, kept).transpose(1, 2)).max(2);
    // Padding goes first, wherever: it has no weight.
    if (padding.defined()) likeness = likeness.masked_fill(padding.index_select(1, others), INFINITY);
    const auto order = std::get<1>(likeness.sort(c10::optional<bool>(true), 1, true));
    const auto rank = torch::empty_like(order).scatter_(1, order, torch::arange(others.size(0)).expand_as(order));
    const auto becomes = torch::where(rank < merged, best, left + rank - merged);
    target.index_put_({torch::arange(batch).unsqueeze(1), others}, becomes);
    const auto stays = torch::where(rank < merged, torch::full({}, tokens, torch::kInt64), becomes);
    places.scatter_(1, stays, others.expand_as(stays).contiguous());
  }
  positions = places.narrow(1, 0, tokens);
  const auto real = padding.defined() ? padding.logical_not().to(metric.scalar_type())
                                      : torch::ones({batch, cells}, metric.options());
  sizes = torch::zeros({batch, tokens}, metric.options()).scatter_add_(1, target, real);
  if (padding.defined()) hidden = sizes == 0;
  weight = real / sizes.gather(1, target).clamp_min(1);
}

}  // namespace heed::nn
