// Fewer tokens: which tokens of a sequence become which, and the mechanisms that decide it.
#pragma once

#include <torch/torch.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "heed/registry.h"

namespace heed::nn {

/// Where the N tokens of each item went: into n, each of which stands for `sizes` tokens of the first sequence.
struct TokenMap {
  torch::Tensor target;     ///< int64 [B, N]: which of the n each became part of; -1: of none
  torch::Tensor weight;     ///< float [B, N]: its share of it; the shares of a token sum to 1
  torch::Tensor sizes;      ///< float [B, n]: for MixerInput::sizes, whose logarithm keeps attention in proportion
  torch::Tensor positions;  ///< int64 [B, n]: where among the N each stands
  torch::Tensor hidden;     ///< bool [B, n]: padding alone; undefined: nothing is
  int64_t tokens = 0;       ///< n

  /// x [B, N, C] -> [B, n, C], differentiable.
  torch::Tensor reduce(const torch::Tensor& x) const;
  /// y [B, n, C] -> [B, N, C]: every token gets what it became part of; dropped ones get 0.
  torch::Tensor restore(const torch::Tensor& y) const;
  /// This reduction and then another one of its n tokens.
  TokenMap then(const TokenMap& next) const;
};

/// Nothing happens to N tokens: sizes are 1 (0 of padding) unless given.
TokenMap every_token(int64_t batch, int64_t tokens, const torch::Tensor& sizes = {}, const torch::Tensor& padding = {});

/// The kept ones int64 [B, n], ascending; others are dropped. `sizes` [B, N].
TokenMap kept_tokens(const torch::Tensor& kept, const torch::Tensor& sizes);

/// Tokens [B, n, C] without those that are hidden (bool [B, n]) as one row of packed sequences, and back with 0 in
/// their place: what MixerInput::cu_seqlens takes.
struct PackedTokens {
  torch::Tensor x;           ///< [1, T, C]
  torch::Tensor cu_seqlens;  ///< int64 [B + 1]
};
PackedTokens pack_tokens(const torch::Tensor& x, const torch::Tensor& hidden);
torch::Tensor unpack_tokens(const torch::Tensor& packed, const torch::Tensor& hidden);

/// What a reduction is decided by.
struct ReductionInput {
  torch::Tensor x;        ///< [B, N, C]
  torch::Tensor metric;   ///< [B, N, c]: tokens are alike by the cosine of theirs (mean keys of a layer); default: x
  torch::Tensor scores;   ///< float [B, N], 0 or more: what a token is worth (attention that it got); where asked for
  torch::Tensor sizes;    ///< float [B, N]; default: 1
  torch::Tensor padding;  ///< bool [B, N]; default: none
  int64_t leading = 0;    ///< tokens at the begin that stay as they are (class token)
  int64_t layer = 0, layers = 1;
  uint64_t seed = 0;  ///< of what is drawn
};

class TokenReducer : public torch::nn::Module {
 public:
  /// Throws heed::Error for tensors that do not fit and for scores that are missing.
  virtual TokenMap map(const ReductionInput& input) = 0;
  /// Scores that `map` asks for: "none", "class" (weights of the first token's attention), "received" (mean attention).
  virtual std::string wanted_scores() const { return "none"; }
  /// Whether a layer is to be given what is left, or tokens go between its halves, by what its attention saw.
  virtual bool before_layer() const { return false; }
};

/// The reducer registered under `name`; throws heed::Error for an unknown name or configuration key.
std::shared_ptr<TokenReducer> make_token_reducer(std::string_view name, const nlohmann::json& config);

/// Kind::reducer.
std::span<const RegistryRow> reducer_rows();

}  // namespace heed::nn
