#include "heed/checkpoint/decoder_checkpoint.h"

#include <fmt/ranges.h>

#include "heed/checkpoint/tensor_file.h"
#include "heed/error.h"
#include "heed/formats/byte_tokenizer.h"

namespace heed::checkpoint {
namespace {

constexpr const char* kConfigFile = "config.json";
constexpr const char* kWeightsFile = "model.safetensors";

nn::RopeConfig rope_config(const formats::LlamaConfig& config) {
  nn::RopeConfig rope;
  rope.theta = config.rope_theta;
  if (!config.rope_scaling) return rope;
  const auto& scaling = *config.rope_scaling;
  rope.scaling = std::string(formats::name_of(scaling.kind));
  rope.factor = scaling.factor;
  rope.original_length = scaling.original_max_position_embeddings.value_or(config.max_position_embeddings);
  rope.low_freq_factor = scaling.low_freq_factor;
  rope.high_freq_factor = scaling.high_freq_factor;
  rope.beta_fast = scaling.beta_fast;
  rope.beta_slow = scaling.beta_slow;
  return rope;
}

std::optional<formats::RopeScaling> rope_scaling(const nn::RopeConfig& rope) {
  if (rope.scaling == "none") return std::nullopt;
  formats::RopeScaling scaling;
  using enum formats::RopeScaling::Kind;
  bool found = false;
  for (auto kind : {linear, dynamic, yarn, llama3})
    if (formats::name_of(kind) == rope.scaling) {
      scaling.kind = kind;
      found = true;
    }
  require(found, "rope scaling {} has no name in a Llama config.json: linear, dynamic, yarn or llama3 is accepted",
          rope.scaling);
  scaling.factor = rope.factor;
  if (rope.original_length) scaling.original_max_position_embeddings = rope.original_length;
  scaling.low_freq_factor = rope.low_freq_factor;
  scaling.high_freq_factor = rope.high_freq_factor;
  scaling.beta_fast = rope.beta_fast;
  scaling.beta_slow = rope.beta_slow;
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

}  // namespace

DecoderConfig decoder_config(const formats::LlamaConfig& c) {
  require(!c.mlp_bias, "mlp_bias = true: false is accepted");
  DecoderConfig d;
  d.vocab_size = c.vocab_size;
  d.dim = c.hidden_size;
  d.heads = c.num_attention_heads;
  d.kv_heads = c.num_key_value_heads;
  d.head_dim = c.head_dim;
  d.hidden = c.intermediate_size;
  d.max_length = c.max_position_embeddings;
  d.norm_eps = c.rms_norm_eps;
  d.positions.kind = "rope";
  d.positions.rope = rope_config(c);
  d.tie_embeddings = c.tie_word_embeddings;
  d.attention_bias = c.attention_bias;
  d.layers.resize(size_t(c.num_hidden_layers));
  for (size_t i = 0; i < c.layers.size(); ++i) d.layers[i] = {c.layers[i].mixer, c.layers[i].config};
  return d;
}

formats::LlamaConfig llama_config(const DecoderConfig& d) {
  formats::LlamaConfig c;
  c.vocab_size = d.vocab_size;
  c.hidden_size = d.dim;
  c.num_hidden_layers = int64_t(d.layers.size());
  c.num_attention_heads = d.heads;
  c.num_key_value_heads = d.kv_heads;
  c.head_dim = d.head_dim;
  c.intermediate_size = d.hidden;
  c.max_position_embeddings = d.max_length;
  c.rms_norm_eps = d.norm_eps;
  c.rope_theta = d.positions.rope.theta;
  c.rope_scaling = rope_scaling(d.positions.rope);
  c.tie_word_embeddings = d.tie_embeddings;
  c.attention_bias = d.attention_bias;
  if (!d.is_llama()) {
    for (const auto& layer : d.layers) {
      auto config = layer.config.is_null() ? nlohmann::json::object() : layer.config;
      if (!config.contains("positions") && d.positions.kind != "rope") config["positions"] = d.positions.to_json();
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

std::string checkpoint_name(const std::string& parameter) {
  if (parameter.starts_with("lm_head.")) return parameter;
  if (!parameter.starts_with("layers_")) return "model." + parameter;
  const auto dot = parameter.find('.');
  auto rest = parameter.substr(dot + 1);
  for (const char* part : {"gate_proj.", "up_proj.", "down_proj."})
    if (rest.starts_with(part)) rest = "mlp." + rest;
  return fmt::format("model.layers.{}.{}", parameter.substr(7, dot - 7), rest);
}

DecoderLm load_decoder(const std::filesystem::path& directory, torch::ScalarType dtype) {
  require(std::filesystem::is_directory(directory), "{}: a directory with {} and {} is accepted", directory.string(),
          kConfigFile, kWeightsFile);
  const auto config = formats::read_model_config(directory / kConfigFile);
  const auto file = formats::SafetensorsCheckpoint::open(directory);
  DecoderLm model(decoder_config(config));
  torch::NoGradGuard no_grad;
  size_t used = 0;
  auto fill = [&](const std::string& parameter, torch::Tensor target) {
    const auto name = checkpoint_name(parameter);
    const auto tensor = read_tensor(file, name);
    require(tensor.sizes() == target.sizes(), "{}: tensor {} has shape [{}]: [{}] fits {}", directory.string(), name,
            fmt::join(tensor.sizes(), ", "), fmt::join(target.sizes(), ", "), kConfigFile);
    target.copy_(tensor);
    ++used;
  };
  for (auto& entry : model->named_parameters()) fill(entry.key(), entry.value());
  if (used < file.tensors().size())
    for (const auto& [name, info] : file.tensors()) {
      const bool tied_head = name == "lm_head.weight" && config.tie_word_embeddings;
      const bool derived = name.ends_with("rotary_emb.inv_freq");
      bool known = tied_head || derived;
      for (auto& entry : model->named_parameters()) known |= checkpoint_name(entry.key()) == name;
      require(known, "{}: tensor {} belongs to no part of the model that {} describes", directory.string(), name,
              kConfigFile);
    }
  model->to(dtype);
  return model;
}

void save_decoder(const std::filesystem::path& directory, DecoderLm& model, torch::ScalarType dtype) {
  std::filesystem::create_directories(directory);
  auto config = llama_config(model->config());
  config.torch_dtype = dtype_name(dtype);
  TensorMap tensors;
  for (auto& entry : model->named_parameters())
    tensors[checkpoint_name(entry.key())] = entry.value().detach().to(dtype);
  save_tensors(directory / kWeightsFile, tensors, {{"format", "pt"}});
  formats::write_model_config(directory / kConfigFile, config);
}

}  // namespace heed::checkpoint
