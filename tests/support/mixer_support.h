// What tests of mixers share: weights from one to another, sequences fed in parts.
#pragma once

#include "heed/mixers/token_mixer.h"
#include "support/torch_support.h"

namespace heed::test {

/// Weights of the parameters that both have by name and shape.
inline void copy_weights(TokenMixer& to, const TokenMixer& from) {
  torch::NoGradGuard no_grad;
  auto target = to.named_parameters();
  for (const auto& entry : from.named_parameters())
    if (auto* found = target.find(entry.key()); found != nullptr && found->sizes() == entry.value().sizes())
      found->copy_(entry.value());
}

/// Feeds x in parts and joins the outputs.
inline torch::Tensor in_parts(TokenMixer& mixer, const torch::Tensor& x, const std::vector<int64_t>& counts) {
  auto state = mixer.make_state(x.size(0));
  std::vector<torch::Tensor> parts;
  for (int64_t at = 0, turn = 0; at < x.size(1); ++turn) {
    const int64_t count = std::min(counts[size_t(turn) % counts.size()], x.size(1) - at);
    parts.push_back(mixer.forward({.x = x.slice(1, at, at + count)}, state.get()));
    at += count;
  }
  return torch::cat(parts, 1);
}

/// Of four layers of a causal attention mixer with these settings the first and the last are dense, given
/// `dense_layers` for them, and the others are not.
inline void expect_dense_layers(const char* name, nlohmann::json config) {
  torch::manual_seed(9);
  torch::NoGradGuard no_grad;
  config.update({{"dim", 16}, {"heads", 2}, {"dense_layers", {0, -1}}});
  auto mixer = make_mixer(name, config), whole = make_mixer("dense", {{"dim", 16}, {"heads", 2}});
  mixer->eval(), whole->eval();
  for (auto& p : mixer->parameters()) p.normal_();
  copy_weights(*whole, *mixer);
  MixerInput in;
  in.x = torch::randn({1, 40, 16});
  const auto expected = whole->forward(in);
  for (int64_t layer = 0; layer < 4; ++layer) {
    in.layer = {layer, 4};
    EXPECT_EQ(relative_error(mixer->forward(in), expected) < kForwardTolerance, layer == 0 || layer == 3) << layer;
  }
}

}  // namespace heed::test
