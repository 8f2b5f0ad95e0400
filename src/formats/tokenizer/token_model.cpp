#include "formats/tokenizer/token_model.h"

#include "formats/tokenizer/bpe.h"
#include "formats/tokenizer/word_piece.h"

namespace heed::formats {

std::unique_ptr<const TokenModel> read_token_model(const JsonNode& node) {
  const auto type = node.find("type");
  const std::string name = type ? type->text() : node.find("merges") ? "BPE" : "WordPiece";
  if (name == "BPE") return std::make_unique<Bpe>(node);
  if (name == "WordPiece") return std::make_unique<WordPiece>(node);
  type->refuse("BPE or WordPiece");
}

}  // namespace heed::formats
