#include "checkpoint/architectures/decoders.h"

namespace heed::checkpoint {

Layout gguf_layout(const DecoderConfig&) {
  return {.layers = "blk.",
          .layer = {{"self_attn.q_proj", "attn_q"},
                    {"self_attn.k_proj", "attn_k"},
                    {"self_attn.v_proj", "attn_v"},
                    {"self_attn.o_proj", "attn_output"},
                    {"self_attn.q_norm", "attn_q_norm"},
                    {"self_attn.k_norm", "attn_k_norm"},
                    {"input_layernorm", "attn_norm"},
                    {"post_attention_layernorm", "ffn_norm"},
                    {"mlp.gate_proj", "ffn_gate"},
                    {"mlp.up_proj", "ffn_up"},
                    {"mlp.down_proj", "ffn_down"}},
          .model = {{"embed_tokens", "token_embd"}, {"norm", "output_norm"}, {"lm_head", "output"}},
          .base = "",
          .ignored = {"rope_freqs.weight"}};
}

Layout gguf_llama_layout(const DecoderConfig& config) {
  auto layout = gguf_layout(config);
  layout.layer[0].pair_heads = config.heads;
  layout.layer[1].pair_heads = config.kv_heads;
  return layout;
}

}  // namespace heed::checkpoint
