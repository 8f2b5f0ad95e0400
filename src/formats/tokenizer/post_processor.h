// The fourth step of tokenizer.json: the special tokens around a sequence.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "formats/json_node.h"

namespace heed::formats {

/// Takes the ids of one sequence; special tokens are added when asked.
using PostProcessor = std::function<std::vector<int64_t>(std::vector<int64_t>, bool add_special)>;

/// TemplateProcessing (its form for a single sequence), BertProcessing, RobertaProcessing, ByteLevel (which changes no
/// ids), or a Sequence of them.
PostProcessor read_post_processor(const JsonNode& node);

}  // namespace heed::formats
