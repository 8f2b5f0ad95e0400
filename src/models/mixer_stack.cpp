#include "heed/models/mixer_stack.h"

#include <cmath>

#include "heed/nn/start.h"

namespace heed {

using torch::Tensor;

MixerStackImpl::MixerStackImpl(const std::string& mixer, nlohmann::json config, int64_t dim, int64_t layers) {
  if (config.is_null()) config = nlohmann::json::object();
  config["dim"] = dim;
  for (int64_t i = 0; i < layers; ++i) {
    const auto number = std::to_string(i);
    norms_.push_back(register_module("norm_" + number, nn::Norm(formats::NormKind::rms, dim, 1e-5)));
    mixers_.push_back(register_module("mixer_" + number, make_mixer(mixer, config)));
    nn::scale_outputs(*mixers_.back(), 1 / std::sqrt(static_cast<double>(layers)));
  }
}

Tensor MixerStackImpl::added(size_t layer, MixerInput input, MixerState* state) {
  input.layer = {static_cast<int64_t>(layer), static_cast<int64_t>(mixers_.size())};
  input.residual = input.x;
  input.x = norms_[layer](input.x);
  return mixers_[layer]->forward(input, state);
}

Tensor MixerStackImpl::forward(MixerInput input, const MixerStates* states) {
  for (size_t i = 0; i < mixers_.size(); ++i)
    input.x = input.x + added(i, input, states == nullptr ? nullptr : states->at(i).get());
  return input.x;
}

MixerStates MixerStackImpl::make_states(int64_t batch) const {
  MixerStates states;
  for (const auto& mixer : mixers_) states.push_back(mixer->make_state(batch));
  return states;
}

}  // namespace heed
