#include "heed/nn/kv_format.h"

#include "heed/error.h"
#include "heed/names.h"

namespace heed::nn {

const std::vector<std::string>& KvFormat::names() {
  static const std::vector<std::string> names{"exact", "int8", "int4", "kivi2", "kivi2_token"};
  return names;
}

KvFormat KvFormat::parse(std::string_view name) {
  if (name == "exact") return {};
  if (name == "int8") return {8};
  if (name == "int4") return {4};
  if (name == "kivi2") return {2, true, kRecent};
  if (name == "kivi2_token") return {2, false, kRecent};
  fail("storage of keys and values {}: {}", name, suggest(name, names()));
}

}  // namespace heed::nn
