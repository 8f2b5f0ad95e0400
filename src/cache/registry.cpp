// One row a policy. Adding one: its file, its test, its row here.
#include <algorithm>

#include "cache/rows.h"
#include "heed/error.h"
#include "heed/formats/atomic_file.h"
#include "heed/formats/json_file.h"
#include "heed/names.h"

namespace heed::cache {
namespace rows {

PolicyRow policy_row(std::string name, std::string paper, int year, std::string cost, std::vector<Parameter> parameters,
                     std::function<Policy(ConfigReader&, const ModelShape&)> make) {
  PolicyRow policy;
  policy.row.name = std::move(name);
  policy.row.kind = Kind::policy;
  policy.row.family = "kv_cache_and_long_context";
  policy.row.paper = std::move(paper);
  policy.row.year = year;
  policy.row.patterns.causal_self = true;
  policy.row.step = true;
  policy.row.training_free = true;
  policy.row.cost = std::move(cost);
  policy.row.parameters = std::move(parameters);
  const auto is_storage = [](const Parameter& parameter) { return parameter.name == "kv"; };
  if (std::none_of(policy.row.parameters.begin(), policy.row.parameters.end(), is_storage))
    policy.row.parameters.push_back(
        {"kv", "exact", "keys and values after the prompt: exact, int8, int4, kivi2 or kivi2_token"});
  policy.make = std::move(make);
  return policy;
}

}  // namespace rows

std::span<const PolicyRow> policies() {
  static const std::vector<PolicyRow> rows{
      rows::full(),
      rows::streaming_llm(),
      rows::h2o(),
      rows::snap_kv(),
      rows::pyramid_kv(),
      rows::quest(),
      rows::token_select(),
      rows::recycled_attention(),
      rows::long_heads(),
      rows::act_qkv(),
      rows::retrieval_attention(),
      rows::duo_attention(),
      rows::razor_attention(),
      rows::minference(),
      rows::flex_prefill(),
      rows::kv_quant(),
      rows::moa_sparse(),
  };
  return rows;
}

std::span<const RegistryRow> policy_rows() {
  static const std::vector<RegistryRow> rows = [] {
    std::vector<RegistryRow> rows;
    for (const auto& policy : policies()) rows.push_back(policy.row);
    return rows;
  }();
  return rows;
}

namespace {

/// The settings that every policy takes.
nn::KvFormat read_storage(ConfigReader& reader, const std::string& fallback) {
  auto format = nn::KvFormat::parse(reader.choice("kv", fallback, nn::KvFormat::names()));
  const int64_t recent = reader.integer("kv_recent", format.recent, 0, int64_t{1} << 40);
  require(recent == format.recent || (format.recent > 0 && recent > 0),
          "{}: kv_recent = {}: 1 or more with kv = kivi2 and kivi2_token, nothing else, is accepted", reader.owner(),
          recent);
  format.recent = recent;
  return format;
}

}  // namespace

Policy make_policy(std::string_view name, const nlohmann::json& settings, const ModelShape& shape) {
  std::vector<std::string> known;
  for (const auto& policy : policies()) {
    known.push_back(policy.row.name);
    if (policy.row.name != name) continue;
    ConfigReader reader("policy " + policy.row.name, settings);
    const auto storage = read_storage(reader, policy.storage);
    require(storage.exact() || shape.positions.kind != "alibi",
            "{}: kv = exact is accepted for a model with ALiBi, whose cached keys hold their position", reader.owner());
    auto made = policy.make(reader, shape);
    reader.finish();
    if (storage.exact()) return made;
    return [made, storage](const LayerContext& layer) {
      auto cache = made(layer);
      cache->store_as(storage);
      return cache;
    };
  }
  fail("unknown policy {}: {}", name, suggest(name, known));
}

PolicyChoice PolicyChoice::parse(const std::string& name_or_file) {
  if (!name_or_file.ends_with(".json")) return {name_or_file};
  const auto json = formats::read_json_file(name_or_file, size_t{64} << 20);
  require(json.is_object() && json.contains("policy") && json["policy"].is_string(),
          "{}: an object with \"policy\" and \"settings\" is accepted", name_or_file);
  PolicyChoice choice{json["policy"].get<std::string>()};
  if (json.contains("settings")) choice.settings = json["settings"];
  require(choice.settings.is_object(), "{}: settings are {}: an object is accepted", name_or_file,
          choice.settings.type_name());
  for (const auto& [key, value] : json.items())
    require(key == "policy" || key == "settings", "{}: unknown key {}: policy and settings are accepted", name_or_file,
            formats::quote(key));
  return choice;
}

void PolicyChoice::save(const std::filesystem::path& path) const {
  const nlohmann::ordered_json json{{"policy", name}, {"settings", settings}};
  formats::write_file(path, json.dump(1) + "\n");
}

ModelShape shape_of(const DecoderConfig& config) {
  return {int64_t(config.layers.size()),
          config.heads,
          config.kv_heads,
          config.head_dim,
          config.max_length,
          config.positions,
          config.dim};
}

DecoderState make_state(const DecoderLm& model, const Policy& policy, int64_t batch) {
  const auto& layers = model->config().layers;
  DecoderState state;
  state.landmark_block = model->landmark_block();
  for (size_t i = 0; i < layers.size(); ++i) {
    const LayerContext layer{int64_t(i), int64_t(layers.size())};
    if (layers[i].mixer == "dense")
      state.layers.push_back(policy(layer));
    else if (layers[i].mixer == "sliding_window")
      state.layers.push_back(std::make_unique<LayerCache>());
    else
      state.layers.push_back(model->blocks[i]->mixer->make_state(batch));
  }
  std::vector<LayerCache*> caches;
  each_cache(state, [&](LayerCache& cache) { caches.push_back(&cache); });
  for (auto* cache : caches) cache->meet(caches);
  return state;
}

void each_cache(const DecoderState& state, const std::function<void(LayerCache&)>& visit) {
  for (const auto& layer : state.layers)
    if (auto* cache = dynamic_cast<LayerCache*>(layer.get())) visit(*cache);
}

}  // namespace heed::cache
