// A decoder language model: embeddings, blocks whose token mixer is named per layer, a norm, logits.
#pragma once

#include <torch/torch.h>

#include <string>
#include <vector>

#include "heed/mixers/taps.h"
#include "heed/models/landmarks.h"
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
  int64_t landmark_block = 0;  ///< of the tokens that layers have seen, the last of so many is a landmark; 0: none is
  int64_t bytes() const;
  int64_t seen_by_layers() const { return layers.empty() ? 0 : layers.front()->seen(); }
  /// Tokens that the model was given.
  int64_t seen() const { return seen_by_layers() - (landmark_block ? seen_by_layers() / landmark_block : 0); }
};

class DecoderLmImpl : public torch::nn::Module {
 public:
  /// With parameters of `dtype`, drawn at random.
  explicit DecoderLmImpl(DecoderConfig config, torch::ScalarType dtype = torch::kFloat32);

  /// tokens int64 [B, N] -> hidden states [B, N, dim] after the last norm. `taps` see and may change what flows, with
  /// the landmarks that a layer of landmark_attention asks for.
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
  /// Of the landmarks that this model inserts; 0: it inserts none.
  int64_t landmark_block() const { return landmarks_ ? landmarks_->block() : 0; }
  /// The landmark's embedding becomes the mean of all.
  void reset_landmark();

  const DecoderConfig& config() const { return config_; }
  std::vector<TransformerBlock> blocks;

 private:
  DecoderConfig config_;
  torch::nn::Embedding embedding_{nullptr}, position_embedding_{nullptr};
  nn::Norm norm_{nullptr};
  torch::nn::Linear head_{nullptr};
  Landmarks landmarks_{nullptr};
};
TORCH_MODULE(DecoderLm);

}  // namespace heed
