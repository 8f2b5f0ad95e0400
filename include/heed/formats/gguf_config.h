// The configuration of a decoder from the metadata of a GGUF file.
#pragma once

#include "heed/formats/gguf.h"
#include "heed/formats/model_config.h"

namespace heed::formats {

/// For the architectures llama (Mistral's files, too), qwen2 and qwen3, whose name becomes `architecture`. Biases, QK
/// norm and a tied head are where the file has the tensors for them, or has not. Throws heed::Error for other
/// architectures, missing keys, and keys that change the answers and that heed does not follow.
DecoderModelConfig gguf_decoder_config(const GgufFile& file);

}  // namespace heed::formats
