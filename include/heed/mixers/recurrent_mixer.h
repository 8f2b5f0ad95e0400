// Mixers whose past is a few tensors of a fixed size: what they remember, and one call of them.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "heed/mixers/token_mixer.h"
#include "heed/nn/short_conv.h"
#include "heed/ops/delta_chunk.h"
#include "heed/ops/linear_chunk.h"

namespace heed {

/// What tells states of different mixers apart.
struct RecurrentIdentity {
  std::string mixer;
  nlohmann::json configuration;  ///< defaults filled in; null of a mixer made without the registry
};

/// What a recurrent mixer has seen, summed up: one tensor a slot, undefined before the first token.
struct RecurrentState final : MixerState {
  std::vector<torch::Tensor> slots;
  int64_t tokens = 0;
  /// Of the mixer that made it, which alone can read it; null and 0 of one that nobody checks.
  std::shared_ptr<const RecurrentIdentity> maker;
  int64_t batch = 0;

  int64_t bytes() const override;
  int64_t seen() const override { return tokens; }
  std::unique_ptr<MixerState> clone() const override;
  /// To 0 or to what was seen; a sum can't be taken apart.
  void truncate(int64_t length) override;
};

/// One call of a recurrent mixer: the new tokens, and its memory by slot. A mixer numbers its slots from 0.
class RecurrentCall {
 public:
  /// `state` null: a sequence from its beginning, of which nothing is kept.
  RecurrentCall(const MixerInput& input, RecurrentState* state);

  const MixerInput& input;
  const torch::Tensor& x;  ///< [B, N, C]

  int64_t batch() const { return x.size(0); }
  int64_t tokens() const { return x.size(1); }
  /// Tokens before x.
  int64_t seen() const { return state_ == nullptr ? 0 : state_->tokens; }
  /// Whether something is carried to a later call.
  bool carries() const { return state_ != nullptr; }
  /// int64 [N] of x within its sequence.
  torch::Tensor positions() const;

  /// The tensor of a slot; undefined before the first token.
  torch::Tensor& slot(size_t index);
  /// `t` [B, N, ...] with the rows of padded tokens 0.
  torch::Tensor without_padding(const torch::Tensor& t) const;
  /// `t` [B, H, N] or [B, H, N, D], likewise.
  torch::Tensor heads_without_padding(const torch::Tensor& t) const;

  /// ops::linear_chunk from the state of a slot, which becomes the final one. A padded token writes and forgets
  /// nothing.
  torch::Tensor linear(size_t slot, const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                       std::optional<torch::Tensor> log_decay, ops::LinearChunkOptions options = {});
  /// ops::delta_chunk, likewise.
  torch::Tensor delta(size_t slot, const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                      const torch::Tensor& beta, std::optional<torch::Tensor> log_decay,
                      ops::DeltaChunkOptions options = {});
  /// A short convolution whose last inputs stay in a slot. Padded tokens come in as 0.
  torch::Tensor conv(size_t slot, nn::ShortConv& conv, const torch::Tensor& x);

 private:
  std::optional<torch::Tensor> decay_of_tokens(std::optional<torch::Tensor> log_decay) const;

  RecurrentState* state_;
  RecurrentState own_;
};

class RecurrentMixer : public TokenMixer {
 public:
  /// Takes key_padding and cu_seqlens; a state only where causal. Throws heed::Error for what does not fit.
  torch::Tensor forward(const MixerInput& input, MixerState* state = nullptr) final;
  std::unique_ptr<MixerState> make_state(int64_t batch) const override;

  /// Whatever was made under another configuration is refused as a state. For the registry; before the first state.
  void set_configuration(nlohmann::json configuration);

 protected:
  RecurrentMixer(std::string name, int64_t dim, bool causal);

  /// [B, N, C] from the call's x.
  virtual torch::Tensor run(RecurrentCall& call) = 0;
  /// Whether a mixer that is not causal reads keys and values from MixerInput::memory.
  virtual bool takes_memory() const { return false; }
  /// Tokens before the cells of a grid, as a class token is.
  virtual int64_t leading_tokens() const { return 0; }
  /// Why a causal mixer has no step; empty: it has one.
  virtual std::string without_step() const { return {}; }

  /// A projection whose weights start as N(0, 0.02), without bias unless asked.
  torch::nn::Linear project(const std::string& name, int64_t in, int64_t out, bool bias = false);

  const std::string& mixer_name() const { return identity_->mixer; }

  int64_t dim_;
  bool causal_;

 private:
  void require_step() const;
  /// Throws heed::Error unless this mixer made it, for as many sequences.
  void require_own(const RecurrentState& state, int64_t batch) const;

  std::shared_ptr<const RecurrentIdentity> identity_;
};

/// [B, N, H D] -> [B, H, N, D] and back.
torch::Tensor split_heads(const torch::Tensor& x, int64_t heads);
torch::Tensor join_heads(const torch::Tensor& x);

}  // namespace heed
