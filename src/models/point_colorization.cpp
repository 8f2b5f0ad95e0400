#include "heed/models/point_colorization.h"

#include "heed/error.h"
#include "heed/nn/grid.h"
#include "heed/nn/positions.h"

namespace heed {

using torch::Tensor;

namespace {

constexpr int64_t kNear = 3;  // tokens a side that a head looks at

/// One row and column more at every border, mirrored at it; a single row or column has nothing but itself.
Tensor mirrored(const Tensor& image) {
  const auto around = [](const Tensor& t, int64_t axis) {
    const int64_t last = t.size(axis) - 1, inner = std::min<int64_t>(1, last);
    return torch::cat({t.narrow(axis, inner, 1), t, t.narrow(axis, last - inner, 1)}, axis);
  };
  return around(around(image, 2), 3);
}

}  // namespace

PointColorizationImpl::PointColorizationImpl(const VisionSpec& spec, const ColorizationConfig& config)
    : spec_(spec), config_(config) {
  spec_.check();
  const int64_t painted = 2 * spec_.patch * spec_.patch;
  require(spec_.channels == 4 && spec_.dense && spec_.labels == painted,
          "point_colorization: {} channels and {} labels a patch; 4 (lightness, two colours, mask) and {} are accepted",
          spec_.channels, spec_.labels, painted);
  require(spec_.reducer.empty() || !config.relative,
          "point_colorization: a reducer beside relative = true: biases by offset are of all patches; relative = false "
          "is accepted");
  auto& base = spec_.base;
  base.max_length = spec_.rows() * spec_.columns();
  if (config.relative)
    for (auto& layer : base.layers)
      if (layer.mixer == "dense") {  // one window that is the image
        layer.mixer = "multi_axis_attention";
        layer.config = {{"axes", "block"}, {"size", std::max(spec_.rows(), spec_.columns())}};
      }
  patches_ = register_module(
      "patches",
      torch::nn::Conv2d(torch::nn::Conv2dOptions(spec_.channels, base.dim, spec_.patch).stride(spec_.patch)));
  blocks_ = make_blocks(*this, base, false, torch::kFloat32);
  reducers_ = make_reducers(*this, spec.reducer, base);
  norm_ = register_module("norm", nn::Norm(base.block.norm, base.dim, base.norm_eps));
  switch (config.head) {
    case ColorizationHead::convolution:
      convolution_ = register_module("head", torch::nn::Conv2d(torch::nn::Conv2dOptions(base.dim, painted, kNear)));
      return;
    case ColorizationHead::attention:
      attention_ = register_module(
          "near",
          make_mixer("halo_attention", {{"dim", base.dim}, {"heads", base.heads}, {"block", 1}, {"halo", kNear / 2}}));
      [[fallthrough]];
    case ColorizationHead::linear:
      linear_ = register_module("head", torch::nn::Linear(base.dim, painted));
  }
}

Tensor PointColorizationImpl::tokens(const Tensor& pixels, uint64_t seed) {
  check_pixels(pixels, spec_.channels, spec_.image_height, spec_.image_width);
  const auto mask = pixels.narrow(1, 3, 1);
  const auto shown = torch::cat({pixels.narrow(1, 0, 1), pixels.narrow(1, 1, 2) * mask, mask}, 1);
  MixerInput input;
  input.grid = Grid{{spec_.rows(), spec_.columns()}};
  input.x = nn::to_tokens(patches_(shown)).contiguous();
  input.x = input.x + nn::sinusoidal(torch::arange(input.x.size(1)), spec_.base.dim).to(input.x.scalar_type());
  return norm_(run_restored_blocks(blocks_, std::move(input), reducers_, 0, seed));
}

Tensor PointColorizationImpl::paint(const Tensor& tokens) {
  if (convolution_) {
    const auto image = nn::to_image(tokens, spec_.rows(), spec_.columns()).contiguous();
    return torch::tanh(nn::to_tokens(convolution_(mirrored(image))));
  }
  if (!attention_) return torch::tanh(linear_(tokens));
  MixerInput input;
  input.x = tokens;
  input.grid = Grid{{spec_.rows(), spec_.columns()}};
  return torch::tanh(linear_(tokens + attention_->forward(input)));
}

}  // namespace heed
