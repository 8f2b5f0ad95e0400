// A convolution of all channels in the place of attention, as in the blocks of residual networks.
#include "heed/error.h"
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"

namespace heed {
namespace {

using torch::Tensor;

class Convolution final : public vision::ImageMixer {
 public:
  Convolution(int64_t dim, int64_t kernel) : ImageMixer("convolution", dim) {
    require(kernel % 2 == 1, "convolution: kernel = {}; an odd number is accepted", kernel);
    conv_ = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(dim, dim, kernel).padding(kernel / 2)));
  }

 protected:
  Tensor mix_image(const vision::Image& image) override {
    return vision::channels_last(conv_(vision::channels_first(image.cells)));
  }

 private:
  torch::nn::Conv2d conv_{nullptr};
};

}  // namespace

RegistryRow rows::convolution() {
  return vision::image_row(
      {.name = "convolution",
       .paper = "Deep Residual Learning for Image Recognition (arXiv 1512.03385)",
       .year = 2015,
       .cost = "O(N k^2)",
       .parameters = {{"dim", 64, "channels C of the tokens"},
                      {"kernel", 3, "k: cells a side of the kernel, odd"},
                      {"causal", false, "only false is accepted"}},
       .small = {{"dim", 24}},
       .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
         ConfigReader reader("convolution", json);
         const auto dim = reader.integer("dim", 64, 1, 1 << 20), kernel = reader.integer("kernel", 3, 1, 1023);
         require(!reader.get("causal", false), "convolution: causal = true is not accepted: cells have no order");
         reader.finish();
         return std::make_shared<Convolution>(dim, kernel);
       }});
}

}  // namespace heed
