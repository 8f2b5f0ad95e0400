// A directory or file on disk as everything that text needs: the decoder, its tokenizer and the tokens that end a text.
#pragma once

#include <filesystem>
#include <vector>

#include "heed/formats/tokenizer.h"
#include "heed/models/decoder_lm.h"

namespace heed::checkpoint {

struct LanguageModel {
  DecoderLm model;
  formats::Tokenizer tokenizer;
  std::vector<int64_t> eos;  ///< of config.json and generation_config.json, or of the GGUF file's metadata
};

/// Of a directory or a GGUF file. Throws heed::Error for what `load_decoder` or `Tokenizer::open` refuses, and for a
/// tokenizer with ids beyond the model's vocabulary.
LanguageModel load_language_model(const std::filesystem::path& path, torch::ScalarType dtype = torch::kFloat32);

}  // namespace heed::checkpoint
