// Blocks whose tokens become fewer on the way (heed/nn/token_reducer.h).
#pragma once

#include <torch/torch.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "heed/models/transformer.h"
#include "heed/nn/token_reducer.h"

namespace heed {

/// What reducers leave of one input on its way through blocks.
struct ReducedStream {
  /// `leading` tokens stay. Attention is told the sizes of merged tokens where `proportional`, and which tokens are
  /// padding. Throws heed::Error for packed sequences and memory.
  ReducedStream(MixerInput input, int64_t leading, bool proportional = true);
  /// The next block, of which `input` says the layer and the seed. `reducer`, which may be null, takes tokens between
  /// its halves, by the mean keys and, where wanted, the attention of its token mixer, or before it. Taps of the input
  /// see the layer as it runs. A grid is told to blocks only while no token has gone, then where each that is left
  /// stands.
  void run(TransformerBlock& block, nn::TokenReducer* reducer);

  /// x of the first tokens [B, N, C] -> of these [B, n, C], and back: nothing is done while no token has gone.
  torch::Tensor reduced(const torch::Tensor& x) const { return reduced_ ? map.reduce(x) : x; }
  torch::Tensor restored(const torch::Tensor& x) const { return reduced_ ? map.restore(x) : x; }

  MixerInput input;          ///< x: what the last block left, [B, n, C]
  nn::TokenMap map;          ///< from the first tokens to these
  int64_t mixed_tokens = 0;  ///< that the last block's channel mixer got

 private:
  torch::Tensor take(nn::TokenReducer& reducer, nn::ReductionInput wanted);

  std::optional<torch::Tensor> first_positions_;  // of the tokens as they came

  int64_t leading_;
  bool proportional_, reduced_ = false;
};

/// The mean of x [B, n, C] over the tokens of the input that `map` has left in it: [B, 1, C].
torch::Tensor mean_of_tokens(const torch::Tensor& x, const nn::TokenMap& map);

/// The token reducers of a model's layers.
struct LayerReducers {
  std::vector<std::shared_ptr<nn::TokenReducer>> of_layer;  ///< null: of that layer none; empty: of no layer
  bool proportional = true;

  /// That of a layer, or null.
  nn::TokenReducer* at(size_t layer) const { return of_layer.empty() ? nullptr : of_layer.at(layer).get(); }
};

/// What `plan` names: {"name": "token_merging", "layers": [1, 3], "proportional": true} and the reducer's own keys.
/// Without layers all of `config` are meant; an empty plan is no reducer. Where a reducer has parameters dim or heads,
/// those of `config` are the defaults. Registered in `owner` as reducer_0, ... Throws heed::Error for names and layers
/// that are not there.
LayerReducers make_reducers(torch::nn::Module& owner, const nlohmann::json& plan, const TransformerConfig& config);

/// run_blocks by way of `reducers`, where there are any. Every token gets what it became part of, [B, N, C]; dropped
/// ones get 0.
torch::Tensor run_restored_blocks(std::vector<TransformerBlock>& blocks, MixerInput input,
                                  const LayerReducers& reducers, int64_t leading, uint64_t seed = 0);

struct ReducedRun {
  torch::Tensor x;              ///< [B, n, C] behind the last block
  nn::TokenMap map;             ///< from the tokens of the input to these; map.restore(x) brings them back
  std::vector<int64_t> tokens;  ///< that each block's channel mixer got
};

/// One input through all blocks, as a ReducedStream; reducers[l], where it is not null, takes tokens from layer l.
/// Throws heed::Error for another number of reducers than blocks, and for scores that the mixer of a layer can't give.
ReducedRun run_reduced_blocks(std::vector<TransformerBlock>& blocks, MixerInput input,
                              const std::vector<std::shared_ptr<nn::TokenReducer>>& reducers, int64_t leading,
                              uint64_t seed = 0, bool proportional = true);

}  // namespace heed
