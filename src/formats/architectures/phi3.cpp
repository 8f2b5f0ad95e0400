#include "formats/architectures/decoders.h"

namespace heed::formats {

void read_phi3(ConfigFields& fields, DecoderModelConfig& config) {
  config.max_position_embeddings = 4096;
  config.norm_eps = 1e-5;
  read_llama_family(fields, config);
  read_windows(fields, config, {}, [](int64_t) { return true; });
}

}  // namespace heed::formats
