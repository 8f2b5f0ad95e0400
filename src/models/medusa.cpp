#include "heed/models/medusa.h"

#include "heed/error.h"
#include "models/near_conv.h"

namespace heed {
namespace {

using torch::Tensor;

constexpr double kOpen = 2;  // the bias from which gates start: a product of many would let nothing through

Tensor resize(const Tensor& image, int64_t height, int64_t width) {
  return torch::upsample_bilinear2d(image, {height, width}, false);
}

}  // namespace

AttentionBodyImpl::AttentionBodyImpl(int64_t channels, int64_t width, int64_t levels) {
  require(width >= 1 && levels >= 1, "a body of {} channels and {} levels: 1 or more of each are accepted", width,
          levels);
  for (int64_t l = 0; l < levels; ++l) {
    const auto number = std::to_string(l);
    down_.push_back(
        register_module("down_" + number, near_conv(l == 0 ? channels : width << (l - 1), width << l, l == 0 ? 1 : 2)));
    if (l > 0)
      up_.push_back(register_module("up_" + number, near_conv((width << l) + (width << (l - 1)), width << (l - 1))));
  }
  out_ = register_module("out", near_conv(width, 1));
}

Tensor AttentionBodyImpl::forward(const Tensor& image) {
  std::vector<Tensor> levels;
  auto x = image;
  for (auto& conv : down_) levels.push_back(x = torch::relu(conv(x)));
  for (size_t l = levels.size() - 1; l-- > 0;) {
    const auto& finer = levels[l];
    x = torch::relu(up_[l](torch::cat({resize(x, finer.size(2), finer.size(3)), finer}, 1)));
  }
  return torch::sigmoid(out_(x));
}

MedusaImpl::MedusaImpl(const PyramidConfig& stages, const MedusaConfig& config) : config_(config) {
  pyramid = register_module("pyramid", VisionPyramid(stages));
  for (size_t s = 0; s < stages.stages.size(); ++s) {
    const auto number = std::to_string(s);
    if (s == 0 || !config.shared)
      bodies.push_back(register_module("body_" + number, AttentionBody(stages.channels, config.width, config.levels)));
    Head head{register_module("head_hidden_" + number, near_conv(1, config.head_channels)),
              register_module("head_" + number, near_conv(config.head_channels, 1))};
    torch::NoGradGuard no_grad;
    head.out->bias.fill_(kOpen);
    heads_.push_back(head);
  }
}

std::vector<Tensor> MedusaImpl::gates(const Tensor& pixels) {
  const auto& c = pyramid->config();
  check_pixels(pixels, c.channels, c.image_height, c.image_width);
  std::vector<Tensor> maps, gates;
  for (auto& body : bodies) maps.push_back(body(pixels));
  for (size_t s = 0; s < heads_.size(); ++s) {
    const auto grid = c.grid(s).sizes;
    const auto map = resize(maps[config_.shared ? 0 : s], grid[0], grid[1]);
    const auto gate = torch::sigmoid(heads_[s].out(torch::relu(heads_[s].hidden(map)))).flatten(2).transpose(1, 2);
    gates.push_back(config_.residual ? 1 + gate : gate);
  }
  return gates;
}

Tensor MedusaImpl::states(const Tensor& pixels, uint64_t seed) {
  return pyramid->read(pyramid->features(pixels, seed, nullptr, gates(pixels)));
}

}  // namespace heed
