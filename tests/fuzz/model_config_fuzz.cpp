// Any text is a configuration that survives writing and reading, or one heed::Error, whatever the architecture.
#include <cstdlib>
#include <string>

#include "heed/error.h"
#include "heed/formats/json_file.h"
#include "heed/formats/model_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace heed::formats;
  DecoderModelConfig config;
  try {
    config = parse_decoder_config(parse_json({reinterpret_cast<const char*>(data), size}, "fuzz"), "fuzz");
  } catch (const heed::Error&) {
    return 0;
  }
  const std::string once = decoder_config_json(config).dump();
  if (decoder_config_json(parse_decoder_config(parse_json(once, "again"), "again")).dump() != once) std::abort();
  return 0;
}
