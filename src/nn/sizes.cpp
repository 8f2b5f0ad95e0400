#include "heed/nn/sizes.h"

#include <charconv>

namespace heed::nn {

std::vector<int64_t> parse_sizes(const std::string& text, const std::string& name) {
  std::vector<int64_t> sizes;
  const char *at = text.data(), *end = text.data() + text.size();
  while (true) {
    int64_t size = 0;
    const auto [stop, error] = std::from_chars(at, end, size);
    const bool more = error == std::errc() && stop != end && *stop == 'x';
    require(error == std::errc() && (more || stop == end), "{} = {}: numbers like 16x24 are accepted", name, text);
    sizes.push_back(size);
    if (!more) return sizes;
    at = stop + 1;
  }
}

std::vector<int64_t> read_sizes(ConfigReader& reader, const std::string& key, const std::vector<int64_t>& fallback) {
  const auto value = reader.get<nlohmann::json>(key, {});
  if (value.is_null()) return fallback;
  const auto name = reader.owner() + ": " + key;
  if (value.is_string()) return parse_sizes(value.get<std::string>(), name);
  if (value.is_number_integer()) return {value.get<int64_t>()};
  std::vector<int64_t> sizes;
  require(value.is_array(), "{} = {}: a number, a list or text like 16x24 is accepted", name, value.dump());
  for (const auto& size : value) {
    require(size.is_number_integer(), "{} = {}: integers are accepted", name, value.dump());
    sizes.push_back(size.get<int64_t>());
  }
  return sizes;
}

std::vector<bool> read_flags(ConfigReader& reader, const std::string& key, const std::vector<bool>& fallback) {
  const auto value = reader.get<nlohmann::json>(key, {});
  if (value.is_null()) return fallback;
  if (value.is_boolean()) return {value.get<bool>()};
  std::vector<bool> flags;
  require(value.is_array(), "{}: {} = {}: true, false or a list of them is accepted", reader.owner(), key,
          value.dump());
  for (const auto& flag : value) {
    require(flag.is_boolean(), "{}: {} = {}: true and false are accepted", reader.owner(), key, value.dump());
    flags.push_back(flag.get<bool>());
  }
  return flags;
}

}  // namespace heed::nn
