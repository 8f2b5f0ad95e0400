#include "formats/tokenizer/post_processor.h"

#include "formats/tokenizer/vocabulary.h"

namespace heed::formats {
namespace {

// A template's piece: special tokens, or a segment.
struct Piece {
  int64_t segment = -1;  // 0: A, 1: B, -1: special tokens
  std::vector<int64_t> special;
  int64_t type = 0;
};
using Template = std::vector<Piece>;

Encoding filled(const Template& pieces, const std::vector<Encoding>& segments, bool add_special) {
  std::vector<Encoding> parts;
  for (const auto& piece : pieces) {
    if (piece.segment < 0 && !add_special) continue;
    const auto& ids = piece.segment < 0 ? piece.special : segments[static_cast<size_t>(piece.segment)].ids;
    parts.push_back({ids, std::vector<int64_t>(ids.size(), piece.type)});
  }
  return joined(std::move(parts));
}

/// What is left is one segment, also for a later step of a Sequence.
PostProcessor from_templates(Template single, Template pair) {
  return [single = std::move(single), pair = std::move(pair)](const std::vector<Encoding>& segments, bool add_special) {
    return std::vector<Encoding>{filled(segments.size() == 2 ? pair : single, segments, add_special)};
  };
}

std::vector<int64_t> read_ids(const JsonNode& node) {
  std::vector<int64_t> ids;
  for (const auto& id : node.items()) ids.push_back(id.whole(0, kMaxTokenId));
  return ids;
}

int64_t type_of(const JsonNode& piece) {
  const auto type = piece.find("type_id");
  return type ? type->whole(0, UINT32_MAX) : 0;
}

Template read_template(const JsonNode& node, const JsonNode& list, bool pair) {
  constexpr size_t kMaxPieces = 64;
  Template pieces;
  for (const auto& item : list.items()) {
    if (const auto sequence = item.find("Sequence")) {
      const JsonNode id = sequence->at("id");
      const std::string name = id.text();
      if (name != "A" && !(pair && name == "B")) id.refuse(pair ? "A or B" : "A, for a single sequence");
      pieces.push_back({name == "A" ? 0 : 1, {}, type_of(*sequence)});
    } else if (const auto special = item.find("SpecialToken")) {
      const JsonNode name = special->at("id");
      const auto token = node.at("special_tokens").find(name.text().c_str());
      if (!token) name.refuse("a name of special_tokens");
      pieces.push_back({-1, read_ids(token->at("ids")), type_of(*special)});
    } else {
      item.refuse("an object with Sequence or SpecialToken");
    }
    if (pieces.size() > kMaxPieces) list.refuse("at most 64 pieces");
  }
  return pieces;
}

PostProcessor from_template(const JsonNode& node) {
  const auto pair = node.find("pair");
  return from_templates(read_template(node, node.at("single"), false),
                        pair ? read_template(node, *pair, true) : Template{{0, {}, 0}, {1, {}, 1}});
}

// ["[SEP]", 102]
int64_t read_pair(const JsonNode& node) {
  const auto items = node.items();
  if (items.size() != 2) node.refuse("a token and its id");
  return items[1].whole(0, kMaxTokenId);
}

}  // namespace

Encoding joined(std::vector<Encoding> segments) {
  if (segments.empty()) return {};
  Encoding all = std::move(segments.front());
  for (size_t i = 1; i < segments.size(); ++i) {
    all.ids.insert(all.ids.end(), segments[i].ids.begin(), segments[i].ids.end());
    all.type_ids.insert(all.type_ids.end(), segments[i].type_ids.begin(), segments[i].type_ids.end());
  }
  return all;
}

PostProcessor read_post_processor(const JsonNode& node) {
  const JsonNode type = node.at("type");
  const std::string name = type.text();
  if (name == "TemplateProcessing") return from_template(node);
  if (name == "BertProcessing" || name == "RobertaProcessing") {
    const Piece cls{-1, {read_pair(node.at("cls"))}, 0}, sep{-1, {read_pair(node.at("sep"))}, 0};
    const Template single{cls, {0, {}, 0}, sep};
    // RoBERTa knows no types and puts two separators between the segments.
    if (name == "RobertaProcessing") return from_templates(single, {cls, {0, {}, 0}, sep, sep, {1, {}, 0}, sep});
    return from_templates(single, {cls, {0, {}, 0}, sep, {1, {}, 1}, {-1, sep.special, 1}});
  }
  if (name == "ByteLevel") return [](std::vector<Encoding> segments, bool) { return segments; };
  if (name == "Sequence") {
    std::vector<PostProcessor> steps;
    for (const auto& step : node.at("processors").items()) steps.push_back(read_post_processor(step));
    return [steps = std::move(steps)](std::vector<Encoding> segments, bool add_special) {
      for (const auto& step : steps) segments = step(std::move(segments), add_special);
      return segments;
    };
  }
  type.refuse("TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel or Sequence");
}

}  // namespace heed::formats
