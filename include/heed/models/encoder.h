// A bidirectional encoder of text: BERT and its kin, with pooled output and predictions of masked tokens.
#pragma once

#include <torch/torch.h>

#include <optional>
#include <vector>

#include "heed/mixers/taps.h"
#include "heed/models/transformer.h"

namespace heed {

struct EncoderConfig : TransformerConfig {
  int64_t vocab_size = 256;
  int64_t position_rows = 512;  ///< rows of the table of positions
  int64_t token_types = 2;
  /// Positions count the tokens that are not this one, from its id + 1 (RoBERTa); absent: they count all, from 0.
  std::optional<int64_t> position_padding_id;
  bool pooler = true;
  bool mlm_head = false;
  bool tie_embeddings = true;
  formats::Activation mlm_activation = formats::Activation::gelu;
};

struct EncoderInput {
  torch::Tensor tokens;                      ///< int64 [B, N]
  std::optional<torch::Tensor> token_types;  ///< int64 [B, N]; default: 0
  std::optional<torch::Tensor> key_padding;  ///< bool [B, N], true = padding, seen by nobody
  uint64_t seed = 0;
  Taps* taps = nullptr;
};

class EncoderImpl : public torch::nn::Module {
 public:
  /// With parameters of `dtype`, drawn at random.
  explicit EncoderImpl(EncoderConfig config, torch::ScalarType dtype = torch::kFloat32);

  /// Hidden states [B, N, dim] of the last layer. Throws heed::Error for tensors that do not fit and for more tokens
  /// than there are positions.
  torch::Tensor forward(const EncoderInput& input);
  /// [B, dim] from the first token's hidden state; throws without a pooler.
  torch::Tensor pooled(const torch::Tensor& hidden);
  /// Logits [B, N, vocab] of the masked-token head; throws without one.
  torch::Tensor mlm_logits(const torch::Tensor& hidden);

  const EncoderConfig& config() const { return config_; }
  std::vector<TransformerBlock> blocks;

 private:
  torch::Tensor positions(const torch::Tensor& tokens) const;

  EncoderConfig config_;
  torch::nn::Embedding tokens_{nullptr}, positions_{nullptr}, types_{nullptr};
  nn::Norm norm_{nullptr}, mlm_norm_{nullptr};
  torch::nn::Linear pooler_{nullptr}, mlm_dense_{nullptr}, mlm_decoder_{nullptr};
  torch::Tensor mlm_bias_;
};
TORCH_MODULE(Encoder);

}  // namespace heed
