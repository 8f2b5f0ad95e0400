#include "heed/checkpoint/decoder_checkpoint.h"

#include <fmt/format.h>

#include "checkpoint/architectures/decoders.h"
#include "checkpoint/within_files.h"
#include "heed/checkpoint/tensor_file.h"
#include "heed/error.h"
#include "heed/formats/atomic_file.h"
#include "heed/formats/byte_tokenizer.h"
#include "heed/formats/gguf_config.h"
#include "heed/formats/mapped_file.h"
#include "models/mixer_parameters.h"

namespace heed::checkpoint {
namespace {

constexpr const char* kConfigFile = "config.json";
constexpr const char* kWeightsFile = "model.safetensors";
/// What stands beside configuration and weights.
constexpr const char* kTextFiles[] = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                      "generation_config.json", "chat_template.jinja"};

nn::RopeConfig rope_config(const formats::DecoderModelConfig& config) {
  nn::RopeConfig rope;
  rope.theta = config.rope_theta;
  rope.rotary_dim = config.rotary_dim;
  rope.interleaved = config.rotary_pairs;
  if (!config.rope_scaling) return rope;
  const auto& scaling = *config.rope_scaling;
  rope.scaling = std::string(formats::name_of(scaling.kind));
  rope.factor = scaling.factor;
  rope.original_length = scaling.original_max_position_embeddings.value_or(config.max_position_embeddings);
  rope.low_freq_factor = scaling.low_freq_factor;
  rope.high_freq_factor = scaling.high_freq_factor;
  rope.beta_fast = scaling.beta_fast;
  rope.beta_slow = scaling.beta_slow;
  rope.attention_factor = scaling.attention_factor.value_or(0);
  rope.short_factors = scaling.short_factor;
  rope.long_factors = scaling.long_factor;
  return rope;
}

std::optional<formats::RopeScaling> rope_scaling(const nn::RopeConfig& rope) {
  if (rope.scaling == "none") return std::nullopt;
  formats::RopeScaling scaling;
  using enum formats::RopeScaling::Kind;
  bool found = false;
  for (auto kind : {linear, dynamic, yarn, llama3, longrope})
    if (formats::name_of(kind) == rope.scaling) {
      scaling.kind = kind;
      found = true;
    }
  require(found,
          "rope scaling {} has no name in a Llama config.json: linear, dynamic, yarn, llama3 or longrope is accepted",
          rope.scaling);
  scaling.factor = rope.factor;
  if (rope.original_length) scaling.original_max_position_embeddings = rope.original_length;
  scaling.low_freq_factor = rope.low_freq_factor;
  scaling.high_freq_factor = rope.high_freq_factor;
  scaling.beta_fast = rope.beta_fast;
  scaling.beta_slow = rope.beta_slow;
  if (rope.attention_factor > 0) scaling.attention_factor = rope.attention_factor;
  scaling.short_factor = rope.short_factors;
  scaling.long_factor = rope.long_factors;
  return scaling;
}

std::string dtype_name(torch::ScalarType dtype) {
  switch (dtype) {
    case torch::kBFloat16:
      return "bfloat16";
    case torch::kFloat16:
      return "float16";
    case torch::kFloat32:
      return "float32";
    case torch::kFloat64:
      return "float64";
    default:
      fail("weights of type {}: float32, bfloat16, float16 or float64 is accepted", toString(dtype));
  }
}

/// A lower bound: what token mixers have is not known here, but for attention of the model's own sizes.
double least_parameters(const DecoderConfig& c) {
  const double dim = double(c.dim);
  double count = dim * double(c.vocab_size + c.learned_positions);
  for (const auto& layer : c.layers) {
    count += 2 * dim * double(c.hidden);
    const bool own_sizes =
        layer.config.contains("heads") || layer.config.contains("kv_heads") || layer.config.contains("head_dim");
    if (!own_sizes && (layer.mixer == "dense" || layer.mixer == "sliding_window"))
      count += 2 * dim * double((c.heads + c.kv_heads) * c.head_dim);
  }
  return count;
}

DecoderLm model_from(const formats::DecoderModelConfig& file, const TensorSource& source, torch::ScalarType dtype) {
  const auto config = decoder_config(file);
  expect_parameters(least_parameters(config), source);
  DecoderLm model{nullptr};
  within_files(source, [&] { model = DecoderLm(config, dtype); });
  fill(*model, decoder_layout(file.architecture, config), source);
  return model;
}

}  // namespace

