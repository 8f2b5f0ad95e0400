#include "formats/architectures/decoders.h"

namespace heed::formats {

void read_gpt_neox(ConfigFields& fields, DecoderModelConfig& config) {
  config.norm_eps = 1e-5;
  read_even_sizes(fields, config);
  read_vocabulary(fields, config);
  fields.whole("max_position_embeddings", config.max_position_embeddings);
  fields.real("layer_norm_eps", config.norm_eps);
  read_rope(fields, config, "rotary_emb_base", "rotary_pct");
  bool parallel = true, biased = true;
  fields.flag("use_parallel_residual", parallel);
  fields.flag("attention_bias", biased);
  config.block = {NormKind::layer, parallel ? NormPlacement::parallel : NormPlacement::pre, "mlp", Activation::gelu,
                  true};
  read_activation(fields, "hidden_act", config);
  config.attention.qkv_bias = config.attention.output_bias = biased;
  read_storage(fields, config);
}

}  // namespace heed::formats
