#include "probe/observed_layer.h"

namespace heed::probe {
namespace {

using torch::Tensor;

constexpr int64_t kRowsAtOnce = 32;  // weights of so many rows exist at a time

}  // namespace

Tensor ObservedLayer::attend_chunk(const Chunk& chunk) {
  Tensor lse;
  const auto out = attend_slots(chunk, chunk.call.options.mask, &lse);
  const auto rows = observer_.rows ? observer_.rows(chunk.first, chunk.size()) : Tensor();
  if (!rows.defined()) return out;
  for (const auto& block : rows.split(kRowsAtOnce))
    observer_.weights(chunk.call.layer.index, attention_weights(chunk.q, kv_.keys(), lse, block, chunk.call.options),
                      block + chunk.first);
  return out;
}

Tensor ObservedLayer::attend_step(const Chunk& chunk) {
  ops::DecodeOptions options;
  options.scale = chunk.call.options.scale;
  options.softcap = chunk.call.options.softcap;
  options.mask = chunk.call.options.mask;
  options.arg_max = bool(observer_.arg_max);
  const auto result = decode(chunk.q, everything(), options);
  if (observer_.arg_max) observer_.arg_max(chunk.call.layer.index, result.arg_max.squeeze(2));
  return result.out;
}

void replace_caches(cache::Session& session, const std::function<std::unique_ptr<cache::LayerCache>(int64_t)>& make) {
  auto& layers = session.state().layers;
  for (size_t l = 0; l < layers.size(); ++l)
    if (dynamic_cast<cache::LayerCache*>(layers[l].get())) layers[l] = make(int64_t(l));
}

}  // namespace heed::probe
