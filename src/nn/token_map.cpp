#include "heed/nn/token_reducer.h"

#include "heed/error.h"

namespace heed::nn {

using torch::Tensor;

Tensor TokenMap::reduce(const Tensor& x) const {
  require(x.dim() == 3 && x.size(0) == target.size(0) && x.size(1) == target.size(1),
          "token reduction: x of shape {}: [{}, {}, channels] is accepted", c10::str(x.sizes()), target.size(0),
          target.size(1));
  // Tokens without a share are not read, whatever stands in them.
  const auto shares = x.masked_fill((weight == 0).unsqueeze(2), 0) * weight.to(x.scalar_type()).unsqueeze(2);
  return torch::zeros({x.size(0), tokens, x.size(2)}, x.options())
      .scatter_add(1, target.clamp_min(0).unsqueeze(2).expand_as(shares), shares);
}

Tensor TokenMap::restore(const Tensor& y) const {
  require(y.dim() == 3 && y.size(0) == target.size(0) && y.size(1) == tokens,
          "token reduction: y of shape {}: [{}, {}, channels] is accepted", c10::str(y.sizes()), target.size(0),
          tokens);
  const auto index = target.clamp_min(0).unsqueeze(2).expand({target.size(0), target.size(1), y.size(2)});
  return y.gather(1, index).masked_fill((target < 0).unsqueeze(2), 0);
}

TokenMap TokenMap::then(const TokenMap& next) const {
  require(next.target.size(1) == tokens, "token reduction: {} tokens behind one of {}: equal numbers are accepted",
          next.target.size(1), tokens);
  TokenMap both = next;
  const auto through = target.clamp_min(0), gone = target < 0;
  both.target = next.target.gather(1, through).masked_fill(gone, -1);
  both.weight = (weight * next.weight.gather(1, through)).masked_fill(both.target < 0, 0);
  both.positions = positions.gather(1, next.positions);
  return both;
}

TokenMap every_token(int64_t batch, int64_t tokens, const Tensor& sizes, const Tensor& padding) {
  TokenMap map;
  map.tokens = tokens;
  map.target = map.positions = torch::arange(tokens).expand({batch, tokens});
  map.sizes = sizes.defined() ? sizes : torch::ones({batch, tokens});
  map.weight = torch::ones_like(map.sizes);
  if (padding.defined()) {
    map.hidden = padding;
    map.sizes = map.sizes.masked_fill(padding, 0);
  }
  return map;
}

TokenMap kept_tokens(const Tensor& kept, const Tensor& sizes) {
  TokenMap map;
  map.tokens = kept.size(1);
  map.positions = kept;
  map.target =
      torch::full(sizes.sizes(), -1, torch::kInt64).scatter_(1, kept, torch::arange(map.tokens).expand_as(kept));
  map.weight = (map.target >= 0).to(sizes.scalar_type());
  map.sizes = sizes.gather(1, kept);
  return map;
}

PackedTokens pack_tokens(const Tensor& x, const Tensor& hidden) {
  const auto real = hidden.logical_not();
  const auto counts = torch::constant_pad_nd(real.sum(1).cumsum(0), {1, 0});
  return {x.flatten(0, 1).index_select(0, real.flatten().nonzero().squeeze(1)).unsqueeze(0), counts};
}

Tensor unpack_tokens(const Tensor& packed, const Tensor& hidden) {
  const auto rows = hidden.logical_not().flatten().nonzero().squeeze(1);
  return torch::zeros({hidden.numel(), packed.size(2)}, packed.options())
      .index_copy(0, rows, packed.squeeze(0))
      .unflatten(0, {hidden.size(0), hidden.size(1)});
}

}  // namespace heed::nn
