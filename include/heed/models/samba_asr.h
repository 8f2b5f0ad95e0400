// Speech to text with state-space mixers on both sides (Samba-ASR, arXiv 2501.02832): an encoder of log-mel frames, and
// a decoder of text whose states begin where a scan over the encoder's output ends.
#pragma once

#include <torch/torch.h>

#include <optional>
#include <string>
#include <vector>

#include "heed/models/mixer_stack.h"

namespace heed {

struct SambaAsrConfig {
  int64_t bands = 80;  ///< log-mel bands of a frame
  int64_t dim = 256;
  int64_t encoder_layers = 4, decoder_layers = 4;
  int64_t stride = 4;                           ///< frames a token of the encoder: 2 or 4, by two convolutions
  int64_t vocab_size = 32;                      ///< of text; token 0 ends it
  std::string mixer = "mamba";                  ///< any with a step
  nlohmann::json encoder_mixer, decoder_mixer;  ///< its keys on either side, beyond dim and causal
  bool bidirectional = true;                    ///< the encoder sees all frames; else those up to its token's
  /// How the decoder reads the encoder. "state": each of its layers scans the projected encoder tokens, and its state
  /// goes on from there, with a gated mean of them added to every text token. "concatenated": encoder tokens, a
  /// separator and the text are one sequence.
  std::string connection = "state";
  bool mean = true;  ///< of connection "state": the gated mean
  bool ctc = false;  ///< a head on the encoder for the CTC loss (Graves et al., 2006)
};

/// What the encoder makes of frames.
struct EncodedSpeech {
  torch::Tensor x;        ///< [B, N, dim]
  torch::Tensor lengths;  ///< int64 [B], 1 to N; tokens behind mean nothing
};

/// Of a decoder that has read the speech, and text so far. Its size does not depend on how much of either.
struct SambaAsrState {
  MixerStates layers;
  torch::Tensor mean;  ///< [B, 1, dim], projected; undefined without
};

class SambaAsrImpl : public torch::nn::Module {
 public:
  explicit SambaAsrImpl(SambaAsrConfig config);

  /// frames [B, T, bands], of which `lengths` int64 [B] of each item exist (all without). What stands behind them, NaN
  /// included, changes nothing. Throws heed::Error for what does not fit.
  EncodedSpeech encode(const torch::Tensor& frames, const std::optional<torch::Tensor>& lengths = {});
  /// Logits [B, U + 1, vocab]: of text [B, U] int64, and of what follows it, given what stands before.
  torch::Tensor forward(const EncodedSpeech& speech, const torch::Tensor& text);

  /// The state before the first text token, and logits [B, vocab] of that token.
  std::pair<SambaAsrState, torch::Tensor> begin(const EncodedSpeech& speech);
  /// Logits [B, n, vocab] behind each of the tokens [B, n], which the state then has seen.
  torch::Tensor advance(const SambaAsrState& state, const torch::Tensor& tokens);
  /// The likeliest token after the likeliest token, up to the end or `most` of them, without gradient.
  std::vector<std::vector<int64_t>> transcribe(const EncodedSpeech& speech, int64_t most);

  /// Logits [B, N, vocab + 1] of encoder tokens, the last of them the blank; throws without the head.
  torch::Tensor ctc_logits(const EncodedSpeech& speech);

  const SambaAsrConfig& config() const { return config_; }

 private:
  SambaAsrState read(const EncodedSpeech& speech);
  torch::Tensor decode(const SambaAsrState& state, torch::Tensor x);
  torch::Tensor separator(int64_t batch) const { return separator_.expand({batch, 1, -1}); }

  SambaAsrConfig config_;
  std::vector<torch::nn::Conv1d> convolutions_;
  MixerStack encoder_{nullptr}, decoder_{nullptr};
  nn::Norm encoder_norm_{nullptr}, decoder_norm_{nullptr};
  torch::nn::Linear memory_proj_{nullptr}, mean_proj_{nullptr}, head_{nullptr}, ctc_head_{nullptr};
  std::vector<torch::nn::Linear> mean_gates_;
  torch::nn::Embedding embedding_{nullptr};
  torch::Tensor separator_;  // [1, 1, dim]
};
TORCH_MODULE(SambaAsr);

}  // namespace heed
