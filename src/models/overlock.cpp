#include "heed/models/overlock.h"

#include <algorithm>

#include "heed/error.h"
#include "heed/nn/grid.h"
#include "heed/nn/start.h"

namespace heed {

using torch::Tensor;

namespace {

constexpr int64_t kStages = OverlockConfig::kStages - 1;  // without the overview

}  // namespace

OverlockImpl::OverlockImpl(const VisionSpec& spec, const PyramidConfig& stages, const OverlockConfig& config)
    : spec_(spec), config_(config) {
  require(config.depth >= 1, "overlock: a second look of {} blocks; 1 or more are accepted", config.depth);
  require(int64_t(stages.stages.size()) == OverlockConfig::kStages, "overlock: {} stages; {} are accepted",
          stages.stages.size(), OverlockConfig::kStages);
  auto first = stages;
  first.stages.pop_back();
  if (!first.downsampling.empty()) {
    require(first.downsampling.back().mixer.empty(),
            "overlock: downsampling {} of the overview: a convolution is accepted", first.downsampling.back().mixer);
    first.downsampling.pop_back();
  }
  pyramid_ = register_module("pyramid", VisionPyramid(first));
  auto overview = stages.stages.back();
  const int64_t dim = first.stages.back().dim, context = std::max<int64_t>(1, overview.dim / 4);
  overview_grid_ = stages.grid(kStages);
  overview.grid = overview_grid_.sizes;
  overview.max_length = overview.grid[0] * overview.grid[1];
  overview_embedding_ = register_module(
      "overview_embedding", torch::nn::Conv2d(torch::nn::Conv2dOptions(dim, overview.dim, 3).stride(2).padding(1)));
  auto owner = register_module("overview", std::make_shared<torch::nn::Module>("overview"));
  overview_ = make_blocks(*owner, overview, false, torch::kFloat32);
  overview_reducers_ = make_reducers(*owner, spec.reducer, overview);
  overview_norm_ = owner->register_module("norm", nn::Norm(overview.block.norm, overview.dim, overview.norm_eps));
  if (!spec.dense)
    overview_classifier_ = owner->register_module("classifier", nn::started_linear(overview.dim, spec.labels));
  to_context_ = owner->register_module("to_context", nn::started_linear(overview.dim, context));

  auto focus = overview;
  focus.grid = stages.grid(kStages - 1).sizes;
  focus.dim = dim + context;
  focus.layers.assign(size_t(config.depth), {"context_mixing_conv", {{"context", context}, {"kernel", config.kernel}}});
  focus.heads = spec.base.heads;
  auto second = register_module("focus", std::make_shared<torch::nn::Module>("focus"));
  focus_ = make_blocks(*second, focus, false, torch::kFloat32);
  norm_ = second->register_module("norm", nn::Norm(focus.block.norm, focus.dim, focus.norm_eps));
  from_focus_ = second->register_module("read", nn::started_linear(focus.dim, dim));
  mix_ = register_parameter("context_mix", torch::ones({config.depth, 2}));
}

Tensor OverlockImpl::states(const Tensor& pixels, uint64_t seed) {
  auto features = pyramid_->features(pixels, seed);
  const auto grid = pyramid_->config().grid(kStages - 1).sizes;
  MixerInput input;
  input.grid = overview_grid_;
  const auto image = nn::to_image(features.back(), grid[0], grid[1]).contiguous();
  input.x = nn::to_tokens(overview_embedding_(image)).contiguous();
  const auto overview = overview_norm_(run_restored_blocks(overview_, input, overview_reducers_, 0, seed));
  overview_state_ = is_training() && !spec_.dense ? overview.mean(1) : Tensor();

  auto context = nn::to_image(to_context_(overview), overview_grid_.sizes[0], overview_grid_.sizes[1]).contiguous();
  context = nn::to_tokens(torch::upsample_bilinear2d(context, grid, false));
  if (!config_.context) context = torch::zeros_like(context);
  const int64_t own = features.back().size(2);
  auto x = features.back(), h = context;
  MixerInput look;
  look.grid = Grid{grid};
  for (size_t i = 0; i < focus_.size(); ++i) {
    look.layer = {int64_t(i), int64_t(focus_.size())};
    look.seed = seed + i;
    look.x = torch::cat({x, h}, 2);
    look.x = focus_[i]->forward(look);
    x = look.x.narrow(2, 0, own);
    h = mix_[int64_t(i)][0] * look.x.narrow(2, own, h.size(2)) + mix_[int64_t(i)][1] * context;
  }
  features.back() = features.back() + from_focus_(norm_(torch::cat({x, h}, 2)));
  return pyramid_->read(features);
}

Tensor OverlockImpl::training_loss(const Tensor& loss, const Judge& judge) {
  if (!overview_state_.defined()) return loss;
  const auto overview = judge(overview_classifier_(overview_state_));
  overview_state_ = Tensor();
  return loss + config_.overview_weight * overview;
}

}  // namespace heed
