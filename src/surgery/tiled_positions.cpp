#include "heed/surgery/tiled_positions.h"

#include <algorithm>

namespace heed::surgery {

using torch::Tensor;

void lengthen_positions(DecoderConfig& config, int64_t length) {
  if (config.learned_positions > 0) config.learned_positions = std::max(config.learned_positions, length);
  if (config.positions.kind == "learned") config.positions.max_length = std::max(config.positions.max_length, length);
}

void take_weights(DecoderLm& to, DecoderLm& from) {
  const auto old = from->named_parameters();
  const bool own_tables = from->config().positions.kind == "learned" && to->config().positions.kind == "learned";
  torch::NoGradGuard no_grad;
  for (auto& entry : to->named_parameters()) {
    const auto* found = old.find(entry.key());
    if (found == nullptr) continue;
    auto& target = entry.value();
    const bool positions =
        entry.key() == "embed_positions.weight" || (own_tables && entry.key().ends_with("positions.table"));
    if (found->sizes() == target.sizes())
      target.copy_(*found);
    else if (positions && found->size(1) == target.size(1))
      target.copy_(found->index_select(0, torch::arange(target.size(0)).remainder(found->size(0))));
  }
}

}  // namespace heed::surgery
