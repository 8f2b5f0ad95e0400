#include "heed/models/vision.h"

#include "heed/error.h"
#include "heed/nn/start.h"

namespace heed {

using torch::Tensor;

VisionTransformerImpl::VisionTransformerImpl(VisionConfig config, torch::ScalarType dtype)
    : config_(std::move(config)) {
  const auto& c = config_;
  require(c.image_height % c.patch_height == 0 && c.image_width % c.patch_width == 0,
          "an image of {} x {} does not divide into patches of {} x {}", c.image_height, c.image_width, c.patch_height,
          c.patch_width);
  config_.grid = {c.image_height / c.patch_height, c.image_width / c.patch_width};
  torch::NoGradGuard no_grad;
  const auto options = torch::nn::Conv2dOptions(c.channels, c.dim, {c.patch_height, c.patch_width});
  patches_ = register_module(
      "patch_embedding", torch::nn::Conv2d(torch::nn::Conv2dOptions(options).stride({c.patch_height, c.patch_width})));
  if (c.class_token) class_token_ = register_parameter("class_token", nn::started_rows({1, 1, c.dim}));
  if (c.patch_positions)
    positions_ = register_parameter("positions", nn::started_rows({1, c.patches() + int64_t(c.class_token), c.dim}));
  blocks = make_blocks(*this, c, false, dtype);
  norm_ = register_module("norm", nn::Norm(c.block.norm, c.dim, c.norm_eps));
  const auto linear = [&](const char* name, int64_t out) {
    return register_module(name, nn::started_linear(c.dim, out));
  };
  if (c.pooler) pooler_ = linear("pooler", c.dim);
  if (c.labels) classifier_ = linear("classifier", c.labels);
  to(dtype);
}

Tensor VisionTransformerImpl::embed(const Tensor& pixels) {
  const auto& c = config_;
  const auto fits = [&](int64_t dim, int64_t size, int64_t patch) {
    return c.patch_positions ? pixels.size(dim) == size : pixels.size(dim) > 0 && pixels.size(dim) % patch == 0;
  };
  require(pixels.dim() == 4 && pixels.size(1) == c.channels && fits(2, c.image_height, c.patch_height) &&
              fits(3, c.image_width, c.patch_width),
          "pixels do not fit: [batch, {}, {}, {}] is accepted{}", c.channels, c.image_height, c.image_width,
          c.patch_positions ? "" : ", or other heights and widths that patches divide");
  auto x = patches_(pixels).flatten(2).transpose(1, 2);
  if (c.class_token) x = torch::cat({class_token_.expand({x.size(0), 1, c.dim}), x}, 1);
  return c.patch_positions ? x + positions_ : x;
}

Tensor VisionTransformerImpl::forward(const Tensor& pixels, uint64_t seed, Taps* taps) {
  const auto& c = config_;
  MixerInput input;
  input.x = embed(pixels);
  const bool told = std::all_of(c.layers.begin(), c.layers.end(), [](const LayerPlan& layer) {
    return layer.config.is_object() && layer.config.value("class_token", false);
  });
  if (!c.class_token || told) input.grid = Grid{{pixels.size(2) / c.patch_height, pixels.size(3) / c.patch_width}};
  input.taps = taps;
  return finish(run_blocks(blocks, std::move(input), nullptr, seed));
}

Tensor VisionTransformerImpl::image_state(const Tensor& hidden) const {
  return config_.class_token ? hidden.select(1, 0) : hidden.mean(1);
}

Tensor VisionTransformerImpl::pooled(const Tensor& hidden) {
  require(bool(pooler_), "this vision transformer has no pooler");
  return torch::tanh(pooler_(image_state(hidden)));
}

Tensor VisionTransformerImpl::logits(const Tensor& hidden) {
  require(bool(classifier_), "this vision transformer has no classifier");
  return classifier_(image_state(hidden));
}

}  // namespace heed
