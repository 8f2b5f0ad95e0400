#include "heed/nn/shared_conv.h"

#include <cmath>
#include <vector>

#include "heed/error.h"

namespace heed::nn {
namespace {

using torch::Tensor;

/// Cross-correlation of maps [M, 1, a, a] with kernels [K, 1, k, k] by Fourier transforms of maps with zeros around
/// them, as a 4f system multiplies spectra: [M, K, b, b].
Tensor correlate(const Tensor& maps, const Tensor& kernels, int64_t padding) {
  const int64_t a = maps.size(2), k = kernels.size(2), size = a + k - 1, side = a + 2 * padding - k + 1;
  const std::vector<int64_t> sizes{size, size}, axes{2, 3};
  const auto spectrum =
      torch::fft_rfftn(maps, sizes, axes) * torch::fft_rfftn(kernels.flip(axes).transpose(0, 1), sizes, axes);
  // Entry i of the full convolution has the kernel's last cell over cell i.
  const auto full = torch::fft_irfftn(spectrum, sizes, axes);
  return full.narrow(2, k - 1 - padding, side).narrow(3, k - 1 - padding, side);
}

}  // namespace

SharedConvImpl::SharedConvImpl(const SharedConvOptions& options) : options_(options) {
  const int64_t k = options.kernel, all = options.side * options.side;
  if (options_.cells == 0) options_.cells = all;
  require(
      options_.cells <= all && (options_.cells == all || k == options.side),
      "a shared convolution of {} cells on maps of {} x {} with kernels of {}: all cells, or kernels of the whole map, "
      "are accepted",
      options_.cells, options.side, options.side, k);
  const double bound = 1 / static_cast<double>(k);
  const auto sizes = options_.cells == all ? std::vector<int64_t>{options.kernels, 1, k, k}
                                           : std::vector<int64_t>{options.kernels, options_.cells};
  weight = register_parameter("weight", torch::empty(sizes).uniform_(-bound, bound));
  bias = register_parameter("bias", torch::zeros({options.kernels}));
}

Tensor SharedConvImpl::forward(const Tensor& x) {
  const int64_t side = options_.side, behind = side * side - options_.cells;
  const auto squares = [&](const Tensor& t) {
    return (behind > 0 ? torch::constant_pad_nd(t, {0, behind}) : t).reshape({-1, 1, side, side});
  };
  const auto maps = squares(x), kernels = behind > 0 ? squares(weight) : weight;
  const int64_t padding = options_.same ? options_.kernel / 2 : 0;
  const auto y = options_.optical ? correlate(maps, kernels, padding) + bias.view({1, -1, 1, 1})
                                  : torch::conv2d(maps, kernels, bias, 1, padding);
  auto sizes = x.sizes().vec();
  sizes.back() = y.size(1) * y.size(2) * y.size(3);
  return y.reshape(sizes);
}

int64_t side_of_map(int64_t cells) { return static_cast<int64_t>(std::ceil(std::sqrt(double(cells)))); }

}  // namespace heed::nn
