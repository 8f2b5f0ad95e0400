#include "heed/models/head_order.h"

#include <algorithm>

#include "heed/error.h"
#include "heed/mixers/attention_mixer.h"

namespace heed {

void reorder_kv_heads(DecoderLm& model, int64_t layer, const std::vector<int64_t>& order) {
  torch::NoGradGuard no_grad;
  require(layer >= 0 && layer < int64_t(model->blocks.size()), "layer {}: 0 to {} is accepted", layer,
          model->blocks.size() - 1);
  auto* mixer = dynamic_cast<AttentionMixer*>(model->blocks[size_t(layer)]->mixer.get());
  require(mixer, "layer {} is no attention: it has no heads to reorder", layer);
  const auto& config = mixer->config();
  auto sorted = order;
  std::sort(sorted.begin(), sorted.end());
  bool whole = int64_t(sorted.size()) == config.kv_heads;
  for (size_t i = 0; whole && i < sorted.size(); ++i) whole = sorted[i] == int64_t(i);
  require(whole, "layer {}: an order of {} KV heads must name each of {} once", layer, order.size(), config.kv_heads);
  const auto index = torch::tensor(order);
  for (auto& entry : mixer->named_parameters()) {
    const auto projection = entry.key().substr(0, entry.key().find('.'));
    const bool output = projection == "o_proj";
    if (!output && projection != "q_proj" && projection != "k_proj" && projection != "v_proj") continue;
    if (output && entry.key() == "o_proj.bias") continue;
    auto& weight = entry.value();
    const int64_t dim = output ? 1 : 0;
    weight.copy_(weight.unflatten(dim, {config.kv_heads, -1}).index_select(dim, index).flatten(dim, dim + 1));
  }
}

}  // namespace heed
