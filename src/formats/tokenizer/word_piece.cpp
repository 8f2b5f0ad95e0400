#include "formats/tokenizer/word_piece.h"

#include <algorithm>

#include "formats/unicode.h"

namespace heed::formats {

WordPiece::WordPiece(const JsonNode& node) : TokenModel(Vocabulary::read(node.at("vocab"))) {
  continuing_prefix_ = node.text_or("continuing_subword_prefix", "##");
  if (const auto most = node.find("max_input_chars_per_word")) max_characters_ = most->whole(0, 1 << 20);
  const std::string unknown = node.text_or("unk_token", "[UNK]");
  const auto id = vocabulary().find(unknown);
  if (!id) node.at("unk_token").refuse("a token of the vocabulary");
  unknown_ = *id;
}

void WordPiece::encode(std::string_view word, std::vector<int64_t>& ids) const {
  const size_t before = ids.size();
  bool known = static_cast<int64_t>(count_characters(word)) <= max_characters_;
  std::string piece;
  for (size_t begin = 0; known && begin < word.size();) {
    const std::string_view prefix = begin > 0 ? std::string_view(continuing_prefix_) : std::string_view();
    // No piece is longer than the longest token, so a long word costs its length times that.
    size_t end = word.size();
    if (end - begin > vocabulary().longest_token()) {
      end = begin + vocabulary().longest_token();
      while (end < word.size() && (static_cast<unsigned char>(word[end]) & 0xc0) == 0x80) ++end;
    }
    std::optional<uint32_t> id;
    for (; end > begin; end = previous_start(word, end)) {
      piece.assign(prefix).append(word.substr(begin, end - begin));
      if ((id = vocabulary().find(piece))) break;
    }
    known = id.has_value();
    if (known) ids.push_back(*id);
    begin = end;
  }
  if (!known) {
    ids.resize(before);
    ids.push_back(unknown_);
  }
}

}  // namespace heed::formats
