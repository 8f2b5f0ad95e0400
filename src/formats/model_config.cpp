#include "heed/formats/model_config.h"

#include "formats/architectures/decoders.h"
#include "formats/architectures/encoders.h"
#include "heed/formats/atomic_file.h"

namespace heed::formats {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

constexpr size_t kMaxConfigBytes = size_t{16} << 20;

template <class Config>
struct Architecture {
  std::string_view name, model_type;
  void (*read)(ConfigFields&, Config&);
};

constexpr std::array<Architecture<EncoderModelConfig>, 5> kEncoders = {{{"BertModel", "bert", read_bert},
                                                                        {"BertForMaskedLM", "", read_bert},
                                                                        {"BertForPreTraining", "", read_bert},
                                                                        {"RobertaModel", "roberta", read_roberta},
                                                                        {"RobertaForMaskedLM", "", read_roberta}}};

constexpr std::array<Architecture<VisionModelConfig>, 2> kVision = {
    {{"ViTModel", "vit", read_vit}, {"ViTForImageClassification", "", read_vit}}};

constexpr std::array<Architecture<DecoderModelConfig>, 10> kDecoders = {
    {{kPlainDecoder, "llama", read_llama},
     {"MistralForCausalLM", "mistral", read_mistral},
     {"Qwen2ForCausalLM", "qwen2", read_qwen2},
     {"Qwen3ForCausalLM", "qwen3", read_qwen3},
     {"Gemma2ForCausalLM", "gemma2", read_gemma2},
     {"Phi3ForCausalLM", "phi3", read_phi3},
     {"GPT2LMHeadModel", "gpt2", read_gpt2},
     {"GPTNeoXForCausalLM", "gpt_neox", read_gpt_neox},
     {"MambaForCausalLM", "mamba", read_mamba},
     {kHeedDecoder, "heed", read_heed}}};

template <class Table>
auto find_architecture(ConfigFields& fields, const Table& table) {
  std::vector<std::string_view> names;
  for (const auto& row : table) names.push_back(row.name);
  std::string name, type;
  if (const Json* json = fields.find("architectures")) {
    const bool one = json->is_array() && json->size() == 1 && (*json)[0].is_string();
    if (!one) fields.wrong("architectures", *json, fmt::format("[\"{}\"]", fmt::join(names, "\"] or [\"")));
    name = (*json)[0].template get<std::string>();
  }
  fields.text("model_type", type);
  for (const auto& row : table)
    if (row.name == name || (name.empty() && !type.empty() && row.model_type == type)) return row;
  fail("{}: architectures is {}, accepted: {}", fields.source(), quote(name), fmt::join(names, ", "));
}

template <class Config, class Table>
Config parse(const Json& json, std::string_view source, const Table& table) {
  ConfigFields fields(json, source);
  const auto architecture = find_architecture(fields, table);
  Config config;
  config.architecture = architecture.name;
  architecture.read(fields, config);
  finish(fields, config);
  check(config, source);
  return config;
}

OrderedJson rope_json(const RopeScaling& scaling) {
  using enum RopeScaling::Kind;
  OrderedJson json{{"rope_type", name_of(scaling.kind)}, {"factor", scaling.factor}};
  if (scaling.original_max_position_embeddings) {
    json["original_max_position_embeddings"] = *scaling.original_max_position_embeddings;
  }
  if (scaling.kind == yarn) {
    json["beta_fast"] = scaling.beta_fast;
    json["beta_slow"] = scaling.beta_slow;
  }
  if ((scaling.kind == yarn || scaling.kind == longrope) && scaling.attention_factor)
    json["attention_factor"] = *scaling.attention_factor;
  if (scaling.kind == llama3) {
    json["low_freq_factor"] = scaling.low_freq_factor;
    json["high_freq_factor"] = scaling.high_freq_factor;
  }
  if (scaling.kind == longrope) {
    json["short_factor"] = scaling.short_factor;
    json["long_factor"] = scaling.long_factor;
  }
  return json;
}

}  // namespace

bool DecoderModelConfig::is_plain() const {
  auto plain = BlockConfig();
  plain.mlp_bias = block.mlp_bias;
  const AttentionTraits biased{.qkv_bias = attention.qkv_bias, .output_bias = attention.qkv_bias};
  return layers.empty() && block == plain && attention == biased && rotary && !rotary_dim && !rotary_pairs &&
         !learned_positions && embedding_scale == 1 && logit_softcap == 0;
}

DecoderModelConfig parse_decoder_config(const Json& json, std::string_view source) {
  return parse<DecoderModelConfig>(json, source, kDecoders);
}

EncoderModelConfig parse_encoder_config(const Json& json, std::string_view source) {
  return parse<EncoderModelConfig>(json, source, kEncoders);
}

VisionModelConfig parse_vision_config(const Json& json, std::string_view source) {
  return parse<VisionModelConfig>(json, source, kVision);
}

EncoderModelConfig read_encoder_config(const std::filesystem::path& path) {
  return parse_encoder_config(read_json_file(path, kMaxConfigBytes), path.string());
}

VisionModelConfig read_vision_config(const std::filesystem::path& path) {
  return parse_vision_config(read_json_file(path, kMaxConfigBytes), path.string());
}

DecoderModelConfig read_decoder_config(const std::filesystem::path& path) {
  return parse_decoder_config(read_json_file(path, kMaxConfigBytes), path.string());
}

OrderedJson decoder_config_json(const DecoderModelConfig& config) {
  OrderedJson json;
  json["architectures"] = {config.is_plain() ? kPlainDecoder : kHeedDecoder};
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
  json["rms_norm_eps"] = config.norm_eps;
  json["rope_theta"] = config.rope_theta;
  json["rope_scaling"] = config.rope_scaling ? rope_json(*config.rope_scaling) : OrderedJson(nullptr);
  json["tie_word_embeddings"] = config.tie_word_embeddings;
  json["attention_bias"] = config.attention.qkv_bias && config.attention.output_bias;
  json["mlp_bias"] = config.block.mlp_bias;
  json["initializer_range"] = config.initializer_range;
  json["torch_dtype"] = config.torch_dtype;
  if (config.bos_token_id) json["bos_token_id"] = *config.bos_token_id;
  if (config.eos_token_ids.size() == 1) {
    json["eos_token_id"] = config.eos_token_ids[0];
  } else if (!config.eos_token_ids.empty()) {
    json["eos_token_id"] = config.eos_token_ids;
  }
  const auto heed = heed_json(config);
  // What another architecture passed over must not be read now.
  for (const auto& [key, value] : config.extra.items()) {
    const bool read = key == "rope_parameters" || key == "partial_rotary_factor" || key == "dtype" || key == "heed" ||
                      key == "bos_token_id" || key == "eos_token_id" || key == "original_max_position_embeddings";
    if (!read && !json.contains(key)) json[key] = value;
  }
  if (!heed.empty()) json["heed"] = heed;
  return json;
}

void write_decoder_config(const std::filesystem::path& path, const DecoderModelConfig& config) {
  check(config, path.string());
  write_file(path, decoder_config_json(config).dump(2) + "\n");
}

}  // namespace heed::formats
