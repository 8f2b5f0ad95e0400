// WordPiece (Schuster & Nakajima 2012; Devlin et al. 2018): the longest known piece, again and again.
#pragma once

#include <string>

#include "formats/tokenizer/token_model.h"

namespace heed::formats {

/// A word longer than `max_input_chars_per_word`, or one that cannot be covered, is the unknown token.
class WordPiece final : public TokenModel {
 public:
  explicit WordPiece(const JsonNode& node);
  void encode(std::string_view word, std::vector<int64_t>& ids) const override;

 private:
  std::string continuing_prefix_;
  int64_t unknown_ = 0, max_characters_ = 100;
};

}  // namespace heed::formats
