// Sizes that the mixers of this folder share.
#pragma once

#include "heed/mixers/recurrent_mixer.h"
#include "heed/nn/config.h"
#include "heed/nn/positions.h"
#include "heed/registry.h"

namespace heed::linear {

struct HeadsConfig {
  int64_t dim = 64;      ///< C
  int64_t heads = 4;     ///< H
  int64_t key_dim = 0;   ///< of a head's q and k
  int64_t head_dim = 0;  ///< of a head's v
  bool causal = true;
  int64_t kv_heads = 0;           ///< of k and v, each shared by as many heads of q; 0: heads
  bool qkv_bias = false;          ///< biases of the q, k, v projections
  bool output_bias = false;       ///< bias of the output projection
  nn::PositionsConfig positions;  ///< none, rope, learned or sinusoidal

  /// Reads its keys; `key_fraction` of the head size is the default key size. The caller finishes the reader.
  static HeadsConfig read(ConfigReader& reader, bool causal_by_default = true, double key_fraction = 1);
  /// Reads what else the projections of softmax attention have: kv_heads, biases and positions.
  void read_projections(ConfigReader& reader);
  /// Heads of q that share one of k and v.
  int64_t group() const { return kv_heads ? heads / kv_heads : 1; }
  int64_t keys() const { return heads * key_dim; }
  int64_t values() const { return heads * head_dim; }
};

/// The parameters of HeadsConfig, then `own`.
std::vector<Parameter> heads_parameters(std::vector<Parameter> own = {}, bool causal_by_default = true);

/// A `make` that reads the sizes, lets `build` read its own keys, and refuses the rest.
template <class Build>
auto heads_maker(const char* name, Build build, bool causal_by_default = true, double key_fraction = 1) {
  return [=](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
    ConfigReader reader(name, json);
    const auto config = HeadsConfig::read(reader, causal_by_default, key_fraction);
    auto mixer = build(config, reader);
    reader.finish();
    return mixer;
  };
}

/// Of mixers that take over the projections of softmax attention as they are: heads_parameters with what
/// HeadsConfig::read_projections reads, and a `make` that reads it.
std::vector<Parameter> drop_in_parameters(std::vector<Parameter> own);
template <class Build>
auto drop_in_maker(const char* name, Build build) {
  return heads_maker(name, [=](HeadsConfig config, ConfigReader& reader) {
    config.read_projections(reader);
    return build(config, reader);
  });
}

/// q, k [B, H, N, key_dim] and v [B, H, N, head_dim].
struct Heads {
  torch::Tensor q, k, v;
};

/// float32, of float64 itself: what sums over tokens, exponentials and small scales are computed in.
inline torch::Tensor wide(const torch::Tensor& t) {
  return t.scalar_type() == torch::kFloat64 ? t : t.to(torch::kFloat32);
}
inline Heads wide(const Heads& heads) { return {wide(heads.q), wide(heads.k), wide(heads.v)}; }

}  // namespace heed::linear
