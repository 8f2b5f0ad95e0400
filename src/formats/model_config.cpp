#include "heed/formats/model_config.h"

#include <algorithm>
#include <array>
#include <set>

#include "heed/error.h"
#include "heed/formats/atomic_file.h"
#include "heed/formats/json_file.h"

namespace heed::formats {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

constexpr size_t kMaxConfigBytes = size_t{16} << 20;
constexpr std::string_view kPlain = "LlamaForCausalLM", kExtended = "HeedForCausalLM";
constexpr std::array<std::string_view, 4> kScalingNames = {"linear", "dynamic", "yarn", "llama3"};

// One JSON object, read key by key; what nobody asked for is left for `extra`. Null counts as absent, as in
// transformers.
class Reader {
 public:
  Reader(const Json& json, std::string_view source, std::string prefix)
      : json_(json), source_(source), prefix_(std::move(prefix)) {
    const std::string name = prefix_.empty() ? "the text" : prefix_.substr(0, prefix_.size() - 1);
    require(json.is_object(), "{}: {} is {}, accepted: an object", source, name, shown(json));
  }

  const Json* find(const char* key) {
    asked_.insert(key);
    const auto found = json_.find(key);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
  }

  void whole(const char* key, int64_t& value) {
    if (const Json* json = find(key)) value = as_whole(key, *json);
  }
  void whole(const char* key, std::optional<int64_t>& value) {
    if (const Json* json = find(key)) value = as_whole(key, *json);
  }
  void needed(const char* key, int64_t& value) {
    require(find(key), "{}: {}{} is missing", source_, prefix_, key);
    whole(key, value);
  }
  void real(const char* key, double& value) {
    if (const Json* json = find(key)) {
      if (!json->is_number()) wrong(key, *json, "a number");
      value = json->get<double>();
    }
  }
  void real(const char* key, std::optional<double>& value) {
    double number = 0;
    if (find(key)) real(key, number), value = number;
  }
  void flag(const char* key, bool& value) {
    if (const Json* json = find(key)) {
      if (!json->is_boolean()) wrong(key, *json, "true or false");
      value = json->get<bool>();
    }
  }
  void text(const char* key, std::string& value) {
    if (const Json* json = find(key)) {
      if (!json->is_string()) wrong(key, *json, "a string");
      value = json->get<std::string>();
    }
  }

  int64_t as_whole(const char* key, const Json& json) const {
    const bool fits = json.is_number_integer() && !(json.is_number_unsigned() && json.get<uint64_t>() > INT64_MAX);
    if (!fits) wrong(key, json, "a whole number");
    return json.get<int64_t>();
  }

  [[noreturn]] void wrong(const char* key, const Json& json, std::string_view accepted) const {
    fail("{}: {}{} is {}, accepted: {}", source_, prefix_, key, shown(json), accepted);
  }

  Json rest() const {
    Json rest = Json::object();
    for (const auto& [key, value] : json_.items()) {
      if (!asked_.contains(key)) rest[key] = value;
    }
    return rest;
  }

 private:
  static std::string shown(const Json& json) {
    return quote(json.dump(-1, ' ', false, Json::error_handler_t::replace));
  }

