// Cache policies by name: what a row of the registry makes for every layer of a model.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "heed/cache/layer_cache.h"
#include "heed/models/decoder_lm.h"
#include "heed/nn/config.h"
#include "heed/registry.h"

namespace heed::cache {

/// What a policy may ask of the model it serves.
struct ModelShape {
  int64_t layers = 0, heads = 0, kv_heads = 0, head_dim = 0, max_length = 0;
  nn::PositionsConfig positions;
};
ModelShape shape_of(const DecoderConfig& config);

/// A policy with its settings: makes the caches of the layers.
using Policy = std::function<std::unique_ptr<LayerCache>(const LayerContext&)>;

/// Throws heed::Error for an unknown name (with the nearest), setting or value.
Policy make_policy(std::string_view name, const nlohmann::json& settings, const ModelShape& shape);

/// What a policy claims beyond its row; the universal tests check it.
struct PolicyRow {
  RegistryRow row;
  /// Reads the settings; the caller refuses the rest.
  std::function<Policy(ConfigReader&, const ModelShape&)> make;
  nlohmann::json covering = nlohmann::json::object();  ///< settings that cover texts of 2000 tokens: equal to `full`
  nlohmann::json tight = nlohmann::json::object();     ///< settings that drop or skip much of a text of 200 tokens
  bool chunk_invariant = false;  ///< prompts in chunks of any size give the same cache and outputs
};
std::span<const PolicyRow> policies();

std::span<const RegistryRow> policy_rows();

/// A decoder's state under a policy. Layers of plain dense attention follow it; layers with a window keep a full cache
/// under their own mask, and other mixers their own state.
DecoderState make_state(const DecoderLm& model, const Policy& policy, int64_t batch = 1);

/// Calls `visit` with every LayerCache of a state.
void each_cache(const DecoderState& state, const std::function<void(LayerCache&)>& visit);

}  // namespace heed::cache
