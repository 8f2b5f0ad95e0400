#include "heed/nn/grid.h"

#include <cmath>

#include "heed/error.h"

namespace heed::nn {

using torch::Tensor;

Tensor to_image(const Tensor& tokens, int64_t height, int64_t width) {
  return tokens.transpose(1, 2).unflatten(2, {height, width});
}

Tensor to_tokens(const Tensor& image) { return image.flatten(2).transpose(1, 2); }

GridConvImpl::GridConvImpl(int64_t channels, int64_t size, bool has_bias, int64_t dilation) : dilation_(dilation) {
  require(size % 2 == 1, "convolution of {} x {} cells; odd sizes are accepted", size, size);
  const double bound = 1.0 / static_cast<double>(size);
  weight = register_parameter("weight", torch::empty({channels, 1, size, size}).uniform_(-bound, bound));
  if (has_bias) bias = register_parameter("bias", torch::zeros({channels}));
}

Tensor GridConvImpl::forward(const Tensor& tokens, int64_t height, int64_t width) {
  const auto image = to_image(tokens, height, width).contiguous();
  const auto padding = weight.size(2) / 2 * dilation_;
  return to_tokens(torch::conv2d(image, weight, bias, 1, padding, dilation_, weight.size(0)));
}

Tensor rotate_by_cell(const Tensor& x, int64_t height, int64_t width) {
  const int64_t quarter = x.size(-1) / 4;  // pairs an axis
  if (quarter == 0) return x;
  const auto options = x.options();
  const auto frequencies =
      torch::exp(torch::arange(quarter, options) * (-std::log(10000.0) / static_cast<double>(quarter)));
  const auto rows = torch::arange(height, options).repeat_interleave(width),
             columns = torch::arange(width, options).repeat({height});
  const auto angles = torch::cat({torch::outer(rows, frequencies), torch::outer(columns, frequencies)}, 1);
  const auto rotated = x.narrow(-1, 0, 4 * quarter).unflatten(-1, {2 * quarter, 2});
  const auto a = rotated.select(-1, 0), b = rotated.select(-1, 1);
  const auto cos = angles.cos(), sin = angles.sin();
  auto out = torch::stack({a * cos - b * sin, a * sin + b * cos}, -1).flatten(-2);
  return x.size(-1) == 4 * quarter ? out : torch::cat({out, x.narrow(-1, 4 * quarter, x.size(-1) - 4 * quarter)}, -1);
}

}  // namespace heed::nn
