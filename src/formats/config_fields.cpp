#include "formats/config_fields.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>

namespace heed::formats {

using Json = nlohmann::json;

namespace {

// Keys by which some architecture changes what a layer computes, with the values that change nothing. Where an
// architecture does follow one of them it has asked for it, and the key is not looked up here.
struct Neutral {
  std::string_view key;
  std::vector<Json> values;
};
const std::vector<Neutral>& neutral_values() {
  static const std::vector<Neutral> keys = {{"quantization_config", {}},
                                            {"alibi", {false}},
                                            {"attention_multiplier", {}},
                                            {"attn_logit_softcapping", {}},
                                            {"clip_qkv", {}},
                                            {"embedding_multiplier", {1}},
                                            {"final_logit_softcapping", {}},
                                            {"is_encoder_decoder", {false}},
                                            {"add_cross_attention", {false}},
                                            {"logit_scale", {1}},
                                            {"logits_scaling", {1}},
                                            {"no_rope_layers", {Json::array()}},
                                            {"num_local_experts", {0}},
                                            {"position_embedding_type", {"absolute"}},
                                            {"pruned_heads", {Json::object()}},
                                            {"query_pre_attn_scalar", {}},
                                            {"residual_multiplier", {1}},
                                            {"rope_interleaved", {false}},
                                            {"use_bidirectional_attention", {false}},
                                            {"use_qk_norm", {false}}};
  return keys;
}

}  // namespace

ConfigFields::ConfigFields(const Json& json, std::string_view source, std::string prefix)
    : json_(json), source_(source), prefix_(std::move(prefix)) {
  const std::string name = prefix_.empty() ? "the text" : prefix_.substr(0, prefix_.size() - 1);
  require(json.is_object(), "{}: {} is {}, accepted: an object", source, name, quote_value(json));
}

const Json* ConfigFields::find(std::string_view key) {
  asked_.emplace(key);
  const auto found = json_.find(std::string(key));
  return found == json_.end() || found->is_null() ? nullptr : &*found;
}

void ConfigFields::whole(std::string_view key, int64_t& value) {
  if (const Json* json = find(key)) value = as_whole(key, *json);
}

void ConfigFields::whole(std::string_view key, std::optional<int64_t>& value) {
  if (const Json* json = find(key)) value = as_whole(key, *json);
}

void ConfigFields::needed(std::string_view key, int64_t& value) {
  require(find(key), "{}: {}{} is missing", source_, prefix_, key);
  whole(key, value);
}

void ConfigFields::real(std::string_view key, double& value) {
  if (const Json* json = find(key)) {
    if (!json->is_number()) wrong(key, *json, "a number");
    value = json->get<double>();
  }
}

void ConfigFields::real(std::string_view key, std::optional<double>& value) {
  double number = 0;
  if (find(key)) real(key, number), value = number;
}

void ConfigFields::reals(std::string_view key, std::vector<double>& value) {
  if (const Json* json = find(key)) {
    if (!json->is_array() || !std::all_of(json->begin(), json->end(), [](const Json& x) { return x.is_number(); }))
      wrong(key, *json, "a list of numbers");
    value = json->get<std::vector<double>>();
  }
}

void ConfigFields::flag(std::string_view key, bool& value) {
  if (const Json* json = find(key)) {
    if (!json->is_boolean()) wrong(key, *json, "true or false");
    value = json->get<bool>();
  }
}

void ConfigFields::text(std::string_view key, std::string& value) {
  if (const Json* json = find(key)) {
    if (!json->is_string()) wrong(key, *json, "a string");
    value = json->get<std::string>();
  }
}

void ConfigFields::only(std::string_view key, std::initializer_list<Json> accepted) {
  const Json* json = find(key);
  if (!json || std::find(accepted.begin(), accepted.end(), *json) != accepted.end()) return;
  std::vector<std::string> names;
  for (const Json& value : accepted) names.push_back(value.is_string() ? value.get<std::string>() : value.dump());
  wrong(key, *json, fmt::format("{}", fmt::join(names, ", ")));
}

int64_t ConfigFields::as_whole(std::string_view key, const Json& json) const {
  const bool fits = json.is_number_integer() && !(json.is_number_unsigned() && json.get<uint64_t>() > INT64_MAX);
  if (!fits) wrong(key, json, "a whole number");
  return json.get<int64_t>();
}

void ConfigFields::wrong(std::string_view key, const Json& json, std::string_view accepted) const {
  fail("{}: {}{} is {}, accepted: {}", source_, prefix_, key, quote_value(json), accepted);
}

Json ConfigFields::rest() const {
  Json rest = Json::object();
  for (const auto& [key, value] : json_.items())
    if (!asked_.contains(key)) rest[key] = value;
  return rest;
}

void finish(const ConfigFields& fields, ModelConfig& config) {
  config.extra = fields.rest();
  for (const auto& [key, values] : neutral_values()) {
    const auto found = config.extra.find(std::string(key));
    if (found == config.extra.end() || found->is_null()) continue;
    require(std::find(values.begin(), values.end(), *found) != values.end(),
            "{}: {} is {}, which changes what {} computes in a way that heed does not follow", fields.source(), key,
            quote_value(*found), config.architecture);
  }
}

void refuse_rest(const ConfigFields& fields) {
  const Json rest = fields.rest();
  require(rest.empty(), "{}: {}{} is given, which heed does not know", fields.source(), fields.prefix(),
          rest.empty() ? "" : quote(rest.begin().key()));
}

}  // namespace heed::formats
