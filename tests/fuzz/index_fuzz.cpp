// Any text is an index of shards beside it, or one heed::Error; nothing else may happen.
#include <cstdlib>
#include <string>

#include "edits.h"
#include "heed/error.h"
#include "heed/formats/json_file.h"
#include "heed/formats/safetensors.h"

namespace {

constexpr std::string_view kGood =
    R"({"metadata":{"total_size":16},"weight_map":{"a":"model-1.safetensors","b.weight":"model-2.safetensors"}})";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace heed;
  if (size == 0) return 0;
  std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 4 != 0) text = fuzz::edited(kGood, data + 1, size - 1);
  try {
    for (const auto& [name, shard] : formats::parse_safetensors_index(formats::parse_json(text, "fuzz"), "fuzz")) {
      // What is opened lies beside the index and is none.
      if (shard.empty() || shard.find('/') != shard.npos || shard == ".." || shard.ends_with(".json")) std::abort();
    }
  } catch (const Error& error) {
    if (!fuzz::is_one_line(error.what())) std::abort();
  }
  return 0;
}
