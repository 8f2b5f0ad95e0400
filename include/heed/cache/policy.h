// Cache policies by name: what a row of the registry makes for every layer of a model.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

#include "heed/cache/layer_cache.h"
#include "heed/checkpoint/head_table.h"
#include "heed/models/decoder_lm.h"
#include "heed/nn/config.h"
#include "heed/registry.h"

namespace heed::cache {

/// What a policy may ask of the model it serves.
struct ModelShape {
  int64_t layers = 0, heads = 0, kv_heads = 0, head_dim = 0, max_length = 0;
  nn::PositionsConfig positions;
  int64_t dim = 0;  ///< channels of the residual stream
};
ModelShape shape_of(const DecoderConfig& config);

/// (layer, KV head), from the first to the last.
using HeadRanking = std::vector<std::pair<int64_t, int64_t>>;

/// A policy with its settings: makes the caches of the layers.
using Policy = std::function<std::unique_ptr<LayerCache>(const LayerContext&)>;

/// Beside a policy's own settings each takes `kv`, the format of keys and values after the prompt (nn::KvFormat), and
/// `kv_recent`, the newest tokens of a row that kivi2 and kivi2_token leave exact.
/// Throws heed::Error for an unknown name (with the nearest), setting or value.
Policy make_policy(std::string_view name, const nlohmann::json& settings, const ModelShape& shape);

/// What a policy claims beyond its row; the universal tests check it.
struct PolicyRow {
  RegistryRow row;
  /// Reads the settings; the caller refuses the rest.
  std::function<Policy(ConfigReader&, const ModelShape&)> make;
  nlohmann::json covering = nlohmann::json::object();  ///< settings that cover texts of 2000 tokens: equal to `full`
  nlohmann::json tight = nlohmann::json::object();     ///< settings that drop or skip much of a text of 200 tokens
  std::string storage = "exact";                       ///< `kv` unless the settings say so
  bool chunk_invariant = false;  ///< prompts in chunks of any size give the same cache and outputs
  /// Settings with which a head holds or, where nothing is dropped, reads about `budget` tokens (of the prompt, where
  /// that alone is read sparsely); sinks, windows and what is observed are inside it. Empty where a policy has no such
  /// number.
  std::function<nlohmann::json(int64_t budget)> at_budget;
  /// The same for a policy under which some heads keep everything: on average over heads, at a prompt of so many
  /// tokens. `ranking`: all KV heads of the model, those that need it most first.
  std::function<nlohmann::json(int64_t budget, int64_t prompt, const HeadRanking& ranking)> at_mean_budget;
  /// Settings to compare, at a prompt of so many tokens, of a policy whose dial is no number of tokens.
  std::function<std::vector<nlohmann::json>(int64_t prompt)> variants;
};
std::span<const PolicyRow> policies();

/// All KV heads of a model by the numbers of a table, the largest first; a group counts as its largest head.
HeadRanking rank_heads(const checkpoint::HeadTable& table, const ModelShape& shape);

std::span<const RegistryRow> policy_rows();

/// A policy as it is written down: {"policy": NAME, "settings": {...}}.
struct PolicyChoice {
  std::string name = "full";
  nlohmann::json settings = nlohmann::json::object();

  /// A name of the registry, or a file that `save` wrote (anything that ends in .json). Throws heed::Error for a file
  /// that is no such object.
  static PolicyChoice parse(const std::string& name_or_file);
  void save(const std::filesystem::path& path) const;
  Policy make(const ModelShape& shape) const { return make_policy(name, settings, shape); }
};

/// A decoder's state under a policy. Layers of plain dense attention follow it; layers with a window keep a full cache
/// under their own mask, and other mixers their own state.
DecoderState make_state(const DecoderLm& model, const Policy& policy, int64_t batch = 1);

/// Calls `visit` with every LayerCache of a state.
void each_cache(const DecoderState& state, const std::function<void(LayerCache&)>& visit);

}  // namespace heed::cache
