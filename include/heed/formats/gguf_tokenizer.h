// The tokenizer inside a GGUF file.
#pragma once

#include "heed/formats/gguf.h"
#include "heed/formats/tokenizer.h"

namespace heed::formats {

/// From the metadata "tokenizer.ggml.*": models "llama" (SentencePiece's BPE, pieces by score, bytes as fallback) and
/// "gpt2" (byte-level BPE with the words of gpt-2, llama-bpe or qwen2). Throws heed::Error for others and for what is
/// missing. The chat template, where there is one, is the text "tokenizer.chat_template".
Tokenizer gguf_tokenizer(const GgufFile& file);

}  // namespace heed::formats
