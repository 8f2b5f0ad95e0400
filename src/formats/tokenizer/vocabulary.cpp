#include "formats/tokenizer/vocabulary.h"

#include <algorithm>

#include "formats/unicode.h"
#include "heed/error.h"
#include "heed/formats/json_file.h"

namespace heed::formats {

Vocabulary Vocabulary::read(const JsonNode& node) {
  const auto& json = node.json();
  if (!json.is_object()) node.refuse("an object from tokens to ids");
  Vocabulary made;
  made.ids_.reserve(json.size());
  made.tokens_.reserve(json.size());
  for (auto entry = json.begin(); entry != json.end(); ++entry) {
    const std::string& token = entry.key();
    const auto& value = entry.value();
    const auto where = [&] { return fmt::format("{}: {}: the token {}", node.source(), node.place(), quote(token)); };
    const bool whole = value.is_number_integer() && value >= 0 && value <= kMaxTokenId;
    require(whole, "{} has the id {}, accepted: 0 to {}", where(), quote_value(value), kMaxTokenId);
    require(token.size() <= kMaxTokenBytes, "{} has {} bytes, accepted: at most {}", where(), token.size(),
            kMaxTokenBytes);
    require(invalid_utf8_at(token) == token.npos, "{} is no UTF-8", where());
    const auto id = value.get<uint32_t>();
    const auto kept = made.ids_.emplace(token, id).first;
    const auto [other, fresh] = made.tokens_.emplace(id, &kept->first);
    require(fresh, "{} has the id {}, which {} has too", where(), id, quote(*other->second));
    made.largest_ = std::max<int64_t>(made.largest_, id);
    made.longest_ = std::max(made.longest_, token.size());
  }
  return made;
}

std::optional<uint32_t> Vocabulary::find(std::string_view token) const {
  const auto found = ids_.find(token);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

const std::string* Vocabulary::token(int64_t id) const {
  if (id < 0 || id > largest_) return nullptr;
  const auto found = tokens_.find(static_cast<uint32_t>(id));
  return found == tokens_.end() ? nullptr : found->second;
}

}  // namespace heed::formats
