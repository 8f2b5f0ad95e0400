// The decoders whose config.json heed reads, one file each. A reader asks for every key that its architecture follows;
// what it leaves goes to `extra` or is refused (config_fields.h, finish).
#pragma once

#include "formats/config_fields.h"

namespace heed::formats {

inline constexpr std::string_view kPlainDecoder = "LlamaForCausalLM", kHeedDecoder = "HeedForCausalLM";

/// Keys of "heed" that only a HeedForCausalLM has.
inline constexpr std::array<std::string_view, 9> kHeedKeys = {
    "layers",          "block",        "attention", "rotary", "rotary_dim", "rotary_pairs", "learned_positions",
    "embedding_scale", "logit_softcap"};

/// What Llama and its descendants share: sizes, vocabulary, RMSNorm, rotary positions, a gated MLP.
void read_llama_family(ConfigFields& fields, DecoderModelConfig& config);

void read_llama(ConfigFields& fields, DecoderModelConfig& config);
void read_heed(ConfigFields& fields, DecoderModelConfig& config);
/// The object "heed" of a decoder's file; empty where all is Llama's.
nlohmann::ordered_json heed_json(const DecoderModelConfig& config);
void read_mistral(ConfigFields& fields, DecoderModelConfig& config);
void read_qwen2(ConfigFields& fields, DecoderModelConfig& config);
void read_qwen3(ConfigFields& fields, DecoderModelConfig& config);
void read_gemma2(ConfigFields& fields, DecoderModelConfig& config);
void read_phi3(ConfigFields& fields, DecoderModelConfig& config);
void read_gpt2(ConfigFields& fields, DecoderModelConfig& config);
void read_gpt_neox(ConfigFields& fields, DecoderModelConfig& config);
void read_mamba(ConfigFields& fields, DecoderModelConfig& config);

}  // namespace heed::formats
