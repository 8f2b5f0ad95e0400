#include "formats/architectures/encoders.h"

namespace heed::formats {

void read_bert(ConfigFields& fields, EncoderModelConfig& config) {
  config.norm_eps = 1e-12;
  read_even_sizes(fields, config);
  fields.needed("vocab_size", config.vocab_size);
  fields.whole("max_position_embeddings", config.max_position_embeddings);
  fields.whole("type_vocab_size", config.type_vocab_size);
  fields.real("layer_norm_eps", config.norm_eps);
  config.block = {NormKind::layer, NormPlacement::post, "mlp", Activation::gelu, true};
  read_activation(fields, "hidden_act", config);
  config.mlm_activation = config.block.activation;
  config.attention.qkv_bias = config.attention.output_bias = true;
  fields.flag("tie_word_embeddings", config.tie_word_embeddings);
  fields.only("is_decoder", {false});
  read_storage(fields, config);
  config.mlm_head = config.architecture.ends_with("ForMaskedLM") || config.architecture.ends_with("ForPreTraining");
  config.pooler = config.architecture.ends_with("ForPreTraining");
}

void read_roberta(ConfigFields& fields, EncoderModelConfig& config) {
  read_bert(fields, config);
  config.position_padding_id = 1;
  fields.whole("pad_token_id", config.position_padding_id);
  config.mlm_activation = Activation::gelu;
}

}  // namespace heed::formats
