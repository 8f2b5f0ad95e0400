// The tokenizers that tests/formats/fixtures/make_tokenizers.py made, and what the reference says of them.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "heed/formats/json_file.h"
#include "heed/formats/tokenizer.h"

namespace heed {

/// HEED_TOKENIZER_FIXTURES names another folder that the script has filled.
inline std::filesystem::path tokenizer_fixtures() {
  const char* other = std::getenv("HEED_TOKENIZER_FIXTURES");
  return other ? other : std::filesystem::path(HEED_TEST_SOURCE_DIR) / "formats/fixtures/tokenizers";
}

inline std::vector<std::string> tokenizer_families() {
  return {"gpt2",    "llama3", "qwen2", "neox", "roberta",    "llama2",    "llama1_normalized",
          "mistral", "gemma2", "phi3",  "bert", "bert_cased", "word_ends", "prefixed"};
}

}  // namespace heed
