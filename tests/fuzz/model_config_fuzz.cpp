// Any text is a configuration that survives writing and reading, or one heed::Error, whatever the architecture.
#include <cstdlib>
#include <string>

#include "heed/error.h"
#include "heed/formats/json_file.h"
#include "heed/formats/model_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace heed::formats;
  nlohmann::json json;
  try {
    json = parse_json({reinterpret_cast<const char*>(data), size}, "fuzz");
  } catch (const heed::Error&) {
    return 0;
  }
  const auto read = [&](auto parse) {
    try {
      return std::optional(parse(json, "fuzz"));
    } catch (const heed::Error&) {
      return decltype(std::optional(parse(json, "fuzz")))();
    }
  };
  read(parse_encoder_config);
  read(parse_vision_config);
  const auto config = read(parse_decoder_config);
  if (!config) return 0;
  const std::string once = decoder_config_json(*config).dump();
  if (decoder_config_json(parse_decoder_config(parse_json(once, "again"), "again")).dump() != once) std::abort();
  return 0;
}
