// What the layers of one transformer have in common: norms and where they stand, the channel mixer, what attention adds
// to plain softmax. Plain data, so that files can name it and models can be built from it.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace heed::formats {

enum class NormKind {
  rms,           ///< RMSNorm, scaled by w (arXiv 1910.07467)
  rms_plus_one,  ///< RMSNorm, scaled by 1 + w (Gemma)
  layer,         ///< LayerNorm with weight and bias (arXiv 1607.06450)
  srms,          ///< x / rms(x), without parameters (arXiv 2307.14995)
  batch          ///< BatchNorm: every channel over all tokens of a batch, running statistics in evaluation
};
inline constexpr std::array<std::string_view, 5> kNormKindNames = {"rms", "rms_plus_one", "layer", "srms", "batch"};

/// Where the norms of a block stand; T mixes tokens, C mixes channels.
enum class NormPlacement {
  pre,        ///< x += T(n1(x)); x += C(n2(x))
  post,       ///< x = n1(x + T(x)); x = n2(x + C(x))
  sandwich,   ///< x += n3(T(n1(x))); x += n4(C(n2(x)))
  parallel,   ///< x += T(n1(x)) + C(n2(x))
  reversible  ///< two streams, both x at first: a += T(n1(b)); b += C(n2(a)); their mean at the end (arXiv 2001.04451)
};
inline constexpr std::array<std::string_view, 5> kNormPlacementNames = {"pre", "post", "sandwich", "parallel",
                                                                        "reversible"};

enum class Activation { silu, gelu, gelu_tanh, relu, identity };
inline constexpr std::array<std::string_view, 5> kActivationNames = {"silu", "gelu", "gelu_tanh", "relu", "identity"};

constexpr std::string_view name_of(NormKind kind) { return kNormKindNames[static_cast<size_t>(kind)]; }
constexpr std::string_view name_of(NormPlacement placement) {
  return kNormPlacementNames[static_cast<size_t>(placement)];
}
constexpr std::string_view name_of(Activation activation) { return kActivationNames[static_cast<size_t>(activation)]; }

/// A block around its token mixer. The defaults are Llama's.
struct BlockConfig {
  NormKind norm = NormKind::rms;
  NormPlacement placement = NormPlacement::pre;
  std::string channel_mixer = "gated_mlp";  ///< a name of models/channel_mixer.h
  Activation activation = Activation::silu;
  bool mlp_bias = false;
  /// Above 0: what either mixer adds to the residual stream is multiplied by a number a channel, learned from this one
  /// (arXiv 2103.17239); placement pre.
  double layer_scale = 0;

  bool operator==(const BlockConfig&) const = default;
};

/// The block of a known model: llama; gpt2 (LayerNorms, mlp, tanh gelu, biases); transnormer (SRMSNorm and SGLU,
/// W_3 (W_1 x (x) W_2 x), arXiv 2307.14995). Throws heed::Error for another name.
BlockConfig named_block(std::string_view name);

/// What all attention layers of a model share beyond their sizes.
struct AttentionTraits {
  bool qkv_bias = false, output_bias = false;
  std::optional<NormKind> qk_norm;  ///< over each head's q and k, before the rotation
  double scale = 0;                 ///< of the logits; 0: 1 / sqrt(head_dim)
  double softcap = 0;               ///< c > 0: logits become c tanh(s / c)

  bool operator==(const AttentionTraits&) const = default;
};

/// As files have them; a block without mlp_bias, for which files have a key elsewhere, and layer_scale only where there
/// is one.
nlohmann::ordered_json to_json(const BlockConfig& block);
nlohmann::ordered_json to_json(const AttentionTraits& attention);
/// Reads the keys that `json` has. Throws heed::Error, beginning with `source` and naming `prefix` + key, for others
/// and for values that are not accepted.
void read_block(const nlohmann::json& json, std::string_view source, const std::string& prefix, BlockConfig& block);
void read_attention(const nlohmann::json& json, std::string_view source, const std::string& prefix,
                    AttentionTraits& attention);

/// What mixes the tokens of one layer: a name of heed's registry and its parameters.
struct LayerConfig {
  std::string mixer;
  nlohmann::json config = nlohmann::json::object();

  bool operator==(const LayerConfig&) const = default;
};

}  // namespace heed::formats
