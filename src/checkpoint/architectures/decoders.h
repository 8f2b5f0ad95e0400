// Where each decoder architecture keeps its tensors.
#pragma once

#include "checkpoint/weights.h"
#include "heed/models/decoder_lm.h"

namespace heed::checkpoint {

/// Llama's names, which Mistral, Qwen2, Qwen3 and HeedForCausalLM share.
Layout llama_layout(const DecoderConfig& config);
Layout gemma2_layout(const DecoderConfig& config);
Layout phi3_layout(const DecoderConfig& config);
Layout gpt2_layout(const DecoderConfig& config);
Layout gpt_neox_layout(const DecoderConfig& config);
Layout mamba_layout(const DecoderConfig& config);
/// llama.cpp's names, which all its architectures share.
Layout gguf_layout(const DecoderConfig& config);
/// The same where rows of q and k stand in the order of rotated pairs.
Layout gguf_llama_layout(const DecoderConfig& config);

/// The layout of `architecture`, a name that formats::parse_decoder_config or gguf_decoder_config gives.
Layout decoder_layout(const std::string& architecture, const DecoderConfig& config);

}  // namespace heed::checkpoint
