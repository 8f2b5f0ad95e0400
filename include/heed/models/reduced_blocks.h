// Blocks whose tokens become fewer on the way (heed/nn/token_reducer.h).
#pragma once

#include <torch/torch.h>

#include <memory>
#include <vector>

#include "heed/models/transformer.h"
#include "heed/nn/token_reducer.h"

namespace heed {

struct ReducedRun {
  torch::Tensor x;              ///< [B, n, C] behind the last block
  nn::TokenMap map;             ///< from the tokens of the input to these; map.restore(x) brings them back
  std::vector<int64_t> tokens;  ///< that each block's channel mixer got
};

/// One input through all blocks; reducers[l], where it is not null, takes tokens from layer l: between its halves, by
/// the mean keys and, where wanted, the attention of its token mixer, or before it. `leading` tokens stay. Attention is
/// told the sizes of merged tokens where `proportional`, and which tokens are padding. Taps of the input see the layers
/// as they run. Throws heed::Error for another number of reducers than blocks, and for scores that the mixer of a layer
/// can't give. A grid is told to layers only while no token has gone.
ReducedRun run_reduced_blocks(std::vector<TransformerBlock>& blocks, MixerInput input,
                              const std::vector<std::shared_ptr<nn::TokenReducer>>& reducers, int64_t leading,
                              uint64_t seed = 0, bool proportional = true);

}  // namespace heed
