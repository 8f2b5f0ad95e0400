#include <cmath>

#include "formats/architectures/decoders.h"

namespace heed::formats {

void read_gemma2(ConfigFields& fields, DecoderModelConfig& config) {
  config.max_position_embeddings = 8192;
  config.tie_word_embeddings = true;
  read_llama_family(fields, config);
  if (!fields.find("head_dim")) config.head_dim = 256;
  config.block.norm = NormKind::rms_plus_one;
  config.block.placement = NormPlacement::sandwich;
  // hidden_act of the first files says "gelu" and was never followed.
  config.block.activation = Activation::gelu_tanh;
  read_activation(fields, "hidden_activation", config);
  bool biased = false;
  fields.flag("attention_bias", biased);
  config.attention.qkv_bias = config.attention.output_bias = biased;

  double scalar = 256;
  fields.real("query_pre_attn_scalar", scalar);
  require(scalar > 0, "{}: query_pre_attn_scalar is {}, accepted: above 0", fields.source(), scalar);
  config.attention.scale = 1 / std::sqrt(scalar);
  if (!fields.mentions("attn_logit_softcapping")) config.attention.softcap = 50;
  fields.real("attn_logit_softcapping", config.attention.softcap);
  if (!fields.mentions("final_logit_softcapping")) config.logit_softcap = 30;
  fields.real("final_logit_softcapping", config.logit_softcap);
  config.embedding_scale = std::sqrt(static_cast<double>(config.hidden_size));
  read_windows(fields, config, 4096, [](int64_t layer) { return layer % 2 == 0; });
}

}  // namespace heed::formats
