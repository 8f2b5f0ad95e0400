#include "formats/tokenizer/post_processor.h"

#include "formats/tokenizer/vocabulary.h"

namespace heed::formats {
namespace {

// A template's piece: special tokens, or the sequence where there are none.
struct Piece {
  bool is_sequence = false;
  std::vector<int64_t> special;
};

PostProcessor from_pieces(std::vector<Piece> pieces) {
  return [pieces = std::move(pieces)](const std::vector<int64_t>& sequence, bool add_special) {
    std::vector<int64_t> ids;
    for (const auto& piece : pieces) {
      const auto& part = piece.is_sequence ? sequence : piece.special;
      if (piece.is_sequence || add_special) ids.insert(ids.end(), part.begin(), part.end());
    }
    return ids;
  };
}

std::vector<int64_t> read_ids(const JsonNode& node) {
  std::vector<int64_t> ids;
  for (const auto& id : node.items()) ids.push_back(id.whole(0, kMaxTokenId));
  return ids;
}

PostProcessor from_template(const JsonNode& node) {
  constexpr size_t kMaxPieces = 64;
  const JsonNode single = node.at("single");
  std::vector<Piece> pieces;
  for (const auto& item : single.items()) {
    if (const auto sequence = item.find("Sequence")) {
      const JsonNode id = sequence->at("id");
      if (id.text() != "A") id.refuse("A, for a single sequence");
      pieces.push_back({true, {}});
    } else if (const auto special = item.find("SpecialToken")) {
      const JsonNode name = special->at("id");
      const auto token = node.at("special_tokens").find(name.text().c_str());
      if (!token) name.refuse("a name of special_tokens");
      pieces.push_back({false, read_ids(token->at("ids"))});
    } else {
      item.refuse("an object with Sequence or SpecialToken");
    }
    if (pieces.size() > kMaxPieces) single.refuse("at most 64 pieces");
  }
  return from_pieces(std::move(pieces));
}

// ["[SEP]", 102]
int64_t read_pair(const JsonNode& node) {
  const auto items = node.items();
  if (items.size() != 2) node.refuse("a token and its id");
  return items[1].whole(0, kMaxTokenId);
}

}  // namespace

PostProcessor read_post_processor(const JsonNode& node) {
  const JsonNode type = node.at("type");
  const std::string name = type.text();
  if (name == "TemplateProcessing") return from_template(node);
  if (name == "BertProcessing" || name == "RobertaProcessing") {
    return from_pieces({{false, {read_pair(node.at("cls"))}}, {true, {}}, {false, {read_pair(node.at("sep"))}}});
  }
  if (name == "ByteLevel") return from_pieces({{true, {}}});
  if (name == "Sequence") {
    std::vector<PostProcessor> steps;
    for (const auto& step : node.at("processors").items()) steps.push_back(read_post_processor(step));
    return [steps = std::move(steps)](std::vector<int64_t> ids, bool add_special) {
      for (const auto& step : steps) ids = step(std::move(ids), add_special);
      return ids;
    };
  }
  type.refuse("TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel or Sequence");
}

}  // namespace heed::formats
