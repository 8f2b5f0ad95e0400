// Any text is a configuration that survives writing and reading, or one heed::Error, whatever the architecture.
#include <array>
#include <cstdlib>
#include <string>

#include "edits.h"
#include "heed/error.h"
#include "heed/formats/json_file.h"
#include "heed/formats/model_config.h"

namespace {

// One of each kind, and what several architectures add.
constexpr std::array<std::string_view, 6> kGood = {
    R"({"architectures":["LlamaForCausalLM"],"hidden_size":32,"intermediate_size":48,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":99,"max_position_embeddings":64,"rms_norm_eps":1e-5,"rope_theta":10000.0,"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":32},"hidden_act":"silu","tie_word_embeddings":true,"bos_token_id":1,"eos_token_id":[2,3],"torch_dtype":"bfloat16"})",
    R"({"architectures":["HeedForCausalLM"],"hidden_size":32,"intermediate_size":48,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":8,"vocab_size":257,"max_position_embeddings":64,"rms_norm_eps":1e-6,"heed":{"tokenizer":"bytes","layers":[{"mixer":"dense","config":{"heads":4}},{"mixer":"sliding_window","config":{"window":7}}]}})",
    R"({"architectures":["Gemma2ForCausalLM"],"hidden_size":32,"intermediate_size":48,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":8,"vocab_size":99,"max_position_embeddings":64,"rms_norm_eps":1e-6,"hidden_activation":"gelu_pytorch_tanh","attn_logit_softcapping":50.0,"final_logit_softcapping":30.0,"query_pre_attn_scalar":8,"sliding_window":16,"layer_types":["sliding_attention","full_attention"]})",
    R"({"architectures":["GPT2LMHeadModel"],"n_embd":32,"n_layer":2,"n_head":4,"n_positions":64,"vocab_size":99,"layer_norm_epsilon":1e-5,"activation_function":"gelu_new"})",
    R"({"architectures":["BertModel"],"hidden_size":32,"intermediate_size":48,"num_hidden_layers":2,"num_attention_heads":4,"vocab_size":99,"max_position_embeddings":64,"type_vocab_size":2,"layer_norm_eps":1e-12,"hidden_act":"gelu","pad_token_id":0})",
    R"({"architectures":["ViTForImageClassification"],"hidden_size":32,"intermediate_size":48,"num_hidden_layers":2,"num_attention_heads":4,"image_size":32,"patch_size":[8,8],"num_channels":3,"layer_norm_eps":1e-12,"hidden_act":"gelu","qkv_bias":true,"id2label":{"0":"a","1":"b"}})"};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace heed::formats;
  if (size == 0) return 0;
  std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (const size_t which = data[0] % 8; which < kGood.size())
    text = heed::fuzz::edited(kGood[which], data + 1, size - 1);
  nlohmann::json json;
  try {
    json = parse_json(text, "fuzz");
  } catch (const heed::Error&) {
    return 0;
  }
  const auto read = [&](auto parse) {
    try {
      return std::optional(parse(json, "fuzz"));
    } catch (const heed::Error&) {
      return decltype(std::optional(parse(json, "fuzz")))();
    }
  };
  read(parse_encoder_config);
  read(parse_vision_config);
  const auto config = read(parse_decoder_config);
  if (!config) return 0;
  const std::string once = decoder_config_json(*config).dump();
  if (decoder_config_json(parse_decoder_config(parse_json(once, "again"), "again")).dump() != once) std::abort();
  return 0;
}
