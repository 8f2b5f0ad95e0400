// What decoders, encoders and vision models are made of: the configuration they share and the block that follows it.
#pragma once

#include <torch/torch.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "heed/formats/block_config.h"
#include "heed/mixers/token_mixer.h"
#include "heed/models/channel_mixer.h"
#include "heed/models/local_conv.h"
#include "heed/nn/norm.h"
#include "heed/nn/positions.h"

namespace heed {

/// Which mixer a layer has.
struct LayerPlan {
  std::string mixer = "dense";
  /// Keys beyond those that the model gives: sizes, positions and what `attention` sets.
  nlohmann::json config = nlohmann::json::object();
  /// Convolutions over the grid before the token mixer and before the channel mixer (models/local_conv.h); empty: none.
  std::string before_tokens, before_channels;
  bool one_residual = false;  ///< x += C(n2(T(n1(x)))) (SpectFormer, arXiv 2304.06446)
};

struct TransformerConfig {
  int64_t dim = 256;
  int64_t heads = 8;
  int64_t kv_heads = 4;
  int64_t head_dim = 32;
  int64_t hidden = 704;       ///< width of the channel mixer
  int64_t max_length = 1024;  ///< trained context
  double norm_eps = 1e-5;
  nn::PositionsConfig positions;  ///< of every token mixer
  formats::BlockConfig block;
  bool shared_norm = false;  ///< n1 and n2 of a block are one (Activator, arXiv 2405.15953)
  formats::AttentionTraits attention;
  std::vector<LayerPlan> layers;  ///< one a layer
  /// Height and width in cells of the images that the layers are for; empty: of no image. Mixers are told it as their
  /// `height` and `width`, or its longer side as their `side`.
  std::vector<int64_t> grid;
};

/// A token mixer and a channel mixer with their norms, as `block.placement` has them.
class TransformerBlockImpl : public torch::nn::Module {
 public:
  TransformerBlockImpl(const TransformerConfig& config, size_t layer, bool causal);
  torch::Tensor forward(const MixerInput& input, MixerState* state = nullptr);
  /// The two halves of `forward`, which needs the residual stream between them only to hand it on: what the token mixer
  /// leaves of input.x, and what the channel mixer makes of that. Throws heed::Error for parallel placement and blocks
  /// of one residual, and everything here for reversible placement, whose blocks have two streams
  /// (heed/models/reversible.h).
  torch::Tensor token_half(const MixerInput& input, MixerState* state = nullptr);
  torch::Tensor channel_half(const MixerInput& input, const torch::Tensor& residual);

  formats::NormPlacement placement() const { return placement_; }
  /// Nothing but the two mixers with their norms, each token for itself, and residuals.
  bool plain() const { return plain_ && !before_tokens && !before_channels && !one_residual_; }

  nn::Norm input_norm{nullptr}, mlp_norm{nullptr};                ///< n1, n2
  nn::Norm mixer_output_norm{nullptr}, mlp_output_norm{nullptr};  ///< n3, n4: sandwich only
  std::shared_ptr<LocalConv> before_tokens, before_channels;      ///< null for none
  std::shared_ptr<TokenMixer> mixer;
  std::shared_ptr<ChannelMixer> mlp;     ///< null, with its norms: the block mixes tokens alone
  torch::Tensor mixer_scale, mlp_scale;  ///< [dim], of what either adds; undefined without a layer scale

 private:
  torch::Tensor mix_tokens(const MixerInput& input, const torch::Tensor& normed, MixerState* state);
  torch::Tensor mix_channels(const MixerInput& input, torch::Tensor normed);

  formats::NormPlacement placement_;
  bool one_residual_, plain_;
};
TORCH_MODULE(TransformerBlock);

/// The blocks of `config`, registered in `owner` as layers_0, layers_1, ... Weights that add to the residual stream
/// start smaller by sqrt(2 L), as in GPT-2. Each block is made in float32 and brought to `dtype` before the next one.
std::vector<TransformerBlock> make_blocks(torch::nn::Module& owner, const TransformerConfig& config, bool causal,
                                          torch::ScalarType dtype);

/// Throws heed::Error unless `ids` are int64 [batch, tokens], each in [0, count); `what` names them.
void check_ids(const torch::Tensor& ids, int64_t count, const char* what);

/// One input through all blocks; `states`, one a block or null. Blocks of reversible placement keep the activations of
/// one of them in training, and refuse taps and layers that share attention.
torch::Tensor run_blocks(std::vector<TransformerBlock>& blocks, MixerInput input,
                         const std::vector<std::unique_ptr<MixerState>>* states = nullptr, uint64_t seed = 0);

}  // namespace heed
