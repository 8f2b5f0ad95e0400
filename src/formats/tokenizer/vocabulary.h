// Tokens and their ids.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "formats/json_node.h"

namespace heed::formats {

/// Largest id that is read, so that tables over ids stay small.
inline constexpr int64_t kMaxTokenId = (int64_t{1} << 24) - 1;
/// Longest token that is read, in bytes.
inline constexpr size_t kMaxTokenBytes = 4096;

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
template <class Value>
using StringMap = std::unordered_map<std::string, Value, StringHash, std::equal_to<>>;

/// One id a token, one token an id.
class Vocabulary {
 public:
  /// An object from tokens to ids.
  static Vocabulary read(const JsonNode& node);

  std::optional<uint32_t> find(std::string_view token) const;
  /// Null when no token has the id.
  const std::string* token(int64_t id) const;
  size_t size() const { return ids_.size(); }
  /// -1 when empty.
  int64_t largest_id() const { return largest_; }
  size_t longest_token() const { return longest_; }

 private:
  StringMap<uint32_t> ids_;
  std::unordered_map<uint32_t, const std::string*> tokens_;  // into ids_, whose nodes stay where they are
  int64_t largest_ = -1;
  size_t longest_ = 0;
};

}  // namespace heed::formats
