// The first step of tokenizer.json: text to text.
#pragma once

#include <functional>
#include <string>

#include "formats/json_node.h"

namespace heed::formats {

/// Takes and gives valid UTF-8.
using Normalizer = std::function<std::string(std::string)>;

/// BertNormalizer, NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, Prepend, Replace, Nmt, ByteLevel, or a
/// Sequence of them.
Normalizer read_normalizer(const JsonNode& node);

}  // namespace heed::formats
