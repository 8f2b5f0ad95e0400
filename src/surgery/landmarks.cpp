#include "heed/surgery/landmarks.h"

#include "heed/error.h"
#include "heed/nn/landmark_tokens.h"
#include "heed/surgery/tiled_positions.h"

namespace heed::surgery {

using torch::Tensor;

DecoderLm add_landmarks(DecoderLm& model, const nlohmann::json& mixer) {
  auto config = model->config();
  const bool given = mixer.value("landmarks", "inserted") == "given";
  config.vocab_size += given;
  for (size_t l = 0; l < config.layers.size(); ++l) {
    auto& layer = config.layers[l];
    require(layer.mixer == "dense", "landmarks: layer {} is {}: dense attention is accepted", l, layer.mixer);
    layer.mixer = "landmark_attention";
    if (layer.config.is_null()) layer.config = nlohmann::json::object();
    layer.config.update(mixer);
  }
  DecoderLm changed(config, model->parameters().front().scalar_type());
  take_weights(changed, model);
  const auto old = model->named_parameters();
  torch::NoGradGuard no_grad;
  for (auto& entry : changed->named_parameters()) {
    const auto* from = old.find(entry.key());
    // The embedding, and the head where it is not tied, have a token more.
    if (from && from->sizes() != entry.value().sizes()) entry.value().copy_(torch::cat({*from, from->mean(0, true)}));
  }
  changed->train(model->is_training());
  return changed;
}

train::LmBatch with_landmarks(const train::LmBatch& batch, int64_t block, int64_t id, bool landmark_targets) {
  const auto tokens = nn::insert_landmarks(batch.tokens, block, id);
  // Weights belong to the targets, which are all tokens but the first.
  const auto places = nn::landmark_places(tokens.size(1), block);
  const auto weights = torch::full(tokens.sizes(), landmark_targets ? 1.0 : 0.0, batch.weights.options());
  weights.index_copy_(1, places.logical_not().nonzero().squeeze(1), torch::constant_pad_nd(batch.weights, {1, 0}));
  return {tokens, weights.slice(1, 1)};
}

}  // namespace heed::surgery
