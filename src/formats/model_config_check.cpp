// The ranges a decoder's configuration must keep, whether it was read or made in memory.
#include <algorithm>
#include <array>
#include <cmath>

#include "formats/config_fields.h"
#include "heed/formats/byte_tokenizer.h"

namespace heed::formats {

void check_whole(std::string_view source, const char* name, int64_t value, int64_t low, int64_t high) {
  require(value >= low && value <= high, "{}: {} is {}, accepted: {} to {}", source, name, value, low, high);
}

void check_real(std::string_view source, const char* name, double value, double low, double high) {
  require(std::isfinite(value) && value >= low && value <= high, "{}: {} is {}, accepted: {} to {}", source, name,
          value, low, high);
}

namespace {

void check_scaling(const DecoderModelConfig& config, std::string_view source) {
  const RopeScaling& scaling = *config.rope_scaling;
  check_real(source, "rope_scaling.factor", scaling.factor, 1, 1e6);
  if (scaling.original_max_position_embeddings) {
    check_whole(source, "rope_scaling.original_max_position_embeddings", *scaling.original_max_position_embeddings, 1,
                kMaxPositions);
  }
  if (scaling.kind == RopeScaling::Kind::llama3) {
    require(scaling.original_max_position_embeddings.has_value(),
            "{}: rope_scaling of type llama3 needs original_max_position_embeddings", source);
    check_real(source, "rope_scaling.low_freq_factor", scaling.low_freq_factor, 1e-6, 1e6);
    check_real(source, "rope_scaling.high_freq_factor", scaling.high_freq_factor, 1e-6, 1e6);
    require(scaling.low_freq_factor < scaling.high_freq_factor,
            "{}: rope_scaling.low_freq_factor is {}, accepted: less than high_freq_factor, {}", source,
            scaling.low_freq_factor, scaling.high_freq_factor);
  }
  if (scaling.kind == RopeScaling::Kind::yarn) {
    check_real(source, "rope_scaling.beta_slow", scaling.beta_slow, 1e-6, 1e6);
    check_real(source, "rope_scaling.beta_fast", scaling.beta_fast, 1e-6, 1e6);
    require(scaling.beta_slow < scaling.beta_fast,
            "{}: rope_scaling.beta_slow is {}, accepted: less than beta_fast, {}", source, scaling.beta_slow,
            scaling.beta_fast);
  }
  if (scaling.attention_factor)
    check_real(source, "rope_scaling.attention_factor", *scaling.attention_factor, 1e-6, 1e6);
  if (scaling.kind == RopeScaling::Kind::longrope) {
    require(scaling.original_max_position_embeddings.has_value(),
            "{}: rope_scaling of type longrope needs original_max_position_embeddings", source);
    check_whole(source, "rope_scaling.original_max_position_embeddings", *scaling.original_max_position_embeddings, 2,
                kMaxPositions);
    const int64_t rotated = config.rotary_dim ? config.rotary_dim : config.head_dim;
    for (const auto* factors : {&scaling.short_factor, &scaling.long_factor}) {
      const char* name = factors == &scaling.short_factor ? "rope_scaling.short_factor" : "rope_scaling.long_factor";
      check_whole(source, fmt::format("number of {}", name).c_str(), static_cast<int64_t>(factors->size()), rotated / 2,
                  rotated / 2);
      for (const double factor : *factors) check_real(source, name, factor, 1e-6, 1e6);
    }
  }
}

}  // namespace

void check_common(const ModelConfig& config, std::string_view source) {
  check_whole(source, "hidden_size", config.hidden_size, 1, kMaxSize);
  check_whole(source, "num_hidden_layers", config.num_hidden_layers, 1, kMaxLayers);
  check_whole(source, "num_attention_heads", config.num_attention_heads, 1, kMaxSize);
  check_whole(source, "num_key_value_heads", config.num_key_value_heads, 1, config.num_attention_heads);
  require(config.num_attention_heads % config.num_key_value_heads == 0,
          "{}: num_key_value_heads is {}, accepted: a divisor of num_attention_heads, {}", source,
          config.num_key_value_heads, config.num_attention_heads);
  check_whole(source, "head_dim", config.head_dim, 1, kMaxSize);
  check_whole(source, "num_attention_heads * head_dim", config.num_attention_heads * config.head_dim, 1, kMaxSize);
  check_whole(source, "intermediate_size", config.intermediate_size, 1, kMaxSize);
  check_real(source, "norm_eps", config.norm_eps, 0, 1);
  check_real(source, "attention scale", config.attention.scale, 0, 1e6);
  check_real(source, "attention softcap", config.attention.softcap, 0, 1e9);
  check_real(source, "initializer_range", config.initializer_range, 0, 10);

  constexpr std::array<std::string_view, 4> kDtypes = {"float32", "float16", "bfloat16", "float64"};
  require(std::find(kDtypes.begin(), kDtypes.end(), config.torch_dtype) != kDtypes.end(),
          "{}: torch_dtype is {}, accepted: float32, float16, bfloat16, float64", source, quote(config.torch_dtype));
  require(config.layers.empty() || static_cast<int64_t>(config.layers.size()) == config.num_hidden_layers,
          "{}: heed.layers has {} entries, accepted: num_hidden_layers, {}", source, config.layers.size(),
          config.num_hidden_layers);
  for (const auto& layer : config.layers) {
    require(!layer.mixer.empty() && layer.config.is_object(),
            "{}: an entry of heed.layers has mixer {} and config {}, accepted: a name and an object", source,
            quote(layer.mixer), layer.config.type_name());
  }
}

void check(const EncoderModelConfig& config, std::string_view source) {
  check_common(config, source);
  check_whole(source, "vocab_size", config.vocab_size, 1, kMaxSize);
  check_whole(source, "max_position_embeddings", config.max_position_embeddings, 1, kMaxSize);
  check_whole(source, "type_vocab_size", config.type_vocab_size, 1, kMaxSize);
  if (config.position_padding_id)
    check_whole(source, "pad_token_id", *config.position_padding_id, 0,
                std::min(config.vocab_size, config.max_position_embeddings - 1) - 1);
}

void check(const VisionModelConfig& config, std::string_view source) {
  check_common(config, source);
  check_whole(source, "num_channels", config.num_channels, 1, kMaxSize);
  check_whole(source, "number of labels", config.num_labels, 0, kMaxSize);
  for (const auto& [size, patch] :
       {std::pair(config.image_height, config.patch_height), std::pair(config.image_width, config.patch_width)}) {
    check_whole(source, "image_size", size, 1, kMaxSize);
    check_whole(source, "patch_size", patch, 1, size);
    require(size % patch == 0, "{}: image_size is {}, accepted: a multiple of patch_size, {}", source, size, patch);
  }
  check_whole(source, "number of patches",
              (config.image_height / config.patch_height) * (config.image_width / config.patch_width), 1, kMaxSize);
}

void check(const DecoderModelConfig& config, std::string_view source) {
  check_common(config, source);
  check_real(source, "block layer_scale", config.block.layer_scale, 0, 1e6);
  require(config.block.norm != NormKind::batch && config.attention.qk_norm != NormKind::batch,
          "{}: a norm is batch, which sees all tokens; accepted of a decoder: rms, rms_plus_one, layer, srms", source);
  check_whole(source, "vocab_size", config.vocab_size, 1, kMaxSize);
  check_whole(source, "max_position_embeddings", config.max_position_embeddings, 1,
              config.learned_positions ? kMaxSize : kMaxPositions);
  require(!config.rotary || config.head_dim % 2 == 0,
          "{}: head_dim is {}, accepted: an even number (rotary positions turn pairs)", source, config.head_dim);
  check_whole(source, "rotary_dim", config.rotary_dim, 0, config.head_dim);
  require(config.rotary_dim % 2 == 0, "{}: rotary_dim is {}, accepted: an even number", source, config.rotary_dim);
  check_real(source, "rope_theta", config.rope_theta, 1e-3, 1e15);
  check_real(source, "embedding_scale", config.embedding_scale, -1e6, 1e6);
  check_real(source, "logit_softcap", config.logit_softcap, 0, 1e9);
  if (config.rope_scaling) check_scaling(config, source);
  // Some published configs give -1 or an id beyond the vocabulary for "none"; the reader drops those, a writer must not
  // make them.
  if (config.bos_token_id) check_whole(source, "bos_token_id", *config.bos_token_id, 0, config.vocab_size - 1);
  for (const int64_t id : config.eos_token_ids) check_whole(source, "eos_token_id", id, 0, config.vocab_size - 1);

  require(config.tokenizer.empty() || config.tokenizer == ByteTokenizer::kName,
          "{}: heed.tokenizer is {}, accepted: 'bytes', or none for a tokenizer.json", source, quote(config.tokenizer));
  require(config.tokenizer.empty() || config.vocab_size >= ByteTokenizer::kVocabulary,
          "{}: vocab_size is {}, accepted with heed.tokenizer 'bytes': at least 256", source, config.vocab_size);
}

}  // namespace heed::formats
