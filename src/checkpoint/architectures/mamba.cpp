// Mamba: blocks of a mixer alone, whose convolution is that of a Conv1d over channels.
#include "checkpoint/architectures/decoders.h"

namespace heed::checkpoint {

Layout mamba_layout(const DecoderConfig& config) {
  Layout layout{.layers = "backbone.layers.",
                .layer = {{"input_layernorm", "norm"},
                          {"self_attn.in_proj", "mixer.in_proj"},
                          {"self_attn.o_proj", "mixer.out_proj"},
                          {"self_attn.ahead.ssm.step_bias", "mixer.dt_proj.bias"},
                          {"self_attn.ahead.ssm.a_log", "mixer.A_log"},
                          {"self_attn.ahead.ssm.skip", "mixer.D"}},
                .model = {{"embed_tokens", "backbone.embeddings"}, {"norm", "backbone.norm_f"}},
                .base = "backbone.",
                // As the authors' own files have it.
                .older = {{"embeddings.weight", "embedding.weight"}}};
  layout.layer.push_back(
      {.heed = "self_attn.ahead.conv", .file = "mixer.conv1d", .transposed = true, .squeezed = true});
  // One direction of as many as the mixer may have.
  layout.layer.push_back({.heed = "self_attn.ahead.ssm.x_proj", .file = "mixer.x_proj.weight", .squeezed = true});
  layout.layer.push_back({.heed = "self_attn.ahead.ssm.step_proj", .file = "mixer.dt_proj.weight", .squeezed = true});
  if (config.tie_embeddings) layout.ignored.emplace_back("lm_head.weight");
  return layout;
}

}  // namespace heed::checkpoint
