#include "heed/formats/byte_tokenizer.h"

#include "heed/error.h"

namespace heed::formats {

std::vector<int64_t> ByteTokenizer::encode(std::string_view text) {
  std::vector<int64_t> ids;
  ids.reserve(text.size());
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

std::string ByteTokenizer::decode(std::span<const int64_t> ids) {
  std::string text;
  text.reserve(ids.size());
  for (const int64_t id : ids) {
    require(id >= 0 && id < kVocabulary, "token {} is no byte, accepted: 0 to 255", id);
    text += static_cast<char>(static_cast<unsigned char>(id));
  }
  return text;
}

}  // namespace heed::formats
