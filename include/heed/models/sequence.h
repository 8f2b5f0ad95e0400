// A sequence of tokens or vectors in, answers out: what small tasks are learned with, its token mixer named per layer.
#pragma once

#include <torch/torch.h>

#include <optional>
#include <vector>

#include "heed/models/bare_block.h"
#include "heed/models/decoder_lm.h"
#include "heed/models/transformer.h"

namespace heed {

struct SequenceConfig : TransformerConfig {
  int64_t vocab_size = 0;  ///< above 0: the inputs are tokens
  int64_t channels = 0;    ///< above 0: the inputs are vectors of so many channels
  int64_t outputs = 1;     ///< numbers of an answer
  /// A position sees what stands up to it; else it sees everything, and sinusoidal positions are added to the inputs.
  bool causal = true;
  /// Blocks without norms and residuals (heed/models/bare_block.h), no norm behind them and no positions but those of
  /// the mixers.
  bool bare = false;
};

class SequenceModelImpl : public torch::nn::Module {
 public:
  /// With parameters drawn at random. Throws heed::Error unless the inputs are either tokens or vectors.
  explicit SequenceModelImpl(SequenceConfig config);

  /// Tokens int64 [B, N] or vectors [B, N, channels] -> hidden states [B, N, dim]. `key_padding` [B, N], true: seen by
  /// nobody. A state takes the inputs in parts.
  torch::Tensor forward(const torch::Tensor& inputs, const std::optional<torch::Tensor>& key_padding = {},
                        DecoderState* state = nullptr, uint64_t seed = 0);
  /// Hidden states [..., dim] -> [..., outputs].
  torch::Tensor answers(const torch::Tensor& hidden) { return head_(hidden); }
  DecoderState make_state(int64_t batch) const;

  const SequenceConfig& config() const { return config_; }

 private:
  torch::Tensor run_bare(MixerInput input, DecoderState* state, uint64_t seed);

  SequenceConfig config_;
  std::vector<TransformerBlock> blocks_;
  std::vector<BareBlock> bare_;
  torch::nn::Embedding tokens_{nullptr};
  torch::nn::Linear vectors_{nullptr}, head_{nullptr};
  nn::Norm norm_{nullptr};
  Landmarks landmarks_{nullptr};
};
TORCH_MODULE(SequenceModel);

}  // namespace heed
