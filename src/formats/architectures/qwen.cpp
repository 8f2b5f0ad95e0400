// Qwen2 has biases on q, k and v; Qwen3 has none and normalises q and k.
#include "formats/architectures/decoders.h"

namespace heed::formats {
namespace {

void read_qwen(ConfigFields& fields, DecoderModelConfig& config) {
  config.max_position_embeddings = 32768;
  read_llama_family(fields, config);
  bool windows = false;
  int64_t full_layers = 28;
  fields.flag("use_sliding_window", windows);
  fields.whole("max_window_layers", full_layers);
  // Without use_sliding_window the file's window means nothing.
  read_windows(fields, config, 4096, [&](int64_t layer) { return windows && layer >= full_layers; });
}

}  // namespace

void read_qwen2(ConfigFields& fields, DecoderModelConfig& config) {
  read_qwen(fields, config);
  config.attention.qkv_bias = true;
}

void read_qwen3(ConfigFields& fields, DecoderModelConfig& config) {
  read_qwen(fields, config);
  if (!fields.find("head_dim")) config.head_dim = 128;
  bool biased = false;
  fields.flag("attention_bias", biased);
  config.attention.qkv_bias = config.attention.output_bias = biased;
  config.attention.qk_norm = NormKind::rms;
}

}  // namespace heed::formats
