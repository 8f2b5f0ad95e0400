// Sizes that the mixers of this folder share.
#pragma once

#include "heed/mixers/recurrent_mixer.h"
#include "heed/nn/config.h"
#include "heed/registry.h"

namespace heed::linear {

struct HeadsConfig {
  int64_t dim = 64;      ///< C
  int64_t heads = 4;     ///< H
  int64_t key_dim = 0;   ///< of a head's q and k
  int64_t head_dim = 0;  ///< of a head's v
  bool causal = true;

  /// Reads its keys; `key_fraction` of the head size is the default key size. The caller finishes the reader.
  static HeadsConfig read(ConfigReader& reader, bool causal_by_default = true, double key_fraction = 1);
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
