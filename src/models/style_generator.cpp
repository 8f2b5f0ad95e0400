#include "heed/models/style_generator.h"

#include <cmath>

#include "heed/error.h"
#include "heed/nn/gelu.h"
#include "heed/nn/grid.h"
#include "heed/nn/positions.h"

namespace heed {

using torch::Tensor;

namespace {

constexpr int64_t kBlocks = 2;  // of a resolution
constexpr int64_t kWider = 4;   // channels inside a perceptron, to one
constexpr double kLeak = 0.2;

/// Sinusoids of the row in one half of the channels, of the column in the other: [1, side^2, dim].
Tensor cell_sinusoids(int64_t side, int64_t dim) {
  const auto along = nn::sinusoidal(torch::arange(side), dim / 2).to(torch::kFloat32);
  const std::vector<int64_t> sizes{side, side, dim / 2};
  return torch::cat({along.unsqueeze(1).expand(sizes), along.unsqueeze(0).expand(sizes)}, 2).flatten(0, 1).unsqueeze(0);
}

Tensor twice_as_large(const Tensor& image) {
  return torch::upsample_bilinear2d(image, {2 * image.size(2), 2 * image.size(3)}, false);
}

}  // namespace

StyleGeneratorImpl::StyleGeneratorImpl(StyleGeneratorConfig config) : config_(std::move(config)) {
  const auto& c = config_;
  require(!c.dims.empty() && c.dims.size() <= 12, "style_generator: {} resolutions; 1 to 12 are accepted",
          c.dims.size());
  require(c.latent >= 1 && c.style >= 1 && c.mapping >= 1 && c.colours >= 1,
          "style_generator: latent = {}, style = {}, mapping = {}, colours = {}: 1 or more is accepted", c.latent,
          c.style, c.mapping, c.colours);
  require(c.window >= 2, "style_generator: window = {}; 2 cells or more are accepted", c.window);
  for (int64_t l = 0; l < c.mapping; ++l)
    mapping_.push_back(
        register_module("mapping_" + std::to_string(l), nn::EqualLinear(l == 0 ? c.latent : c.style, c.style)));
  first_ = register_parameter("first", torch::randn({1, 16, c.dims[0]}));
  for (size_t r = 0; r < c.dims.size(); ++r) {
    const int64_t dim = c.dims[r], side = int64_t{4} << r;
    require(dim > 0 && dim % 4 == 0, "style_generator: {} channels; multiples of 4 are accepted", dim);
    const auto name = "resolution_" + std::to_string(r);
    auto owner = register_module(name, std::make_shared<torch::nn::Module>(name));
    auto& resolution = resolutions_.emplace_back();
    resolution.grid.sizes = {side, side};
    if (r > 0) {
      const int64_t before = c.dims[r - 1];
      resolution.norm = owner->register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({before})));
      resolution.widen = owner->register_module("widen", torch::nn::Linear(before, dim));
      resolution.positions = owner->register_buffer("positions", cell_sinusoids(side, dim));
      resolution.share = owner->register_parameter("share", torch::zeros({1}));
    }
    for (int64_t b = 0; b < kBlocks; ++b) {
      const auto number = "block_" + std::to_string(b);
      auto place = owner->register_module(number, std::make_shared<torch::nn::Module>(number));
      auto& block = resolution.blocks.emplace_back();
      block.norm = place->register_module("norm", nn::AdaptiveInstanceNorm(c.style, dim));
      block.attention = place->register_module(
          "attention", make_mixer("double_window_attention",
                                  {{"dim", dim}, {"heads", c.heads}, {"size", std::min(c.window, side)}}));
      block.mlp_norm = place->register_module("mlp_norm", nn::AdaptiveInstanceNorm(c.style, dim));
      block.up = place->register_module("up", torch::nn::Linear(dim, kWider * dim));
      block.down = place->register_module("down", torch::nn::Linear(kWider * dim, dim));
    }
    resolution.colours = owner->register_module("colours", torch::nn::Linear(dim, c.colours));
  }
}

Tensor StyleGeneratorImpl::Block::operator()(const Tensor& cells, const Tensor& w, const Grid& grid) {
  const auto x = cells + attention->forward({.x = norm(cells, w), .grid = grid});
  return x + down(nn::gelu(up(mlp_norm(x, w))));
}

Tensor StyleGeneratorImpl::style(const Tensor& z) {
  require(z.dim() == 2 && z.size(1) == config_.latent, "style_generator: noise of shape {}: [batch, {}] is accepted",
          c10::str(z.sizes()), config_.latent);
  auto w = z * torch::rsqrt(z.square().mean(1, true) + 1e-8);
  for (auto& layer : mapping_) w = torch::leaky_relu(layer(w), kLeak);
  return w;
}

Tensor StyleGeneratorImpl::paint(const Tensor& w) {
  auto x = first_.expand({w.size(0), -1, -1});
  Tensor image;
  for (auto& resolution : resolutions_) {
    const int64_t side = resolution.grid.sizes[0];
    if (image.defined()) {
      const auto larger = twice_as_large(nn::to_image(x, side / 2, side / 2).contiguous());
      x = resolution.widen(resolution.norm(nn::to_tokens(larger))) + resolution.share * resolution.positions;
    }
    for (auto& block : resolution.blocks) x = block(x, w, resolution.grid);
    const auto painted = nn::to_image(resolution.colours(x), side, side);
    image = image.defined() ? twice_as_large(image) + painted : painted.contiguous();
  }
  return image;
}

}  // namespace heed
