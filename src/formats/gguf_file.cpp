#include "heed/error.h"
#include "heed/formats/gguf.h"
#include "heed/formats/json_file.h"
#include "heed/names.h"

namespace heed::formats {

GgufFile GgufFile::open(const std::filesystem::path& path) {
  MappedFile file(path);
  auto header = parse_gguf_header(file.bytes(), path.string());
  GgufFile made(path, std::move(file), std::move(header));
  const int64_t parts = made.whole("split.count").value_or(1);
  require(parts <= 1, "{}: one of {} parts; merge them into one file first", path.string(), parts);
  return made;
}

const GgufTensor& GgufFile::info(std::string_view name) const {
  const auto found = header_.tensors.find(name);
  if (found != header_.tensors.end()) return found->second;
  std::vector<std::string> known;
  for (const auto& entry : header_.tensors) known.push_back(entry.first);
  fail("{}: there is no tensor {}; {}", path_.string(), quote(name), suggest(name, known));
}

std::span<const std::byte> GgufFile::bytes(std::string_view name) const {
  const auto& tensor = info(name);
  if (tensor.bytes == 0) return {};
  return file_.bytes().subspan(header_.data_start + tensor.begin, tensor.bytes);
}

void GgufFile::dequantize(std::string_view name, std::span<float> out) const {
  const auto& tensor = info(name);
  require(out.size() == static_cast<size_t>(tensor.elements), "{}: tensor {} has {} values, not {}", path_.string(),
          quote(name), tensor.elements, out.size());
  formats::dequantize(tensor.type, bytes(name), out);
}

const nlohmann::json* GgufFile::find(std::string_view key) const {
  const auto found = header_.metadata.find(key);
  return found == header_.metadata.end() ? nullptr : &found->second;
}

void GgufFile::wrong(std::string_view key, std::string_view accepted) const {
  const auto shown = find(key)->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  fail("{}: metadata {} is {}, accepted: {}", path_.string(), quote(key), quote(shown), accepted);
}

std::optional<int64_t> GgufFile::whole(std::string_view key) const {
  const auto* value = find(key);
  if (!value) return std::nullopt;
  const bool fits = value->is_number_integer() && !(value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX);
  if (!fits) wrong(key, "a whole number");
  return value->get<int64_t>();
}

std::optional<double> GgufFile::real(std::string_view key) const {
  const auto* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_number()) wrong(key, "a number");
  return value->get<double>();
}

std::optional<bool> GgufFile::flag(std::string_view key) const {
  const auto* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_boolean()) wrong(key, "true or false");
  return value->get<bool>();
}

std::optional<std::string> GgufFile::text(std::string_view key) const {
  const auto* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_string()) wrong(key, "a string");
  return value->get<std::string>();
}

}  // namespace heed::formats
