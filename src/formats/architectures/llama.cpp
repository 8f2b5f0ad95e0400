#include "formats/architectures/decoders.h"

namespace heed::formats {

void read_llama_family(ConfigFields& fields, DecoderModelConfig& config) {
  read_sizes(fields, config);
  read_vocabulary(fields, config);
  fields.whole("max_position_embeddings", config.max_position_embeddings);
  fields.real("rms_norm_eps", config.norm_eps);
  read_rope(fields, config);
  read_activation(fields, "hidden_act", config);
  read_storage(fields, config);
}

void read_llama(ConfigFields& fields, DecoderModelConfig& config) {
  read_llama_family(fields, config);
  bool biased = false;
  fields.flag("attention_bias", biased);
  config.attention.qkv_bias = config.attention.output_bias = biased;
  fields.flag("mlp_bias", config.block.mlp_bias);
  if (const auto* heed = fields.find("heed")) {
    ConfigFields inner(*heed, fields.source(), "heed.");
    inner.text("tokenizer", config.tokenizer);
    for (const auto key : kHeedKeys)
      require(!inner.find(key), "{}: heed.{} is given, accepted: with {} only", fields.source(), key, kHeedDecoder);
    config.heed_extra = inner.rest();
  }
}

}  // namespace heed::formats
