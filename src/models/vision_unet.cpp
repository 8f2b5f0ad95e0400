#include "heed/models/vision_unet.h"

#include "heed/mixers/attention_share.h"
#include "heed/nn/grid.h"
#include "heed/nn/start.h"

namespace heed {

using torch::Tensor;

VisionUnetImpl::VisionUnetImpl(const VisionSpec& spec, int64_t scales) : spec_(spec) {
  spec.check();
  const auto& base = spec.base;
  const auto patches = torch::nn::Conv2dOptions(spec.channels, base.dim, spec.patch).stride(spec.patch);
  embedding_ = register_module("embedding", torch::nn::Conv2d(patches));
  positions_ = register_parameter("positions", nn::started_rows({1, spec.rows() * spec.columns(), base.dim}));
  body_ = register_module("body", UNet(Grid{{spec.rows(), spec.columns()}}, base.dim, scales));
  for (size_t stop = 0; stop < body_->stops(); ++stop) {
    auto own = base;
    for (auto* size : {&own.dim, &own.heads, &own.kv_heads, &own.hidden})
      *size *= static_cast<int64_t>(body_->scale_of(stop)) + 1;
    own.grid = body_->grid(stop).sizes;
    own.max_length = own.grid[0] * own.grid[1];
    const auto name = "stop_" + std::to_string(stop);
    auto owner = register_module(name, std::make_shared<torch::nn::Module>(name));
    blocks_.push_back(make_blocks(*owner, own, false, torch::kFloat32));
    reducers_.push_back(make_reducers(*owner, spec.reducer, own));
  }
  norm_ = register_module("norm", nn::Norm(base.block.norm, base.dim, base.norm_eps));
  classifier_ = register_module("classifier", torch::nn::Linear(base.dim, spec.labels));
}

Tensor VisionUnetImpl::states(const Tensor& pixels, uint64_t seed) {
  check_pixels(pixels, spec_.channels, spec_.image_height, spec_.image_width);
  const auto x = body_(nn::to_tokens(embedding_(pixels)) + positions_, [&](size_t stop, const Tensor& cells) {
    MixerInput input;
    input.grid = body_->grid(stop);
    input.x = cells;
    return run_restored_blocks(blocks_[stop], std::move(input), reducers_[stop], 0, seed * body_->stops() + stop);
  });
  const auto states = norm_(x);
  return spec_.dense ? states : states.mean(1, true);
}

}  // namespace heed
