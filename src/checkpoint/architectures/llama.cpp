#include "checkpoint/architectures/decoders.h"

namespace heed::checkpoint {

Layout llama_layout(const DecoderConfig& config) {
  Layout layout{.layers = "model.layers.",
                .layer = {},
                .model = {{"embed_tokens", "model.embed_tokens"},
                          {"embed_positions", "model.embed_positions"},
                          {"landmarks", "model.landmarks"},
                          {"norm", "model.norm"}},
                .base = "",
                .ignored = {"rotary_emb.inv_freq"}};
  if (config.tie_embeddings) layout.ignored.emplace_back("lm_head.weight");
  return layout;
}

Layout gemma2_layout(const DecoderConfig& config) {
  auto layout = llama_layout(config);
  layout.layer = {{"mixer_output_norm", "post_attention_layernorm"},
                  {"post_attention_layernorm", "pre_feedforward_layernorm"},
                  {"mlp_output_norm", "post_feedforward_layernorm"}};
  return layout;
}

Layout phi3_layout(const DecoderConfig& config) {
  auto layout = llama_layout(config);
  const int64_t q = config.heads * config.head_dim, kv = config.kv_heads * config.head_dim;
  layout.layer =
      fused("self_attn.qkv_proj", {{"self_attn.q_proj", q}, {"self_attn.k_proj", kv}, {"self_attn.v_proj", kv}});
  for (auto& module : fused("mlp.gate_up_proj", {{"mlp.gate_proj", config.hidden}, {"mlp.up_proj", config.hidden}}))
    layout.layer.push_back(std::move(module));
  return layout;
}

}  // namespace heed::checkpoint
