// The third step of tokenizer.json: words to ids.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "formats/tokenizer/vocabulary.h"

namespace heed::formats {

class TokenModel {
 public:
  explicit TokenModel(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}
  virtual ~TokenModel() = default;
  const Vocabulary& vocabulary() const { return vocabulary_; }

  /// Appends the ids of a word, which is valid UTF-8 and not empty. Safe to call from several threads.
  virtual void encode(std::string_view word, std::vector<int64_t>& ids) const = 0;

 private:
  Vocabulary vocabulary_;
};

/// BPE or WordPiece. Files from before models had a type are told by their members.
std::unique_ptr<const TokenModel> read_token_model(const JsonNode& node);

}  // namespace heed::formats
