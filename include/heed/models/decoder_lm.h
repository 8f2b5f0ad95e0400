// A decoder language model: embeddings, blocks whose token mixer is named per layer, a norm, logits.
#pragma once

#include <torch/torch.h>

#include <string>
#include <vector>

#include "heed/mixers/taps.h"
#include "heed/models/transformer.h"

namespace heed {

/// The defaults of every choice are Llama's.
struct DecoderConfig : TransformerConfig {
  int64_t vocab_size = 256;
  bool tie_embeddings = true;
  double embedding_scale = 1;     ///< embeddings are multiplied by it
  int64_t learned_positions = 0;  ///< rows of a table added to the embeddings; 0: none
  double logit_softcap = 0;       ///< c > 0: logits become c tanh(s / c)

  /// Every layer is plain dense attention, so that the checkpoint is a Hugging Face Llama.
  bool is_llama() const;
};

/// State of all layers.
struct DecoderState {
  std::vector<std::unique_ptr<MixerState>> layers;
  int64_t bytes() const;
  int64_t seen() const { return layers.empty() ? 0 : layers.front()->seen(); }
};

class DecoderLmImpl : public torch::nn::Module {
 public:
  /// With parameters of `dtype`, drawn at random.
  explicit DecoderLmImpl(DecoderConfig config, torch::ScalarType dtype = torch::kFloat32);

  /// tokens int64 [B, N] -> hidden states [B, N, dim] after the last norm. `taps` see and may change what flows.
  /// Throws heed::Error for positions beyond `learned_positions`.
  torch::Tensor hidden(const torch::Tensor& tokens, DecoderState* state = nullptr, uint64_t seed = 0,
                       Taps* taps = nullptr);
  /// tokens int64 [B, N] -> logits [B, N, vocab].
  torch::Tensor forward(const torch::Tensor& tokens, DecoderState* state = nullptr, uint64_t seed = 0,
                        Taps* taps = nullptr);
  /// The two halves of `hidden`: tokens that stand from `first_position` on -> [B, N, dim], and any such tokens, behind
  /// what the state has seen -> hidden states after the last norm.
  torch::Tensor embed(const torch::Tensor& tokens, int64_t first_position = 0);
  torch::Tensor hidden_of(const torch::Tensor& embedded, DecoderState* state = nullptr, uint64_t seed = 0,
                          Taps* taps = nullptr);
  /// Logits of hidden states.
  torch::Tensor logits(const torch::Tensor& hidden);
  DecoderState make_state(int64_t batch) const;

  const DecoderConfig& config() const { return config_; }
  std::vector<TransformerBlock> blocks;

 private:
  DecoderConfig config_;
  torch::nn::Embedding embedding_{nullptr}, position_embedding_{nullptr};
  nn::Norm norm_{nullptr};
  torch::nn::Linear head_{nullptr};
};
TORCH_MODULE(DecoderLm);

}  // namespace heed
