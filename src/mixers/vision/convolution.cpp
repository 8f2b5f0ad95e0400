// A convolution in the place of attention, as in the blocks of residual networks, and what may gate it.
#include "heed/error.h"
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"

namespace heed {
namespace {

using torch::Tensor;

struct ConvolutionConfig {
  int64_t dim = 64, kernel = 3;
  bool depthwise = false;
  nlohmann::json gate = nlohmann::json::object();
};

class Convolution final : public vision::ImageMixer {
 public:
  explicit Convolution(const ConvolutionConfig& c) : ImageMixer("convolution", c.dim) {
    conv_ = register_module(
        "conv",
        torch::nn::Conv2d(
            torch::nn::Conv2dOptions(c.dim, c.dim, c.kernel).padding(c.kernel / 2).groups(c.depthwise ? c.dim : 1)));
    if (c.gate.empty()) return;
    auto settings = c.gate;
    settings.erase("name");
    settings["dim"] = c.dim;
    gate_ = register_module("gate", make_mixer(c.gate["name"].get<std::string>(), settings));
  }

 protected:
  Tensor mix_image(const vision::Image& image) override {
    const auto around = vision::channels_last(conv_(vision::channels_first(image.cells)));
    if (!gate_) return around;
    MixerInput input;
    input.x = image.shown(around).flatten(1, 2);
    input.grid = Grid{{image.height(), image.width()}};
    if (image.hidden.defined()) input.key_padding = image.hidden.flatten(1);
    return gate_->forward(input).unflatten(1, {image.height(), image.width()});
  }

 private:
  torch::nn::Conv2d conv_{nullptr};
  std::shared_ptr<TokenMixer> gate_;
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
                      {"depthwise", false, "each channel is made from itself alone"},
                      {"gate", nlohmann::json::object(),
                       "a mixer of images that gets what the convolution makes, {\"name\": \"squeeze_excitation\"} and "
                       "its parameters; {}: none"},
                      {"causal", false, "only false is accepted"}},
       .small = {{"dim", 24}},
       .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
         ConfigReader reader("convolution", json);
         ConvolutionConfig c;
         c.dim = reader.integer("dim", c.dim, 1, 1 << 20);
         c.kernel = reader.integer("kernel", c.kernel, 1, 1023);
         c.depthwise = reader.get("depthwise", c.depthwise);
         c.gate = reader.object("gate");
         require(c.kernel % 2 == 1, "convolution: kernel = {}; an odd number is accepted", c.kernel);
         require(c.gate.empty() || (c.gate.contains("name") && c.gate["name"].is_string()),
                 "convolution: gate = {}: an object with the name of a mixer is accepted", c.gate.dump());
         require(!reader.get("causal", false), "convolution: causal = true is not accepted: cells have no order");
         reader.finish();
         return std::make_shared<Convolution>(c);
       }});
}

}  // namespace heed