  const Json& json_;
  std::string_view source_;
  std::string prefix_;
  std::set<std::string, std::less<>> asked_;
};

// `rope_scaling` of transformers 4, or `rope_parameters` of transformers 5, where the base stands inside as well.
void read_rope(Reader& reader, std::string_view source, LlamaConfig& config) {
  const Json* newer = reader.find("rope_parameters");
  const Json* json = reader.find("rope_scaling");
  if (!json) json = newer;
  if (!json) return;
  Reader inner(*json, source, json == newer ? "rope_parameters." : "rope_scaling.");
  inner.real("rope_theta", config.rope_theta);
  std::string kind = "default";
  inner.text("type", kind);
  inner.text("rope_type", kind);
  if (kind == "default") return;
  const auto found = std::find(kScalingNames.begin(), kScalingNames.end(), kind);
  require(found != kScalingNames.end(),
          "{}: rope_scaling has type {}, accepted: default, linear, dynamic, yarn, llama3", source, quote(kind));
  RopeScaling scaling;
  scaling.kind = static_cast<RopeScaling::Kind>(found - kScalingNames.begin());
  require(inner.find("factor"), "{}: rope_scaling of type {} has no factor", source, kind);
  inner.real("factor", scaling.factor);
  inner.whole("original_max_position_embeddings", scaling.original_max_position_embeddings);
  inner.real("attention_factor", scaling.attention_factor);
  inner.real("beta_fast", scaling.beta_fast);
  inner.real("beta_slow", scaling.beta_slow);
  inner.real("low_freq_factor", scaling.low_freq_factor);
  inner.real("high_freq_factor", scaling.high_freq_factor);
  // A key that is passed over here would change the frequencies, hence every answer.
  const Json rest = inner.rest();
  require(rest.empty(), "{}: rope_scaling has a field {}, which heed does not know", source,
          quote(rest.empty() ? "" : rest.begin().key()));
  config.rope_scaling = scaling;
}

void read_token_ids(Reader& reader, LlamaConfig& config) {
  const auto in_vocabulary = [&](int64_t id) { return id >= 0 && id < config.vocab_size; };
  reader.whole("bos_token_id", config.bos_token_id);
  if (config.bos_token_id && !in_vocabulary(*config.bos_token_id)) config.bos_token_id.reset();
  if (const Json* json = reader.find("eos_token_id")) {
    for (const Json& item : json->is_array() ? *json : Json::array({*json})) {
      const int64_t id = reader.as_whole("eos_token_id", item);
      if (in_vocabulary(id)) config.eos_token_ids.push_back(id);
    }
  }
}

bool read_architecture(Reader& reader, std::string_view source) {
  std::string architecture;
  if (const Json* json = reader.find("architectures")) {
    const bool one = json->is_array() && json->size() == 1 && (*json)[0].is_string();
    if (!one) reader.wrong("architectures", *json, R"(["LlamaForCausalLM"] or ["HeedForCausalLM"])");
    architecture = (*json)[0].get<std::string>();
  }
  std::string type;
  reader.text("model_type", type);
  if (architecture.empty() && type == "llama") architecture = kPlain;
  require(architecture == kPlain || architecture == kExtended,
          "{}: architectures is {}, accepted: LlamaForCausalLM or HeedForCausalLM", source, quote(architecture));
  return architecture == kExtended;
}

void read_heed(const Json& json, std::string_view source, LlamaConfig& config) {
  Reader reader(json, source, "heed.");
  reader.text("tokenizer", config.tokenizer);
  if (const Json* layers = reader.find("layers")) {
    if (!layers->is_array()) reader.wrong("layers", *layers, "a list with one entry a layer");
    for (const Json& item : *layers) {
      Reader fields(item, source, "heed.layers[].");
      LayerConfig layer;
      fields.text("mixer", layer.mixer);
      if (const Json* parameters = fields.find("config")) layer.config = *parameters;
      config.layers.push_back(std::move(layer));
    }
  }
  config.heed_extra = reader.rest();
}

OrderedJson rope_json(const RopeScaling& scaling) {
  OrderedJson json{{"rope_type", name_of(scaling.kind)}, {"factor", scaling.factor}};
  if (scaling.original_max_position_embeddings) {
    json["original_max_position_embeddings"] = *scaling.original_max_position_embeddings;
  }
  if (scaling.kind == RopeScaling::Kind::yarn) {
    json["beta_fast"] = scaling.beta_fast;
    json["beta_slow"] = scaling.beta_slow;
    if (scaling.attention_factor) json["attention_factor"] = *scaling.attention_factor;
  }
  if (scaling.kind == RopeScaling::Kind::llama3) {
    json["low_freq_factor"] = scaling.low_freq_factor;
    json["high_freq_factor"] = scaling.high_freq_factor;
  }
  return json;
}

}  // namespace

std::string_view name_of(RopeScaling::Kind kind) { return kScalingNames[static_cast<size_t>(kind)]; }

