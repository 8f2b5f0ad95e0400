#include "heed/models/reversible.h"

#include "heed/error.h"

namespace heed {

using torch::Tensor;

std::vector<nn::ReversibleLayer> reversible_layers(const TransformerConfig& config,
                                                   const std::vector<TransformerBlock>& blocks, MixerInput input,
                                                   uint64_t seed) {
  require(input.taps == nullptr, "reversible blocks: taps are not accepted: their tensors are made twice");
  require(config.block.placement == formats::NormPlacement::pre,
          "reversible blocks: norms before the mixers (placement pre) are accepted");
  input.layer.count = static_cast<int64_t>(blocks.size());
  std::vector<nn::ReversibleLayer> layers;
  for (size_t i = 0; i < blocks.size(); ++i) {
    auto* block = blocks[i].ptr().get();
    input.layer.index = static_cast<int64_t>(i);
    input.seed = seed * 0x9E3779B97F4A7C15ull + i;
    layers.push_back({[block, input](const Tensor& x) {
                        auto inner = input;
                        inner.residual = x;
                        inner.x = block->input_norm->forward(x);
                        return block->mixer->forward(inner);
                      },
                      [block, grid = input.grid](const Tensor& x) {
                        return block->mlp->forward(block->mlp_norm->forward(x), grid);
                      }});
  }
  return layers;
}

Tensor run_reversible_blocks(const TransformerConfig& config, const std::vector<TransformerBlock>& blocks,
                             const MixerInput& input, uint64_t seed) {
  const auto [y1, y2] = nn::run_reversible(reversible_layers(config, blocks, input, seed), input.x, input.x);
  return (y1 + y2) / 2;
}

}  // namespace heed
