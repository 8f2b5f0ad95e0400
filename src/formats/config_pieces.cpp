// The pieces of config.json that several architectures share.
#include <algorithm>

#include "formats/config_fields.h"

namespace heed::formats {
namespace {

using Json = nlohmann::json;

constexpr std::array<std::string_view, 5> kScalingNames = {"linear", "dynamic", "yarn", "llama3", "longrope"};

// Where rotary embeddings of transformers 4 (rope_scaling) and 5 (rope_parameters) say how they are stretched.
void read_scaling(ConfigFields& fields, std::optional<int64_t> trained, DecoderModelConfig& config) {
  std::string kind = "default";
  fields.text("type", kind);
  fields.text("rope_type", kind);
  if (kind == "su") kind = "longrope";  // the name in early Phi-3 files
  if (kind == "default") return;
  const auto found = std::find(kScalingNames.begin(), kScalingNames.end(), kind);
  require(found != kScalingNames.end(),
          "{}: rope_scaling has type {}, accepted: default, linear, dynamic, yarn, llama3, longrope", fields.source(),
          quote(kind));
  RopeScaling scaling;
  scaling.kind = static_cast<RopeScaling::Kind>(found - kScalingNames.begin());
  const bool longrope = scaling.kind == RopeScaling::Kind::longrope;
  require(fields.find("factor") || longrope, "{}: rope_scaling of type {} has no factor", fields.source(), kind);
  fields.whole("original_max_position_embeddings", scaling.original_max_position_embeddings);
  if (trained) scaling.original_max_position_embeddings = trained;
  if (longrope && scaling.original_max_position_embeddings && *scaling.original_max_position_embeddings > 0 &&
      !fields.find("factor")) {
    scaling.factor = std::max(1.0, static_cast<double>(config.max_position_embeddings) /
                                       static_cast<double>(*scaling.original_max_position_embeddings));
  }
  fields.real("factor", scaling.factor);
  fields.real("attention_factor", scaling.attention_factor);
  fields.real("beta_fast", scaling.beta_fast);
  fields.real("beta_slow", scaling.beta_slow);
  fields.real("low_freq_factor", scaling.low_freq_factor);
  fields.real("high_freq_factor", scaling.high_freq_factor);
  fields.reals("short_factor", scaling.short_factor);
  fields.reals("long_factor", scaling.long_factor);
  // A key that is passed over here would change the frequencies, hence every answer.
  const Json rest = fields.rest();
  require(rest.empty(), "{}: rope_scaling has a field {}, which heed does not know", fields.source(),
          quote(rest.empty() ? "" : rest.begin().key()));
  config.rope_scaling = scaling;
}

}  // namespace

std::string_view name_of(RopeScaling::Kind kind) { return kScalingNames[static_cast<size_t>(kind)]; }

void read_sizes(ConfigFields& fields, ModelConfig& config) {
  fields.needed("hidden_size", config.hidden_size);
  fields.needed("num_hidden_layers", config.num_hidden_layers);
  fields.needed("num_attention_heads", config.num_attention_heads);
  fields.needed("intermediate_size", config.intermediate_size);
  read_heads(fields, config);
}

void read_heads(ConfigFields& fields, ModelConfig& config) {
  config.num_key_value_heads = config.num_attention_heads;
  fields.whole("num_key_value_heads", config.num_key_value_heads);
  if (!fields.find("head_dim")) {
    require(config.num_attention_heads > 0 && config.hidden_size % config.num_attention_heads == 0,
            "{}: hidden_size is {}, accepted without head_dim: a multiple of num_attention_heads, {}", fields.source(),
            config.hidden_size, config.num_attention_heads);
    config.head_dim = config.hidden_size / config.num_attention_heads;
  }
  fields.whole("head_dim", config.head_dim);
}

void read_even_heads(ConfigFields& fields, ModelConfig& config) {
  require(config.num_attention_heads > 0 && config.hidden_size % config.num_attention_heads == 0,
          "{}: hidden_size is {}, accepted: a multiple of the number of heads, {}", fields.source(), config.hidden_size,
          config.num_attention_heads);
  config.num_key_value_heads = config.num_attention_heads;
  config.head_dim = config.hidden_size / config.num_attention_heads;
}

void read_even_sizes(ConfigFields& fields, ModelConfig& config) {
  fields.needed("hidden_size", config.hidden_size);
  fields.needed("num_hidden_layers", config.num_hidden_layers);
  fields.needed("num_attention_heads", config.num_attention_heads);
  fields.needed("intermediate_size", config.intermediate_size);
  read_even_heads(fields, config);
}

void read_storage(ConfigFields& fields, ModelConfig& config) {
  fields.real("initializer_range", config.initializer_range);
  fields.text("dtype", config.torch_dtype);
  fields.text("torch_dtype", config.torch_dtype);
}

void read_vocabulary(ConfigFields& fields, DecoderModelConfig& config) {
  fields.needed("vocab_size", config.vocab_size);
  fields.flag("tie_word_embeddings", config.tie_word_embeddings);
  // Some published files give -1 or an id beyond the vocabulary for "none".
  const auto in_vocabulary = [&](int64_t id) { return id >= 0 && id < config.vocab_size; };
  fields.whole("bos_token_id", config.bos_token_id);
  if (config.bos_token_id && !in_vocabulary(*config.bos_token_id)) config.bos_token_id.reset();
  if (const Json* json = fields.find("eos_token_id")) {
    for (const Json& item : json->is_array() ? *json : Json::array({*json})) {
      const int64_t id = fields.as_whole("eos_token_id", item);
      if (in_vocabulary(id)) config.eos_token_ids.push_back(id);
    }
  }
}

void read_activation(ConfigFields& fields, std::string_view key, ModelConfig& config) {
  using enum Activation;
  constexpr std::array<std::pair<std::string_view, Activation>, 7> kNames = {{{"silu", silu},
                                                                              {"swish", silu},
                                                                              {"gelu", gelu},
                                                                              {"gelu_new", gelu_tanh},
                                                                              {"gelu_pytorch_tanh", gelu_tanh},
                                                                              {"gelu_fast", gelu_tanh},
                                                                              {"relu", relu}}};
  const Json* json = fields.find(key);
  if (!json) return;
  const auto found =
      std::find_if(kNames.begin(), kNames.end(), [&](const auto& entry) { return *json == entry.first; });
  if (found == kNames.end())
    fields.wrong(key, *json, "silu, swish, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu");
  config.block.activation = found->second;
}

void read_rope(ConfigFields& fields, DecoderModelConfig& config, std::string_view theta_key,
               std::string_view share_key) {
  double share = 1;
  if (share_key == "rotary_pct") share = 0.25;
  fields.real(theta_key, config.rope_theta);
  fields.real(share_key, share);
  std::optional<int64_t> trained;
  fields.whole("original_max_position_embeddings", trained);
  const Json* newer = fields.find("rope_parameters");
  const Json* json = fields.find("rope_scaling");
  if (!json) json = newer;
  if (json) {
    ConfigFields inner(*json, fields.source(), json == newer ? "rope_parameters." : "rope_scaling.");
    inner.real("rope_theta", config.rope_theta);
    inner.real("partial_rotary_factor", share);
    read_scaling(inner, trained, config);
  }
  if (share == 1) return;
  require(share > 0 && share < 1, "{}: {} is {}, accepted: above 0, at most 1", fields.source(), share_key, share);
  config.rotary_dim = static_cast<int64_t>(static_cast<double>(config.head_dim) * share);
  require(config.rotary_dim > 0 && config.rotary_dim % 2 == 0,
          "{}: {} is {}, of a head_dim of {}: an even number of rotated dimensions is accepted, not {}",
          fields.source(), share_key, share, config.head_dim, config.rotary_dim);
}

void read_windows(ConfigFields& fields, ModelConfig& config, std::optional<int64_t> window,
                  const std::function<bool(int64_t)>& windowed) {
  if (fields.mentions("sliding_window")) window.reset();
  fields.whole("sliding_window", window);
  const Json* types = fields.find("layer_types");
  if (types && (!types->is_array() || static_cast<int64_t>(types->size()) != config.num_hidden_layers))
    fields.wrong("layer_types", *types, "a list with one entry a layer");
  require(config.num_hidden_layers <= 1 << 14, "{}: num_hidden_layers is {}, accepted: 1 to {}", fields.source(),
          config.num_hidden_layers, 1 << 14);
  std::vector<LayerConfig> layers;
  bool any = false;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    bool narrow = window && windowed(i);
    if (types) {
      const Json& type = (*types)[static_cast<size_t>(i)];
      if (type != "sliding_attention" && type != "full_attention")
        fields.wrong("layer_types", type, "sliding_attention or full_attention");
      narrow = type == "sliding_attention";
      require(!narrow || window, "{}: layer_types has sliding_attention, which needs sliding_window", fields.source());
    }
    any |= narrow;
    layers.push_back(narrow ? LayerConfig{"sliding_window", {{"window", *window}, {"sinks", 0}}}
                            : LayerConfig{"dense", Json::object()});
  }
  if (!any) return;
  require(*window >= 1, "{}: sliding_window is {}, accepted: at least 1", fields.source(), *window);
  config.layers = std::move(layers);
}

}  // namespace heed::formats
