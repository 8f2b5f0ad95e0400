#include "heed/nn/wavelet.h"

#include <vector>

#include "heed/error.h"

namespace heed::nn {
namespace {

using torch::Tensor;

/// Of four tensors a, b, c, d: their sum and differences, halved. It undoes itself.
std::vector<Tensor> halved_sums(const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& d) {
  return {(a + b + c + d) / 2, (a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2};
}

}  // namespace

Tensor haar_bands(const Tensor& image) {
  require(image.dim() == 4 && image.size(2) % 2 == 0 && image.size(3) % 2 == 0,
          "wavelets of an image of shape {}: [batch, channels, even height, even width] is accepted",
          c10::str(image.sizes()));
  const auto pixels = [&](int64_t row, int64_t column) { return image.slice(2, row, {}, 2).slice(3, column, {}, 2); };
  return torch::cat(halved_sums(pixels(0, 0), pixels(0, 1), pixels(1, 0), pixels(1, 1)), 1);
}

Tensor from_haar_bands(const Tensor& bands) {
  require(bands.dim() == 4 && bands.size(1) % 4 == 0,
          "an image of wavelets of shape {}: [batch, 4 channels, height, width] is accepted", c10::str(bands.sizes()));
  const auto parts = bands.chunk(4, 1);
  const auto pixels = halved_sums(parts[0], parts[1], parts[2], parts[3]);
  const auto row = [&](size_t first) { return torch::stack({pixels[first], pixels[first + 1]}, 4).flatten(3); };
  return torch::stack({row(0), row(2)}, 3).flatten(2, 3);
}

}  // namespace heed::nn
