#include "formats/architectures/decoders.h"

namespace heed::formats {

void read_mamba(ConfigFields& fields, DecoderModelConfig& config) {
  config.tie_word_embeddings = true;
  config.norm_eps = 1e-5;
  fields.needed("hidden_size", config.hidden_size);
  fields.needed("num_hidden_layers", config.num_hidden_layers);
  check_whole(fields.source(), "hidden_size", config.hidden_size, 1, kMaxSize);
  check_whole(fields.source(), "num_hidden_layers", config.num_hidden_layers, 1, kMaxLayers);
  read_vocabulary(fields, config);
  fields.real("layer_norm_epsilon", config.norm_eps);
  int64_t states = 16, expand = 2, conv = 4;
  fields.whole("state_size", states);
  fields.whole("expand", expand);
  fields.whole("conv_kernel", conv);
  check_whole(fields.source(), "state_size", states, 1, 1 << 16);
  check_whole(fields.source(), "expand", expand, 1, 64);
  check_whole(fields.source(), "conv_kernel", conv, 1, 64);
  int64_t inner = expand * config.hidden_size;
  fields.whole("intermediate_size", inner);
  require(inner == expand * config.hidden_size, "{}: intermediate_size is {}, accepted: expand * hidden_size, {}",
          fields.source(), inner, expand * config.hidden_size);
  nlohmann::json mixer{{"state_dim", states}, {"expand", expand}, {"conv", conv}};
  if (const auto* rank = fields.find("time_step_rank"); rank && *rank != "auto")
    mixer["step_rank"] = fields.as_whole("time_step_rank", *rank);
  config.layers.assign(static_cast<size_t>(config.num_hidden_layers), {"mamba", mixer});
  fields.only("use_bias", {false});
  fields.only("use_conv_bias", {true});
  fields.only("hidden_act", {"silu"});
  fields.only("rms_norm", {true});
  // There are no heads, nor inner channels of a channel mixer.
  config.num_attention_heads = config.num_key_value_heads = 1;
  config.head_dim = config.hidden_size;
  config.intermediate_size = 1;
  config.block.channel_mixer = "none";
  config.rotary = false;
  read_storage(fields, config);
}

}  // namespace heed::formats
