// config.json of a decoder language model: Hugging Face's Llama, and heed's extension that names a mixer per layer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace heed::formats {

/// How rotary frequencies are changed to reach beyond the trained length; `rope_scaling` in config.json.
struct RopeScaling {
  enum class Kind { linear, dynamic, yarn, llama3 };
  Kind kind = Kind::linear;
  double factor = 1;  ///< at least 1
  /// Trained length; absent: max_position_embeddings. Required by llama3.
  std::optional<int64_t> original_max_position_embeddings;
  std::optional<double> attention_factor;            ///< yarn; absent: 0.1 ln(factor) + 1
  double beta_fast = 32, beta_slow = 1;              ///< yarn: rotations within the trained length
  double low_freq_factor = 1, high_freq_factor = 4;  ///< llama3; the first is the smaller one
};

std::string_view name_of(RopeScaling::Kind kind);

/// What mixes the tokens of one layer: a name of heed's registry and its parameters.
struct LayerConfig {
  std::string mixer;
  nlohmann::json config = nlohmann::json::object();
};

/// A decoder with RMSNorm, gated SiLU and rotary positions, as Hugging Face's LlamaForCausalLM.
struct LlamaConfig {
  int64_t hidden_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;  ///< divides num_attention_heads; absent in a file: as many
  int64_t head_dim = 0;             ///< even; absent in a file: hidden_size / num_attention_heads
  int64_t intermediate_size = 0;
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 2048;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000;
  std::optional<RopeScaling> rope_scaling;
  bool tie_word_embeddings = false;
  bool attention_bias = false;
  bool mlp_bias = false;
  double initializer_range = 0.02;
  std::string torch_dtype = "float32";  ///< float32, float16, bfloat16 or float64
  std::optional<int64_t> bos_token_id;
  std::vector<int64_t> eos_token_ids;  ///< a file gives one id or a list

  /// Empty for a plain Llama; otherwise one entry a layer, and the architecture is HeedForCausalLM.
  std::vector<LayerConfig> layers;
  /// `heed.tokenizer`: "bytes" (byte_tokenizer.h), or empty: the tokenizer.json beside the config.
  std::string tokenizer;
  /// Keys that heed does not know, written back unchanged; inside "heed" likewise.
  nlohmann::json extra = nlohmann::json::object();
  nlohmann::json heed_extra = nlohmann::json::object();

  bool is_plain() const { return layers.empty(); }
};

/// Throws heed::Error, beginning with `source`, unless every value of `config` is in its range and they fit together.
void check(const LlamaConfig& config, std::string_view source = "model configuration");

/// Reads a configuration. `source` begins the message of a heed::Error.
LlamaConfig parse_model_config(const nlohmann::json& json, std::string_view source);
LlamaConfig read_model_config(const std::filesystem::path& path);

/// The JSON that `parse_model_config` reads back to the same; a plain model's is what transformers reads as Llama.
nlohmann::ordered_json model_config_json(const LlamaConfig& config);
/// Checks, then writes beside and renames.
void write_model_config(const std::filesystem::path& path, const LlamaConfig& config);

}  // namespace heed::formats
