// Blocks of a transformer as reversible layers (Reformer, arXiv 2001.04451).
#pragma once

#include <vector>

#include "heed/models/transformer.h"
#include "heed/nn/reversible.h"

namespace heed {

/// f is a block's token mixer behind its norm, g its channel mixer behind its own. `input` is what mixers get beside x;
/// its seed is a layer's own, drawn from `seed`. `states`, one a block or null. Taps are not accepted, nor layers that
/// use the attention of another layer or of a companion; the blocks must outlive the layers. Throws heed::Error for
/// blocks with another placement than pre or reversible.
std::vector<nn::ReversibleLayer> reversible_layers(const std::vector<TransformerBlock>& blocks, MixerInput input,
                                                   uint64_t seed = 0,
                                                   const std::vector<std::unique_ptr<MixerState>>* states = nullptr);

/// The mean of both streams behind all blocks, each begun with input.x: [B, N, C]. Training keeps the activations of
/// one block at a time, however many there are; with `states`, which a block computed again would feed twice, those of
/// all.
torch::Tensor run_reversible_blocks(const std::vector<TransformerBlock>& blocks, const MixerInput& input,
                                    uint64_t seed = 0,
                                    const std::vector<std::unique_ptr<MixerState>>* states = nullptr);

}  // namespace heed
