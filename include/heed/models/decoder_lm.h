// A Llama-shaped decoder: RMSNorm, a token mixer, RMSNorm, SwiGLU, per layer; the mixer is named per layer.
#pragma once

#include <torch/torch.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "heed/mixers/taps.h"
#include "heed/nn/positions.h"

namespace heed {

/// Which mixer a layer has.
struct LayerPlan {
  std::string mixer = "dense";
  nlohmann::json config =
      nlohmann::json::object();  ///< keys beyond dim, heads, kv_heads, head_dim, positions of the model
};

struct DecoderConfig {
  int64_t vocab_size = 256;
  int64_t dim = 256;
  int64_t heads = 8;
  int64_t kv_heads = 4;
  int64_t head_dim = 32;
  int64_t hidden = 704;       ///< width of the SwiGLU
  int64_t max_length = 1024;  ///< trained context
  double norm_eps = 1e-5;
  nn::PositionsConfig positions;
  bool tie_embeddings = true;
  bool attention_bias = false;
  std::vector<LayerPlan> layers;  ///< one a layer

  /// Every layer is plain dense attention, so that the checkpoint is a Hugging Face Llama.
  bool is_llama() const;
};

/// State of all layers.
struct DecoderState {
  std::vector<std::unique_ptr<MixerState>> layers;
  int64_t bytes() const;
  int64_t seen() const { return layers.empty() ? 0 : layers.front()->seen(); }
};

class RmsNormImpl : public torch::nn::Module {
 public:
  RmsNormImpl(int64_t dim, double eps);
  torch::Tensor forward(const torch::Tensor& x);
  torch::Tensor weight;

 private:
  double eps_;
};
TORCH_MODULE(RmsNorm);

class DecoderBlockImpl : public torch::nn::Module {
 public:
  DecoderBlockImpl(const DecoderConfig& config, int64_t layer);
  torch::Tensor forward(const MixerInput& input, MixerState* state);

  RmsNorm input_norm{nullptr}, mlp_norm{nullptr};
  std::shared_ptr<TokenMixer> mixer;
  torch::nn::Linear gate_proj{nullptr}, up_proj{nullptr}, down_proj{nullptr};
};
TORCH_MODULE(DecoderBlock);

class DecoderLmImpl : public torch::nn::Module {
 public:
  explicit DecoderLmImpl(DecoderConfig config);

  /// tokens int64 [B, N] -> hidden states [B, N, dim] after the last norm. `taps` see and may change what flows.
  torch::Tensor hidden(const torch::Tensor& tokens, DecoderState* state = nullptr, uint64_t seed = 0,
                       Taps* taps = nullptr);
  /// tokens int64 [B, N] -> logits [B, N, vocab].
  torch::Tensor forward(const torch::Tensor& tokens, DecoderState* state = nullptr, uint64_t seed = 0,
                        Taps* taps = nullptr);
  /// Logits of hidden states.
  torch::Tensor logits(const torch::Tensor& hidden);
  DecoderState make_state(int64_t batch) const;

  const DecoderConfig& config() const { return config_; }
  std::vector<DecoderBlock> blocks;

 private:
  DecoderConfig config_;
  torch::nn::Embedding embedding_{nullptr};
  RmsNorm norm_{nullptr};
  torch::nn::Linear head_{nullptr};
};
TORCH_MODULE(DecoderLm);

}  // namespace heed
