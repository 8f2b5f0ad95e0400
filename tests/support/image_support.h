// Mixers of images under test: made in double, asked what depends on what.
#pragma once

#include "heed/mixers/token_mixer.h"
#include "support/torch_support.h"

namespace heed::test {

inline std::shared_ptr<TokenMixer> image_mixer(const char* name, nlohmann::json config) {
  auto mixer = make_mixer(name, config);
  mixer->to(torch::kFloat64);
  mixer->eval();
  return mixer;
}

/// The same with all parameters away from their first values.
inline std::shared_ptr<TokenMixer> drawn_image_mixer(const char* name, nlohmann::json config) {
  auto mixer = image_mixer(name, std::move(config));
  torch::NoGradGuard no_grad;
  for (auto& parameter : mixer->parameters()) parameter.add_(torch::randn_like(parameter) * 0.3);
  return mixer;
}

/// Seeds torch, and says so where the test fails.
inline void seed_images(uint64_t seed) {
  testing::Test::RecordProperty("seed", int(seed));
  torch::manual_seed(seed);
}

inline MixerInput image_input(int64_t height, int64_t width, int64_t dim, int64_t batch = 1) {
  MixerInput in;
  in.x = torch::randn({batch, height * width, dim}, torch::kFloat64);
  in.grid = Grid{{height, width}};
  return in;
}

/// A linear map by the weights that a module has under `name`; without a bias where it has none.
inline torch::Tensor linear_of(torch::nn::Module& module, const std::string& name, const torch::Tensor& x) {
  const auto parameters = module.named_parameters();
  const auto* bias = parameters.find(name + ".bias");
  return torch::linear(x, parameters[name + ".weight"], bias ? *bias : torch::Tensor());
}

/// bool [H W]: the cells whose output depends on the input of cell `from`.
inline torch::Tensor reached(TokenMixer& mixer, MixerInput in, int64_t from) {
  const int64_t cells = in.x.size(1);
  auto moved = in.x.detach().clone();
  moved.select(1, from).add_(torch::randn_like(moved.select(1, from)));
  const auto before = mixer.forward(in);
  in.x = moved;
  const auto change = (mixer.forward(in) - before).abs().amax({0, 2});
  return (change > 1e-12).view({cells});
}

inline torch::Tensor parameter(torch::nn::Module& module, const std::string& name) {
  auto* found = module.named_parameters().find(name);
  TORCH_CHECK(found != nullptr, "no parameter ", name);
  return *found;
}

}  // namespace heed::test
