// A learned filter in the frequencies of the image: a convolution as large as the image itself.
#include "heed/error.h"
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"

namespace heed {
namespace {

using torch::Tensor;
using vision::Image;

class SpectralGating final : public vision::ImageMixer {
 public:
  SpectralGating(int64_t dim, int64_t height, int64_t width)
      : ImageMixer("spectral_gating", dim), height_(height), width_(width) {
    filter_ = register_parameter("filter", torch::randn({height, width / 2 + 1, dim, 2}) * 0.02);
  }

 protected:
  Tensor mix_image(const Image& image) override {
    const auto wide = image.cells.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
    const std::vector<int64_t> axes{1, 2}, sizes{image.height(), image.width()};
    const auto spectrum = torch::fft_rfftn(image.cells.to(wide), sizes, axes, "ortho");
    const auto gated = spectrum * complex_filter(image.height(), image.width(), wide);
    return torch::fft_irfftn(gated, sizes, axes, "ortho").to(image.cells.scalar_type());
  }

 private:
  /// The filter [H, W / 2 + 1, C, 2], its real and imaginary parts brought to an image of another size.
  Tensor filter_of(int64_t height, int64_t width) const {
    if (height == height_ && width == width_) return filter_;
    const auto planes = filter_.permute({2, 3, 0, 1}).flatten(0, 1).unsqueeze(0);
    const auto resized = torch::upsample_bilinear2d(planes, {height, width / 2 + 1}, true);
    return resized.squeeze(0).unflatten(0, {dim_, 2}).permute({2, 3, 0, 1});
  }

  Tensor complex_filter(int64_t height, int64_t width, torch::ScalarType type) const {
    const auto parts = filter_of(height, width).to(type);
    return torch::complex(parts.select(3, 0), parts.select(3, 1));
  }

  int64_t height_, width_;
  Tensor filter_;  // [height, width / 2 + 1, C, 2]
};

}  // namespace

RegistryRow rows::spectral_gating() {
  return vision::image_row(
      {.name = "spectral_gating",
       .paper = "SpectFormer: Frequency and Attention is what you need in a Vision Transformer (arXiv 2304.06446)",
       .year = 2023,
       .cost = "O(N log N)",
       .parameters = {{"dim", 64, "channels C of the tokens"},
                      {"height", 14,
                       "cells of the image the filter is made for (a model of images tells its own); others resize it"},
                      {"width", 14, "likewise"},
                      {"causal", false, "only false is accepted"}},
       .small = {{"dim", 24}, {"height", 4}, {"width", 5}},
       .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
         ConfigReader reader("spectral_gating", json);
         const auto dim = reader.integer("dim", 64, 1, 1 << 20);
         const auto height = reader.integer("height", 14, 1, 1 << 14), width = reader.integer("width", 14, 1, 1 << 14);
         require(!reader.get("causal", false), "spectral_gating: causal = true is not accepted");
         reader.finish();
         return std::make_shared<SpectralGating>(dim, height, width);
       }});
}

}  // namespace heed
