// Blocks of a transformer as reversible layers (Reformer, arXiv 2001.04451).
#pragma once

#include <vector>

#include "heed/models/transformer.h"
#include "heed/nn/reversible.h"

namespace heed {

/// f is a block's token mixer behind its norm, g its channel mixer behind its own. `input` is what mixers get beside x;
/// its seed is a layer's own, drawn from `seed`. Taps and states are not accepted; the blocks must outlive the layers.
/// Throws heed::Error for a `config` whose norms do not stand before the mixers.
std::vector<nn::ReversibleLayer> reversible_layers(const TransformerConfig& config,
                                                   const std::vector<TransformerBlock>& blocks, MixerInput input,
                                                   uint64_t seed = 0);

/// The mean of both streams behind all blocks, each begun with input.x: [B, N, C]. Training keeps the activations of
/// one block at a time, however many there are.
torch::Tensor run_reversible_blocks(const TransformerConfig& config, const std::vector<TransformerBlock>& blocks,
                                    const MixerInput& input, uint64_t seed = 0);

}  // namespace heed
