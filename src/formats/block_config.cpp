#include "heed/formats/block_config.h"

#include <vector>

#include "heed/error.h"
#include "heed/names.h"

namespace heed::formats {

BlockConfig named_block(std::string_view name) {
  if (name == "llama") return {};
  if (name == "gpt2") return {NormKind::layer, NormPlacement::pre, "mlp", Activation::gelu_tanh, true};
  if (name == "transnormer") return {NormKind::srms, NormPlacement::pre, "gated_mlp", Activation::identity, false};
  static const std::vector<std::string> kNames{"llama", "gpt2", "transnormer"};
  fail("unknown block {}: {}", name, suggest(std::string(name), kNames));
}

}  // namespace heed::formats
