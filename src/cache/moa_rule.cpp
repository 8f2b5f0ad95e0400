#include "heed/cache/moa_rule.h"

#include <algorithm>
#include <cmath>

#include "heed/error.h"
#include "heed/formats/json_file.h"

namespace heed::cache {

int64_t MoaRule::band(int64_t length, int64_t block) const {
  return std::max<int64_t>(1, static_cast<int64_t>(std::floor((double(a) + b * double(length)) / double(block))));
}

MoaRule MoaRule::from_json(const nlohmann::json& json, const std::string& where) {
  const auto refuse = [&] {
    fail("{}: rule {}: {{\"a\": tokens, \"b\": share of the text from 0 to 1}} is accepted", where,
         formats::quote(json.dump()));
  };
  if (!json.is_object() || json.size() != 2 || !json.contains("a") || !json.contains("b") ||
      !json["a"].is_number_integer() || !json["b"].is_number())
    refuse();
  const MoaRule rule{json["a"].get<int64_t>(), json["b"].get<double>()};
  constexpr int64_t kMost = int64_t{1} << 40;
  if (rule.a < -kMost || rule.a > kMost || !(rule.b >= 0 && rule.b <= 1)) refuse();
  return rule;
}

int64_t causal_blocks(int64_t blocks) { return blocks * (blocks + 1) / 2; }

int64_t visible_blocks(int64_t blocks, int64_t band) {
  const int64_t whole = std::min(band, blocks);
  // Rows below the band's first see it all and the first column.
  return causal_blocks(whole) + (blocks - whole) * (whole + 1);
}

}  // namespace heed::cache
