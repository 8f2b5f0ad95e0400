#include "formats/architectures/decoders.h"

namespace heed::formats {

void read_gpt2(ConfigFields& fields, DecoderModelConfig& config) {
  config.max_position_embeddings = 1024;
  config.tie_word_embeddings = true;
  config.norm_eps = 1e-5;
  fields.needed("n_embd", config.hidden_size);
  fields.needed("n_layer", config.num_hidden_layers);
  fields.needed("n_head", config.num_attention_heads);
  read_even_heads(fields, config);
  check_whole(fields.source(), "n_embd", config.hidden_size, 1, kMaxSize);
  config.intermediate_size = 4 * config.hidden_size;
  fields.whole("n_inner", config.intermediate_size);
  read_vocabulary(fields, config);
  fields.whole("n_positions", config.max_position_embeddings);
  fields.real("layer_norm_epsilon", config.norm_eps);
  config.block = named_block("gpt2");
  read_activation(fields, "activation_function", config);
  config.attention.qkv_bias = config.attention.output_bias = true;
  bool scaled = true;
  fields.flag("scale_attn_weights", scaled);
  if (!scaled) config.attention.scale = 1;
  fields.only("scale_attn_by_inverse_layer_idx", {false});
  config.rotary = false;
  config.learned_positions = true;
  read_storage(fields, config);
}

}  // namespace heed::formats
