// GPT-2 and GPT-NeoX: one matrix for q, k and v each.
#include "checkpoint/architectures/decoders.h"

namespace heed::checkpoint {

Layout gpt2_layout(const DecoderConfig& config) {
  Layout layout{.layers = "transformer.h.",
                .layer = fused("attn.c_attn", {{"self_attn.q_proj", config.dim},
                                               {"self_attn.k_proj", config.dim},
                                               {"self_attn.v_proj", config.dim}}),
                .model = {{"embed_tokens", "transformer.wte"},
                          {"embed_positions", "transformer.wpe"},
                          {"norm", "transformer.ln_f"}},
                .base = "transformer.",
                // Causal masks, stored with the weights.
                .ignored = {"attn.bias", "attn.masked_bias"}};
  if (config.tie_embeddings) layout.ignored.emplace_back("lm_head.weight");
  layout.layer.push_back({"self_attn.o_proj", "attn.c_proj"});
  layout.layer.push_back({"mlp.up_proj", "mlp.c_fc"});
  layout.layer.push_back({"mlp.down_proj", "mlp.c_proj"});
  for (auto& module : layout.layer) module.transposed = true;
  layout.layer.push_back({"input_layernorm", "ln_1"});
  layout.layer.push_back({"post_attention_layernorm", "ln_2"});
  return layout;
}

Layout gpt_neox_layout(const DecoderConfig& config) {
  Layout layout{
      .layers = "gpt_neox.layers.",
      .layer =
          fused("attention.query_key_value",
                {{"self_attn.q_proj", config.dim}, {"self_attn.k_proj", config.dim}, {"self_attn.v_proj", config.dim}}),
      .model = {{"embed_tokens", "gpt_neox.embed_in"}, {"norm", "gpt_neox.final_layer_norm"}, {"lm_head", "embed_out"}},
      .base = "gpt_neox.",
      .ignored = {"rotary_emb.inv_freq", "attention.bias", "attention.masked_bias"}};
  if (config.tie_embeddings) layout.ignored.emplace_back("embed_out.weight");
  for (auto& module : layout.layer) module.heads = config.heads;
  layout.layer.push_back({"self_attn.o_proj", "attention.dense"});
  layout.layer.push_back({"mlp.up_proj", "mlp.dense_h_to_4h"});
  layout.layer.push_back({"mlp.down_proj", "mlp.dense_4h_to_h"});
  return layout;
}

}  // namespace heed::checkpoint
