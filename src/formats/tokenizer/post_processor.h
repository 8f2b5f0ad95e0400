// The fourth step of tokenizer.json: the special tokens around a sequence or a pair of them.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "formats/json_node.h"
#include "heed/formats/tokenizer.h"

namespace heed::formats {

/// Takes one segment or two, with types 0 and 1, and gives segments that joined are the input; special tokens are added
/// when asked.
using PostProcessor = std::function<std::vector<Encoding>(std::vector<Encoding> segments, bool add_special)>;

/// TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel (which changes no ids), or a Sequence of them.
PostProcessor read_post_processor(const JsonNode& node);

/// All segments as one.
Encoding joined(std::vector<Encoding> segments);

}  // namespace heed::formats
