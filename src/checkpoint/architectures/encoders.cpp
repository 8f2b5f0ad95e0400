#include "checkpoint/architectures/encoders.h"

namespace heed::checkpoint {
namespace {

/// BERT and RoBERTa differ in the model's name and in the head.
Layout bert_family(const std::string& base, const std::string& head, const std::string& transform,
                   const std::string& norm, bool tied) {
  Layout layout{.layers = base + "encoder.layer.",
                .layer = {{"self_attn.q_proj", "attention.self.query"},
                          {"self_attn.k_proj", "attention.self.key"},
                          {"self_attn.v_proj", "attention.self.value"},
                          {"self_attn.o_proj", "attention.output.dense"},
                          {"input_layernorm", "attention.output.LayerNorm"},
                          {"mlp.up_proj", "intermediate.dense"},
                          {"mlp.down_proj", "output.dense"},
                          {"post_attention_layernorm", "output.LayerNorm"}},
                .model = {{"embed_tokens", base + "embeddings.word_embeddings"},
                          {"embed_positions", base + "embeddings.position_embeddings"},
                          {"embed_types", base + "embeddings.token_type_embeddings"},
                          {"embed_norm", base + "embeddings.LayerNorm"},
                          {"pooler", base + "pooler.dense"},
                          {"mlm_dense", head + transform},
                          {"mlm_norm", head + norm},
                          {"mlm_bias", head + "bias"},
                          {"mlm_decoder", head + "decoder"}},
                .base = base,
                .ignored = {"embeddings.position_ids", "cls.seq_relationship.weight", "cls.seq_relationship.bias"},
                .older = {{"LayerNorm.weight", "LayerNorm.gamma"}, {"LayerNorm.bias", "LayerNorm.beta"}}};
  // Tied heads are written twice by some; an untied one has its bias in the decoder.
  if (tied) layout.ignored.insert(layout.ignored.end(), {head + "decoder.weight", head + "decoder.bias"});
  if (!tied) layout.ignored.push_back(head + "bias");
  return layout;
}

}  // namespace

Layout bert_layout(const EncoderConfig& config) {
  return bert_family("bert.", "cls.predictions.", "transform.dense", "transform.LayerNorm", config.tie_embeddings);
}

Layout roberta_layout(const EncoderConfig& config) {
  return bert_family("roberta.", "lm_head.", "dense", "layer_norm", config.tie_embeddings);
}

Layout vit_layout(const VisionConfig&) {
  return {.layers = "vit.encoder.layer.",
          .layer = {{"self_attn.q_proj", "attention.attention.query"},
                    {"self_attn.k_proj", "attention.attention.key"},
                    {"self_attn.v_proj", "attention.attention.value"},
                    {"self_attn.o_proj", "attention.output.dense"},
                    {"input_layernorm", "layernorm_before"},
                    {"mlp.up_proj", "intermediate.dense"},
                    {"mlp.down_proj", "output.dense"},
                    {"post_attention_layernorm", "layernorm_after"}},
          .model = {{"patch_embedding", "vit.embeddings.patch_embeddings.projection"},
                    {"class_token", "vit.embeddings.cls_token"},
                    {"positions", "vit.embeddings.position_embeddings"},
                    {"norm", "vit.layernorm"},
                    {"pooler", "vit.pooler.dense"}},
          .base = "vit."};
}

}  // namespace heed::checkpoint