DecoderConfig decoder_config(const formats::DecoderModelConfig& c) {
  DecoderConfig d;
  d.vocab_size = c.vocab_size;
  d.dim = c.hidden_size;
  d.heads = c.num_attention_heads;
  d.kv_heads = c.num_key_value_heads;
  d.head_dim = c.head_dim;
  d.hidden = c.intermediate_size;
  d.max_length = c.max_position_embeddings;
  d.norm_eps = c.norm_eps;
  d.positions.kind = c.rotary ? "rope" : "none";
  d.positions.rope = rope_config(c);
  d.block = c.block;
  d.attention = c.attention;
  d.tie_embeddings = c.tie_word_embeddings;
  d.embedding_scale = c.embedding_scale;
  d.learned_positions = c.learned_positions ? c.max_position_embeddings : 0;
  d.logit_softcap = c.logit_softcap;
  d.layers.resize(size_t(c.num_hidden_layers));
  for (size_t i = 0; i < c.layers.size(); ++i) d.layers[i] = {c.layers[i].mixer, c.layers[i].config};
  return d;
}

formats::DecoderModelConfig model_config(const DecoderConfig& d) {
  formats::DecoderModelConfig c;
  c.vocab_size = d.vocab_size;
  c.hidden_size = d.dim;
  c.num_hidden_layers = int64_t(d.layers.size());
  c.num_attention_heads = d.heads;
  c.num_key_value_heads = d.kv_heads;
  c.head_dim = d.head_dim;
  c.intermediate_size = d.hidden;
  c.max_position_embeddings = d.learned_positions ? d.learned_positions : d.max_length;
  c.norm_eps = d.norm_eps;
  c.block = d.block;
  c.attention = d.attention;
  c.rotary = d.positions.kind == "rope";
  c.rotary_dim = d.positions.rope.rotary_dim;
  c.rotary_pairs = d.positions.rope.interleaved;
  c.learned_positions = d.learned_positions > 0;
  c.embedding_scale = d.embedding_scale;
  c.logit_softcap = d.logit_softcap;
  c.rope_theta = d.positions.rope.theta;
  c.rope_scaling = rope_scaling(d.positions.rope);
  c.tie_word_embeddings = d.tie_embeddings;
  if (!d.is_llama()) {
    for (const auto& layer : d.layers) {
      auto config = layer.config.is_null() ? nlohmann::json::object() : layer.config;
      const bool told = d.positions.kind == "rope" || d.positions.kind == "none" || config.contains("positions");
      if (!told && has_parameter(layer.mixer, "positions")) config["positions"] = d.positions.to_json();
      c.layers.push_back({layer.mixer, config});
    }
  }
  if (d.vocab_size == formats::ByteTokenizer::kVocabulary) {
    c.tokenizer = formats::ByteTokenizer::kName;
    c.bos_token_id = formats::ByteTokenizer::kSeparator;
    c.eos_token_ids = {formats::ByteTokenizer::kSeparator};
  }
  return c;
}

DecoderLm load_decoder(const std::filesystem::path& path, torch::ScalarType dtype) {
  if (std::filesystem::is_regular_file(path)) {
    const auto file = formats::GgufFile::open(path);
    return model_from(formats::gguf_decoder_config(file), *gguf_source(file), dtype);
  }
  const auto config = formats::read_decoder_config(config_path(path));
  return model_from(config, *open_safetensors(path), dtype);
}

namespace {

void save(const std::filesystem::path& directory, DecoderLm& model, formats::DecoderModelConfig config,
          torch::ScalarType dtype) {
  std::filesystem::create_directories(directory);
  config.torch_dtype = dtype_name(dtype);
  const auto layout = llama_layout(model->config());
  TensorMap tensors;
  for (auto& entry : model->named_parameters())
    tensors[file_name(layout, entry.key())] = entry.value().detach().to(dtype);
  // What is learned beside the gradients, as it is.
  for (auto& entry : model->named_buffers()) tensors[file_name(layout, entry.key())] = entry.value();
  save_tensors(directory / kWeightsFile, tensors, {{"format", "pt"}});
  formats::write_decoder_config(directory / kConfigFile, config);
}

}  // namespace

void save_decoder(const std::filesystem::path& directory, DecoderLm& model, torch::ScalarType dtype) {
  save(directory, model, model_config(model->config()), dtype);
}

void save_decoder_like(const std::filesystem::path& directory, DecoderLm& model, const std::filesystem::path& like,
                       torch::ScalarType dtype) {
  require(std::filesystem::is_directory(like), "{}: no directory, whose tokenizer could stand beside the new weights",
          like.string());
  require(!std::filesystem::exists(directory) || !std::filesystem::equivalent(directory, like),
          "{}: is what was read; another folder is accepted", directory.string());
  const auto old = formats::read_decoder_config(config_path(like));
  auto config = model_config(model->config());
  config.bos_token_id = old.bos_token_id;
  config.eos_token_ids = old.eos_token_ids;
  config.tokenizer = old.tokenizer;
  config.initializer_range = old.initializer_range;
  config.extra = old.extra;
  config.heed_extra = old.heed_extra;
  save(directory, model, config, dtype);
  for (const char* name : kTextFiles) {
    if (!std::filesystem::exists(like / name)) continue;
    formats::AtomicFile file(directory / name);
    file.write(formats::MappedFile(like / name).bytes());
    file.commit();
  }
}

}  // namespace heed::checkpoint
