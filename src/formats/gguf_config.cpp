#include "heed/formats/gguf_config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "heed/error.h"
#include "heed/formats/json_file.h"

namespace heed::formats {
namespace {

constexpr std::array<std::string_view, 3> kArchitectures = {"llama", "qwen2", "qwen3"};

/// Keys behind the architecture's name that would change what a layer computes.
constexpr std::array<std::string_view, 12> kNotFollowed = {"attention.clamp_kqv",
                                                           "attention.max_alibi_bias",
                                                           "attention.scale",
                                                           "attn_logit_softcapping",
                                                           "embedding_scale",
                                                           "expert_count",
                                                           "final_logit_softcapping",
                                                           "logit_scale",
                                                           "residual_scale",
                                                           "rope.scaling.yarn_ext_factor",
                                                           "rope.scaling.yarn_log_multiplier",
                                                           "use_parallel_residual"};

class Metadata {
 public:
  Metadata(const GgufFile& file, const std::string& architecture) : file_(file), prefix_(architecture + ".") {}

  std::string source() const { return file_.path().string(); }
  bool holds(std::string_view tensor) const { return file_.tensors().contains(tensor); }
  std::string key(std::string_view name) const { return prefix_ + std::string(name); }
  int64_t needed(std::string_view name) const {
    const auto value = file_.whole(key(name));
    require(value.has_value(), "{}: {} is missing", source(), key(name));
    return *value;
  }
  auto whole(std::string_view name) const { return file_.whole(key(name)); }
  auto real(std::string_view name) const { return file_.real(key(name)); }
  auto text(std::string_view name) const { return file_.text(key(name)); }

  void refuse_what_is_not_followed() const {
    for (const auto name : kNotFollowed) {
      const auto* value = file_.find(key(name));
      const bool neutral = !value || *value == 0 || *value == false;
      require(neutral, "{}: {} is {}, which heed does not follow", source(), key(name),
              neutral ? "" : quote_value(*value));
    }
    const auto causal = file_.flag(key("attention.causal"));
    require(causal.value_or(true), "{}: {} is false, accepted: true", source(), key("attention.causal"));
  }

