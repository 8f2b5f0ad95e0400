// Text as bytes: the tokenizer of heed's own small models, which needs no file.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace heed::formats {

/// Token i, 0 to 255, is byte i; the vocabulary has 256 entries and none is special. Byte 0, which text does not
/// contain, stands between documents: it is what such a model's config.json gives as bos_token_id and eos_token_id.
///
/// A config.json says `"heed": {"tokenizer": "bytes"}`, and then no tokenizer.json is looked for.
class ByteTokenizer {
 public:
  static constexpr std::string_view kName = "bytes";
  static constexpr int64_t kVocabulary = 256;
  static constexpr int64_t kSeparator = 0;

  static std::vector<int64_t> encode(std::string_view text);
  /// Throws heed::Error for an id outside 0 to 255.
  static std::string decode(std::span<const int64_t> ids);
};

}  // namespace heed::formats
