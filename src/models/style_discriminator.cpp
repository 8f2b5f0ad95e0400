#include "heed/models/style_discriminator.h"

#include <cmath>

#include "heed/error.h"
#include "heed/nn/wavelet.h"

namespace heed {

using torch::Tensor;

StyleDiscriminatorImpl::Conv StyleDiscriminatorImpl::conv(const std::string& name, int64_t in, int64_t out,
                                                          int64_t size) {
  auto owner = register_module(name, std::make_shared<torch::nn::Module>(name));
  return {owner->register_parameter("weight", torch::randn({out, in, size, size})),
          owner->register_parameter("bias", torch::zeros({out}))};
}

Tensor StyleDiscriminatorImpl::Conv::operator()(const Tensor& x) const {
  const double fan_in = double(weight.size(1) * weight.size(2) * weight.size(3));
  const auto y = torch::conv2d(x, weight / std::sqrt(fan_in), bias, 1, weight.size(2) / 2);
  return torch::leaky_relu(y, 0.2) * std::sqrt(2.0);
}

StyleDiscriminatorImpl::StyleDiscriminatorImpl(StyleDiscriminatorConfig config) : config_(std::move(config)) {
  const auto& dims = config_.dims;
  require(!dims.empty() && dims.size() <= 12, "style_discriminator: {} resolutions; 1 to 12 are accepted", dims.size());
  require(config_.colours >= 1, "style_discriminator: colours = {}: 1 or more is accepted", config_.colours);
  for (size_t r = 0; r < dims.size(); ++r) {
    require(dims[r] >= 1, "style_discriminator: {} channels; 1 or more are accepted", dims[r]);
    const auto name = "resolution_" + std::to_string(r);
    const int64_t next = dims[std::min(r + 1, dims.size() - 1)];
    resolutions_.push_back({conv(name + "_read", 4 * config_.colours, dims[r], 1),
                            conv(name + "_mix", dims[r], dims[r], 3), conv(name + "_widen", dims[r], next, 3)});
  }
  last_ = conv("last", dims.back() + 1, dims.back(), 3);
  hidden_ = conv("hidden", 16 * dims.back(), dims.back(), 1);
  answer_ = register_parameter("answer", torch::randn({1, dims.back()}));
}

Tensor StyleDiscriminatorImpl::forward(const Tensor& images) {
  const int64_t side = config_.side();
  require(images.dim() == 4 && images.size(1) == config_.colours && images.size(2) == side && images.size(3) == side,
          "style_discriminator: images of shape {}: [batch, {}, {}, {}] is accepted", c10::str(images.sizes()),
          config_.colours, side, side);
  const auto half = [](const Tensor& t) { return torch::avg_pool2d(t, 2); };
  auto image = images;
  Tensor x;
  for (size_t r = 0; r < resolutions_.size(); ++r) {
    auto& resolution = resolutions_[r];
    const auto read = resolution.read(nn::haar_bands(image));
    x = resolution.widen(resolution.mix(x.defined() ? x + read : read));
    if (r + 1 == resolutions_.size()) break;
    x = half(x), image = half(image);
  }
  const auto spread = torch::sqrt(x.var(0, false) + 1e-8).mean();
  x = last_(torch::cat({x, spread.expand({x.size(0), 1, 4, 4})}, 1));
  x = hidden_(x.reshape({x.size(0), -1, 1, 1})).flatten(1);
  return torch::linear(x, answer_ / std::sqrt(double(answer_.size(1)))).squeeze(1);
}

Tensor discriminator_loss(const Tensor& real, const Tensor& fake) {
  return torch::softplus(fake).mean() + torch::softplus(-real).mean();
}

Tensor generator_loss(const Tensor& fake) { return torch::softplus(-fake).mean(); }

Tensor r1_penalty(const std::function<Tensor(const Tensor&)>& discriminator, const Tensor& real) {
  torch::AutoGradMode learns(true);
  const auto images = real.detach().requires_grad_();
  const auto gradient = torch::autograd::grad({discriminator(images).sum()}, {images}, {}, true, true)[0];
  return gradient.square().flatten(1).sum(1).mean();
}

}  // namespace heed