LlamaConfig parse_model_config(const Json& json, std::string_view source) {
  Reader reader(json, source, "");
  LlamaConfig config;
  const bool extended = read_architecture(reader, source);
  reader.needed("hidden_size", config.hidden_size);
  reader.needed("num_hidden_layers", config.num_hidden_layers);
  reader.needed("num_attention_heads", config.num_attention_heads);
  reader.needed("intermediate_size", config.intermediate_size);
  reader.needed("vocab_size", config.vocab_size);
  config.num_key_value_heads = config.num_attention_heads;
  reader.whole("num_key_value_heads", config.num_key_value_heads);
  if (!reader.find("head_dim")) {
    require(config.num_attention_heads > 0 && config.hidden_size % config.num_attention_heads == 0,
            "{}: hidden_size is {}, accepted without head_dim: a multiple of num_attention_heads, {}", source,
            config.hidden_size, config.num_attention_heads);
    config.head_dim = config.hidden_size / config.num_attention_heads;
  }
  reader.whole("head_dim", config.head_dim);
  reader.whole("max_position_embeddings", config.max_position_embeddings);
  reader.real("rms_norm_eps", config.rms_norm_eps);
  reader.real("rope_theta", config.rope_theta);
  read_rope(reader, source, config);
  reader.flag("tie_word_embeddings", config.tie_word_embeddings);
  reader.flag("attention_bias", config.attention_bias);
  reader.flag("mlp_bias", config.mlp_bias);
  reader.real("initializer_range", config.initializer_range);
  reader.text("dtype", config.torch_dtype);
  reader.text("torch_dtype", config.torch_dtype);
  std::string activation = "silu";
  reader.text("hidden_act", activation);
  require(activation == "silu", "{}: hidden_act is {}, accepted: silu", source, quote(activation));
  read_token_ids(reader, config);
  if (const Json* heed = reader.find("heed")) read_heed(*heed, source, config);
  require(extended == !config.layers.empty(), "{}: {} must have heed.layers, and LlamaForCausalLM none", source,
          kExtended);
  config.extra = reader.rest();
  check(config, source);
  return config;
}

LlamaConfig read_model_config(const std::filesystem::path& path) {
  return parse_model_config(read_json_file(path, kMaxConfigBytes), path.string());
}

OrderedJson model_config_json(const LlamaConfig& config) {
  OrderedJson json;
  json["architectures"] = {config.is_plain() ? kPlain : kExtended};
  json["model_type"] = config.is_plain() ? "llama" : "heed";
  json["hidden_size"] = config.hidden_size;
  json["num_hidden_layers"] = config.num_hidden_layers;
  json["num_attention_heads"] = config.num_attention_heads;
  json["num_key_value_heads"] = config.num_key_value_heads;
  json["head_dim"] = config.head_dim;
  json["intermediate_size"] = config.intermediate_size;
  json["vocab_size"] = config.vocab_size;
  json["max_position_embeddings"] = config.max_position_embeddings;
  json["hidden_act"] = "silu";
  json["rms_norm_eps"] = config.rms_norm_eps;
  json["rope_theta"] = config.rope_theta;
  json["rope_scaling"] = config.rope_scaling ? rope_json(*config.rope_scaling) : OrderedJson(nullptr);
  json["tie_word_embeddings"] = config.tie_word_embeddings;
  json["attention_bias"] = config.attention_bias;
  json["mlp_bias"] = config.mlp_bias;
  json["initializer_range"] = config.initializer_range;
  json["torch_dtype"] = config.torch_dtype;
  if (config.bos_token_id) json["bos_token_id"] = *config.bos_token_id;
  if (config.eos_token_ids.size() == 1) {
    json["eos_token_id"] = config.eos_token_ids[0];
  } else if (!config.eos_token_ids.empty()) {
    json["eos_token_id"] = config.eos_token_ids;
  }
  for (const auto& [key, value] : config.extra.items()) json[key] = value;

  OrderedJson heed = OrderedJson::object();
  if (!config.tokenizer.empty()) heed["tokenizer"] = config.tokenizer;
  for (const auto& layer : config.layers) heed["layers"].push_back({{"mixer", layer.mixer}, {"config", layer.config}});
  for (const auto& [key, value] : config.heed_extra.items()) heed[key] = value;
  if (!heed.empty()) json["heed"] = heed;
  return json;
}

void write_model_config(const std::filesystem::path& path, const LlamaConfig& config) {
  check(config, path.string());
  write_file(path, model_config_json(config).dump(2) + "\n");
}

}  // namespace heed::formats