 private:
  const GgufFile& file_;
  std::string prefix_;
};

void read_sizes(const Metadata& data, DecoderModelConfig& config) {
  config.hidden_size = data.needed("embedding_length");
  config.num_hidden_layers = data.needed("block_count");
  config.num_attention_heads = data.needed("attention.head_count");
  config.num_key_value_heads = data.whole("attention.head_count_kv").value_or(config.num_attention_heads);
  config.intermediate_size = data.needed("feed_forward_length");
  config.max_position_embeddings = data.needed("context_length");
  require(config.num_attention_heads > 0, "{}: {} is {}, accepted: at least 1", data.source(),
          data.key("attention.head_count"), config.num_attention_heads);
  config.head_dim = data.whole("attention.key_length").value_or(config.hidden_size / config.num_attention_heads);
  const auto value_length = data.whole("attention.value_length").value_or(config.head_dim);
  require(value_length == config.head_dim, "{}: {} is {}, accepted: that of keys, {}", data.source(),
          data.key("attention.value_length"), value_length, config.head_dim);
  const auto eps = data.real("attention.layer_norm_rms_epsilon");
  require(eps.has_value(), "{}: {} is missing", data.source(), data.key("attention.layer_norm_rms_epsilon"));
  // The file holds a float; what was meant is the shortest number that rounds to it.
  config.norm_eps = std::stod(fmt::format("{}", static_cast<float>(*eps)));
}

void read_scaling(const Metadata& data, DecoderModelConfig& config) {
  const auto type = data.text("rope.scaling.type").value_or("none");
  if (type == "none") return;
  require(type == "linear" || type == "yarn", "{}: {} is {}, accepted: none, linear, yarn", data.source(),
          data.key("rope.scaling.type"), quote(type));
  RopeScaling scaling;
  scaling.kind = type == "yarn" ? RopeScaling::Kind::yarn : RopeScaling::Kind::linear;
  scaling.factor = data.real("rope.scaling.factor").value_or(1);
  scaling.original_max_position_embeddings = data.whole("rope.scaling.original_context_length");
  scaling.beta_fast = data.real("rope.scaling.yarn_beta_fast").value_or(scaling.beta_fast);
  scaling.beta_slow = data.real("rope.scaling.yarn_beta_slow").value_or(scaling.beta_slow);
  // llama.cpp multiplies its own formula by it.
  for (const char* name : {"rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"})
    if (const auto extra = data.real(name); extra && scaling.factor > 0)
      scaling.attention_factor = *extra * (0.1 * std::log(scaling.factor) + 1);
  config.rope_scaling = scaling;
}

/// Llama 3's scaling comes as one divisor a frequency.
void read_frequency_factors(const GgufFile& file, const Metadata& data, DecoderModelConfig& config) {
  const char* name = "rope_freqs.weight";
  if (!data.holds(name)) return;
  const int64_t frequencies = (config.rotary_dim ? config.rotary_dim : config.head_dim) / 2;
  const auto count = file.info(name).elements;
  require(count == frequencies, "{}: tensor {} has {} numbers, accepted: one a frequency, {}", data.source(), name,
          count, frequencies);
  require(!config.rope_scaling, "{}: {} is given beside tensor {}, accepted: one of the two", data.source(),
          data.key("rope.scaling.type"), name);
  std::vector<float> factors(static_cast<size_t>(count));
  file.dequantize(name, factors);
  RopeScaling scaling;
  scaling.kind = RopeScaling::Kind::longrope;
  scaling.original_max_position_embeddings = std::max<int64_t>(config.max_position_embeddings, 2);
  scaling.attention_factor = 1;
  scaling.short_factor.assign(factors.begin(), factors.end());
  scaling.long_factor = scaling.short_factor;
  config.rope_scaling = scaling;
}

}  // namespace

DecoderModelConfig gguf_decoder_config(const GgufFile& file) {
  const auto source = file.path().string();
  DecoderModelConfig config;
  config.architecture = file.text("general.architecture").value_or("");
  require(std::find(kArchitectures.begin(), kArchitectures.end(), config.architecture) != kArchitectures.end(),
          "{}: general.architecture is {}, accepted: {}", source, quote(config.architecture),
          fmt::join(kArchitectures, ", "));
  const Metadata data(file, config.architecture);
  data.refuse_what_is_not_followed();
  read_sizes(data, config);
  const auto& embeddings = file.info("token_embd.weight");
  require(embeddings.shape.size() == 2, "{}: tensor token_embd.weight has {} dimensions, accepted: 2", source,
          embeddings.shape.size());
  config.vocab_size = embeddings.shape[0];
  config.tie_word_embeddings = !data.holds("output.weight");
  config.attention.qkv_bias = data.holds("blk.0.attn_q.bias");
  config.attention.output_bias = data.holds("blk.0.attn_output.bias");
  config.block.mlp_bias = data.holds("blk.0.ffn_down.bias");
  if (data.holds("blk.0.attn_q_norm.weight")) config.attention.qk_norm = NormKind::rms;

  config.rope_theta = data.real("rope.freq_base").value_or(config.rope_theta);
  const auto rotated = data.whole("rope.dimension_count").value_or(config.head_dim);
  if (rotated != config.head_dim) config.rotary_dim = rotated;
  require(rotated == config.head_dim || config.architecture != "llama", "{}: {} is {}, accepted: all of a head, {}",
          source, data.key("rope.dimension_count"), rotated, config.head_dim);
  read_scaling(data, config);
  read_frequency_factors(file, data, config);
  if (const auto window = data.whole("attention.sliding_window"); window && *window > 0) {
    require(config.num_hidden_layers > 0 && config.num_hidden_layers <= 1 << 14, "{}: {} is {}, accepted: 1 to {}",
            source, data.key("block_count"), config.num_hidden_layers, 1 << 14);
    config.layers.assign(static_cast<size_t>(config.num_hidden_layers),
                         {"sliding_window", {{"window", *window}, {"sinks", 0}}});
  }

  const auto in_vocabulary = [&](std::optional<int64_t> id) { return id && *id >= 0 && *id < config.vocab_size; };
  const auto bos = file.whole("tokenizer.ggml.bos_token_id");
  if (in_vocabulary(bos)) config.bos_token_id = bos;
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    const auto id = file.whole(key);
    auto& known = config.eos_token_ids;
    if (in_vocabulary(id) && std::find(known.begin(), known.end(), *id) == known.end()) known.push_back(*id);
  }
  check(config, source);
  return config;
}

}  // namespace heed::formats
