// The way back of tokenizer.json: tokens to text.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "formats/json_node.h"

namespace heed::formats {

/// Tokens to parts of text, which the caller joins.
using TokenDecoder = std::function<std::vector<std::string>(std::vector<std::string>)>;

/// ByteLevel, ByteFallback, Fuse, Strip, Replace, Metaspace, WordPiece, BPEDecoder, or a Sequence of them.
TokenDecoder read_token_decoder(const JsonNode& node);

}  // namespace heed::formats
