// The one face of every mechanism: tokens in, tokens out, with or without a state.
#pragma once

#include <torch/torch.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <vector>

#include "heed/nn/core_report.h"

namespace heed {

class Taps;
struct AttentionShare;

/// Sizes of a token grid, outermost first, whose product is N (images: {height, width}).
struct Grid {
  std::vector<int64_t> sizes;
};

/// Where in a model a mixer is asked.
struct LayerContext {
  int64_t index = 0, count = 1;
};

struct MixerInput {
  torch::Tensor x;                           ///< [B, N, C]
  std::optional<torch::Tensor> memory;       ///< [B, M, C]: keys and values come from here (cross attention)
  std::optional<torch::Tensor> key_padding;  ///< bool [B, M] ([B, N] without memory): true = padding, seen by nobody
  std::optional<torch::Tensor> cu_seqlens;   ///< int64 [S + 1]: packed sequences, B = 1
  /// int64 [N], or [B, N] where every item has lost other tokens; default: 0.. after what the state has seen.
  std::optional<torch::Tensor> positions;
  std::optional<Grid> grid;
  LayerContext layer;
  uint64_t seed = 0;     ///< of everything random inside (dropout)
  Taps* taps = nullptr;  ///< heed/mixers/taps.h; null: nobody looks
  /// heed/mixers/attention_share.h: between the layers of a model; null: a layer stands alone.
  AttentionShare* share = nullptr;
  torch::Tensor residual;  ///< [B, N, C]: the residual stream that became x; undefined outside a block
  /// float [B, M]: tokens that each key stands for (heed/nn/token_reducer.h). Attention adds its logarithm to the
  /// logits; mixers that are no softmax over keys refuse it.
  std::optional<torch::Tensor> sizes;
};

/// What a mixer remembers of the tokens it has seen.
class MixerState {
 public:
  virtual ~MixerState() = default;
  virtual int64_t bytes() const = 0;  ///< held by tensors
  virtual int64_t seen() const = 0;   ///< tokens
  virtual std::unique_ptr<MixerState> clone() const = 0;
  virtual void truncate(int64_t tokens) = 0;  ///< forget all but the first; throws heed::Error where it can't
};

/// The tensors of a mechanism's core: what stands between projections.
struct CoreInput {
  torch::Tensor q, k, v;                                  ///< [B, Hq, N, D], [B, Hk, M, D], [B, Hv, M, Dv]
  std::optional<torch::Tensor> key_padding;               ///< bool [B, M], true = padding
  std::optional<torch::Tensor> cu_seqlens;                ///< int64 [S + 1]
  std::optional<torch::Tensor> q_positions, k_positions;  ///< int64 ([B,] N), ([B,] M); default: last of 0..
  uint64_t seed = 0;
  nn::CoreReport* report = nullptr;  ///< asks the core what it looked at; mechanisms without an answer leave it alone
  AttentionShare* share = nullptr;   ///< a core whose weights later layers use leaves them here
  std::optional<Grid> grid;          ///< of the N tokens, for mechanisms that need one
  std::optional<torch::Tensor> key_sizes;  ///< float [B, M], as MixerInput::sizes
};

class TokenMixer : public torch::nn::Module {
 public:
  /// x [B, N, C] -> [B, N, C]. With a state: appends x (one token, a chunk, a whole prompt) to what the state has seen.
  virtual torch::Tensor forward(const MixerInput& input, MixerState* state = nullptr) = 0;
  /// Throws heed::Error for a mixer that has no step.
  virtual std::unique_ptr<MixerState> make_state(int64_t batch) const;
  /// The core alone, [B, Hq, N, Dv]; throws heed::Error for a mixer whose core is no function of q, k, v.
  virtual torch::Tensor mix(const CoreInput& input);
};

/// The mixer registered under `name`; throws heed::Error for an unknown name (with the nearest) or configuration key.
std::shared_ptr<TokenMixer> make_mixer(std::string_view name, const nlohmann::json& config);

}  // namespace heed
