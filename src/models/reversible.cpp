#include "heed/models/reversible.h"

#include "heed/error.h"
#include "heed/mixers/attention_share.h"

namespace heed {

using formats::NormPlacement;
using torch::Tensor;

std::vector<nn::ReversibleLayer> reversible_layers(const std::vector<TransformerBlock>& blocks, MixerInput input,
                                                   uint64_t seed,
                                                   const std::vector<std::unique_ptr<MixerState>>* states) {
  require(input.taps == nullptr, "reversible blocks: taps are not accepted: their tensors are made twice");
  require(!input.share || !input.share->companion.defined(),
          "reversible blocks: layers whose queries and keys come from a companion are not accepted");
  input.layer.count = static_cast<int64_t>(blocks.size());
  std::vector<nn::ReversibleLayer> layers;
  for (size_t i = 0; i < blocks.size(); ++i) {
    auto* block = blocks[i].ptr().get();
    require(block->placement() == NormPlacement::pre || block->placement() == NormPlacement::reversible,
            "reversible blocks: placement {}: norms before the mixers (reversible, pre) are accepted",
            name_of(block->placement()));
    require(
        block->plain(),
        "reversible blocks: local convolutions, blocks of one residual, layer scales and norms of kind batch are not "
        "accepted");
    require(block->mlp != nullptr, "reversible blocks: a channel mixer of none is not accepted");
    input.layer.index = static_cast<int64_t>(i);
    input.seed = seed * 0x9E3779B97F4A7C15ull + i;
    auto* state = states ? states->at(i).get() : nullptr;
    layers.push_back({[block, input, state](const Tensor& x) {
                        // Nothing passes from layer to layer: in the backward the later one is computed first.
                        AttentionShare alone;
                        auto inner = input;
                        inner.share = &alone;
                        inner.residual = x;
                        inner.x = block->input_norm->forward(x);
                        return block->mixer->forward(inner, state);
                      },
                      [block, grid = input.grid](const Tensor& x) {
                        return block->mlp->forward(block->mlp_norm->forward(x), grid);
                      }});
  }
  return layers;
}

Tensor run_reversible_blocks(const std::vector<TransformerBlock>& blocks, const MixerInput& input, uint64_t seed,
                             const std::vector<std::unique_ptr<MixerState>>* states) {
  const auto layers = reversible_layers(blocks, input, seed, states);
  if (states == nullptr) {
    const auto [y1, y2] = nn::run_reversible(layers, input.x, input.x);
    return (y1 + y2) / 2;
  }
  auto x1 = input.x, x2 = input.x;
  for (const auto& layer : layers) {
    x1 = x1 + layer.f(x2);
    x2 = x2 + layer.g(x1);
  }
  return (x1 + x2) / 2;
}

}  // namespace heed
