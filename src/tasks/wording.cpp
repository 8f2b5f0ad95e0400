#include "tasks/wording.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "heed/error.h"
#include "heed/formats/mapped_file.h"

namespace heed::tasks {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 20;
constexpr std::string_view kContext = "{context}";

bool is_name(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= 'a' && c <= 'z') || c == '_'; });
}

}  // namespace

Wording Wording::read(const std::string& path) {
  const formats::MappedFile file(path);
  const auto bytes = file.bytes();
  require(bytes.size() <= kMaxBytes, "{}: {} bytes, accepted for a template: at most {}", path, bytes.size(),
          kMaxBytes);
  const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const size_t at = text.find(kContext);
  require(at != text.npos && text.find(kContext, at + 1) == text.npos, "{}: a template has {} once", path, kContext);
  Wording wording;
  wording.path_ = path;
  wording.before_ = text.substr(0, at);
  wording.after_ = text.substr(at + kContext.size());
  return wording;
}

std::optional<Wording> Wording::read(ConfigReader& reader) {
  const auto path = reader.get<std::string>("template", "");
  if (path.empty()) return std::nullopt;
  return read(path);
}

std::string Wording::substituted(const std::string& text, const std::map<std::string, std::string>& fields) const {
  std::string result;
  for (size_t i = 0; i < text.size();) {
    const size_t open = std::min(text.find('{', i), text.size()), close = text.find('}', open);
    result += text.substr(i, open - i);
    if (open == text.size()) break;
    const auto name = close == text.npos ? "" : text.substr(open + 1, close - open - 1);
    if (!is_name(name)) {
      result += '{';
      i = open + 1;
      continue;
    }
    const auto found = fields.find(name);
    if (found == fields.end()) {
      std::vector<std::string> known = {"context"};
      for (const auto& [field, value] : fields) known.push_back(field);
      fail("{}: unknown field {{{}}}, accepted: {}", path_, name, fmt::join(known, ", "));
    }
    result += found->second;
    i = close + 1;
  }
  return result;
}

std::string Wording::filled(const std::string& context, const std::map<std::string, std::string>& fields) const {
  return substituted(before_, fields) + context + substituted(after_, fields);
}

int64_t Wording::context_begin(const std::map<std::string, std::string>& fields) const {
  return static_cast<int64_t>(substituted(before_, fields).size());
}

std::string Posed::continued(const std::string& answer) const {
  const bool blank = !prompt.empty() && (prompt.back() == ' ' || prompt.back() == '\n');
  return blank ? answer : ' ' + answer;
}

Posed pose(const std::optional<Wording>& wording, const std::string& context, const std::string& question,
           const std::map<std::string, std::string>& fields) {
  if (!wording) return {context + question, 0};
  return {wording->filled(context, fields), wording->context_begin(fields)};
}

}  // namespace heed::tasks
