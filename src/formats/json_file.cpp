#include "heed/formats/json_file.h"

#include <algorithm>
#include <set>
#include <vector>

#include "heed/error.h"
#include "heed/formats/mapped_file.h"

namespace heed::formats {
namespace {

// The library's message is "[json.exception.parse_error.101] parse error at line 1, column 2: ..."; the bracket says
// nothing to a reader, and what follows may quote bytes of the file.
std::string readable(std::string_view what) {
  if (const size_t bracket = what.find("] "); bracket != what.npos) what.remove_prefix(bracket + 2);
  std::string text;
  for (const char c : what.substr(0, 200)) {
    const auto byte = static_cast<unsigned char>(c);
    text += byte >= 0x20 && byte != 0x7f ? c : '?';
  }
  return text;
}

}  // namespace

nlohmann::json parse_json(std::string_view text, std::string_view source) {
  std::vector<std::set<std::string, std::less<>>> names;  // one set for every object that is open
  const auto watch = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    using Event = nlohmann::json::parse_event_t;
    switch (event) {
      case Event::object_start:
        names.emplace_back();
        [[fallthrough]];
      case Event::array_start:
        require(depth < kMaxJsonDepth, "{}: JSON nested deeper than the accepted {} levels", source, kMaxJsonDepth);
        break;
      case Event::object_end:
        names.pop_back();
        break;
      case Event::key: {
        const auto& name = value.get_ref<const std::string&>();
        require(names.back().insert(name).second, "{}: the name {} stands twice in one JSON object", source,
                quote(name));
        break;
      }
      default:
        break;
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text.begin(), text.end(), watch);
  } catch (const nlohmann::json::exception& error) {
    fail("{}: invalid JSON: {}", source, readable(error.what()));
  }
}

nlohmann::json read_json_file(const std::filesystem::path& path, size_t max_bytes) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  require(bytes.size() <= max_bytes, "{}: {} bytes, but a JSON file of at most {} bytes is read", path.string(),
          bytes.size(), max_bytes);
  return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path.string());
}

std::string quote(std::string_view text) {
  constexpr size_t kLongest = 80;
  size_t end = std::min(text.size(), kLongest);
  if (end < text.size()) {
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;  // not inside a UTF-8 sequence
  }
  std::string out = "'";
  for (const char c : text.substr(0, end)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  if (end < text.size()) out += "...";
  return out + "'";
}

std::string quote_value(const nlohmann::json& value) {
  if (value.is_string() && !nlohmann::json::accept(value.get_ref<const std::string&>()))
    return quote(value.get_ref<const std::string&>());
  return quote(value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

}  // namespace heed::formats
