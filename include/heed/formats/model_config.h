// config.json of a model: Hugging Face's, of the architectures that heed knows, and heed's extension that names the
// parts of a decoder. Every architecture is read into the same plain data, from which any of them can be built.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "heed/formats/block_config.h"

namespace heed::formats {

/// How rotary frequencies are changed to reach beyond the trained length; `rope_scaling` in config.json.
struct RopeScaling {
  enum class Kind { linear, dynamic, yarn, llama3, longrope };
  Kind kind = Kind::linear;
  double factor = 1;  ///< at least 1
  /// Trained length; absent: max_position_embeddings. Required by llama3 and longrope.
  std::optional<int64_t> original_max_position_embeddings;
  /// cos and sin are multiplied by it: yarn, absent: 0.1 ln(factor) + 1; longrope, absent: sqrt(1 + ln f / ln L0).
  std::optional<double> attention_factor;
  double beta_fast = 32, beta_slow = 1;              ///< yarn: rotations within the trained length
  double low_freq_factor = 1, high_freq_factor = 4;  ///< llama3; the first is the smaller one
  std::vector<double> short_factor, long_factor;     ///< longrope: divisors of the frequencies, one each
};

std::string_view name_of(RopeScaling::Kind kind);

/// What models of every kind have.
struct ModelConfig {
  std::string architecture;  ///< name in the file: LlamaForCausalLM, ...; it decides the names of the tensors
  int64_t hidden_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;  ///< divides num_attention_heads; absent in a file: as many
  int64_t head_dim = 0;             ///< absent in a file: hidden_size / num_attention_heads
  int64_t intermediate_size = 0;
  double norm_eps = 1e-6;
  BlockConfig block;
  AttentionTraits attention;
  /// Empty: every layer is plain dense attention; otherwise one entry a layer.
  std::vector<LayerConfig> layers;
  double initializer_range = 0.02;
  std::string torch_dtype = "float32";  ///< float32, float16, bfloat16 or float64
  /// Keys without influence on the numbers, written back unchanged.
  nlohmann::json extra = nlohmann::json::object();
};

/// A decoder language model.
struct DecoderModelConfig : ModelConfig {
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 2048;
  bool rotary = true;         ///< q and k are rotated
  int64_t rotary_dim = 0;     ///< leading dimensions of a head that are; even; 0: all
  bool rotary_pairs = false;  ///< neighbours (2j, 2j + 1) turn together, instead of (j, j + d/2)
  double rope_theta = 10000;
  std::optional<RopeScaling> rope_scaling;
  bool learned_positions = false;  ///< a table of max_position_embeddings rows is added to the embeddings
  double embedding_scale = 1;
  double logit_softcap = 0;  ///< c > 0: logits become c tanh(s / c)
  bool tie_word_embeddings = false;
  std::optional<int64_t> bos_token_id;
  std::vector<int64_t> eos_token_ids;  ///< a file gives one id or a list
  /// `heed.tokenizer`: "bytes" (byte_tokenizer.h), or empty: the tokenizer.json beside the config.
  std::string tokenizer;
  /// Keys inside "heed" that heed does not know, written back unchanged.
  nlohmann::json heed_extra = nlohmann::json::object();

  /// Written as Hugging Face's LlamaForCausalLM; anything else is written as HeedForCausalLM.
  bool is_plain() const;
};

/// A bidirectional encoder of text.
struct EncoderModelConfig : ModelConfig {
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 512;  ///< rows of the table of positions
  int64_t type_vocab_size = 2;
  /// Positions count the tokens that are not this one, from its id + 1 (RoBERTa); absent: they count all, from 0.
  std::optional<int64_t> position_padding_id;
  bool tie_word_embeddings = true;
  bool pooler = false;                           ///< the architecture has a pooled output
  bool mlm_head = false;                         ///< it predicts masked tokens
  Activation mlm_activation = Activation::gelu;  ///< inside that head
};

/// A vision transformer over patches of an image.
struct VisionModelConfig : ModelConfig {
  int64_t image_height = 224, image_width = 224;  ///< pixels
  int64_t patch_height = 16, patch_width = 16;    ///< they divide the image
  int64_t num_channels = 3;
  bool pooler = false;     ///< the architecture has a pooled output
  int64_t num_labels = 0;  ///< classes of its classifier; 0: none
};

/// Throws heed::Error, beginning with `source`, unless every value of `config` is in its range and they fit together.
void check(const EncoderModelConfig& config, std::string_view source = "model configuration");
void check(const VisionModelConfig& config, std::string_view source = "model configuration");
void check(const DecoderModelConfig& config, std::string_view source = "model configuration");

/// Reads a configuration. `source` begins the message of a heed::Error: a value out of its range, an architecture that
/// is of another kind or unknown, a key that would change the answers and that heed does not follow.
DecoderModelConfig parse_decoder_config(const nlohmann::json& json, std::string_view source);
DecoderModelConfig read_decoder_config(const std::filesystem::path& path);
EncoderModelConfig parse_encoder_config(const nlohmann::json& json, std::string_view source);
EncoderModelConfig read_encoder_config(const std::filesystem::path& path);
VisionModelConfig parse_vision_config(const nlohmann::json& json, std::string_view source);
VisionModelConfig read_vision_config(const std::filesystem::path& path);

/// The JSON that `parse_decoder_config` reads back to the same; a plain model's is what transformers reads as Llama.
nlohmann::ordered_json decoder_config_json(const DecoderModelConfig& config);
/// Checks, then writes beside and renames.
void write_decoder_config(const std::filesystem::path& path, const DecoderModelConfig& config);

}  // namespace heed::formats
