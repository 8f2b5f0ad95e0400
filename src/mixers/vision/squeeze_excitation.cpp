// The mean of the image gates its channels.
#include "heed/error.h"
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"

namespace heed {
namespace {

using torch::Tensor;

class SqueezeExcitation final : public vision::ImageMixer {
 public:
  SqueezeExcitation(int64_t dim, int64_t reduction) : ImageMixer("squeeze_excitation", dim) {
    const auto few = std::max<int64_t>(1, dim / reduction);
    squeeze_ = register_module("squeeze", torch::nn::Linear(dim, few));
    excite_ = register_module("excite", torch::nn::Linear(few, dim));
  }

 protected:
  Tensor mix_image(const vision::Image& image) override {
    const auto mean = vision::pool(image, image.cells, 1, 1).cells;  // [B, 1, C]
    return image.cells * torch::sigmoid(excite_(torch::relu(squeeze_(mean)))).unsqueeze(2);
  }

 private:
  torch::nn::Linear squeeze_{nullptr}, excite_{nullptr};
};

}  // namespace

RegistryRow rows::squeeze_excitation() {
  return vision::image_row({.name = "squeeze_excitation",
                            .paper = "Squeeze-and-Excitation Networks (arXiv 1709.01507)",
                            .year = 2018,
                            .cost = "O(N)",
                            .parameters = {{"dim", 64, "channels C of the tokens"},
                                           {"reduction", 16, "channels to one inside the gate, which has one at least"},
                                           {"causal", false, "only false is accepted"}},
                            .small = {{"dim", 24}, {"reduction", 4}},
                            .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
                              ConfigReader reader("squeeze_excitation", json);
                              const auto dim = reader.integer("dim", 64, 1, 1 << 20),
                                         reduction = reader.integer("reduction", 16, 1, 1 << 20);
                              require(!reader.get("causal", false),
                                      "squeeze_excitation: causal = true is not accepted: cells have no order");
                              reader.finish();
                              return std::make_shared<SqueezeExcitation>(dim, reduction);
                            }});
}

}  // namespace heed
