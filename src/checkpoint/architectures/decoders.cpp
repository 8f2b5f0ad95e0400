#include "checkpoint/architectures/decoders.h"

#include <array>

#include "heed/error.h"

namespace heed::checkpoint {

Layout decoder_layout(const std::string& architecture, const DecoderConfig& config) {
  using Make = Layout (*)(const DecoderConfig&);
  constexpr std::array<std::pair<std::string_view, Make>, 13> kLayouts = {{{"LlamaForCausalLM", llama_layout},
                                                                           {"MistralForCausalLM", llama_layout},
                                                                           {"Qwen2ForCausalLM", llama_layout},
                                                                           {"Qwen3ForCausalLM", llama_layout},
                                                                           {"HeedForCausalLM", llama_layout},
                                                                           {"Gemma2ForCausalLM", gemma2_layout},
                                                                           {"Phi3ForCausalLM", phi3_layout},
                                                                           {"GPT2LMHeadModel", gpt2_layout},
                                                                           {"GPTNeoXForCausalLM", gpt_neox_layout},
                                                                           {"MambaForCausalLM", mamba_layout},
                                                                           {"llama", gguf_llama_layout},
                                                                           {"qwen2", gguf_layout},
                                                                           {"qwen3", gguf_layout}}};
  for (const auto& [name, make] : kLayouts)
    if (name == architecture) return make(config);
  fail("no layout of tensors is known for the architecture {}", architecture);
}

}  // namespace heed::checkpoint
