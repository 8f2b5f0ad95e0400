#include "formats/architectures/decoders.h"

namespace heed::formats {

void read_mistral(ConfigFields& fields, DecoderModelConfig& config) {
  config.max_position_embeddings = 131072;
  read_llama_family(fields, config);
  read_windows(fields, config, 4096, [](int64_t) { return true; });
}

}  // namespace heed::formats
