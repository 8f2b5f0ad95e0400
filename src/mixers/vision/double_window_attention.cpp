// Half of the heads attend inside windows, the other half inside windows that begin half a window further; or all heads
// of a layer in the one sort, all of the next in the other.
#include "heed/error.h"
#include "heed/nn/start.h"
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"

namespace heed {
namespace {

using nn::Windows;
using torch::Tensor;
using vision::Image;

class DoubleWindowAttention final : public vision::ImageMixer {
 public:
  DoubleWindowAttention(vision::WindowHeads heads, int64_t size, bool alternate)
      : ImageMixer("double_window_attention", heads.dim), size_(size), alternate_(alternate) {
    require(heads.heads % 2 == 0, "double_window_attention: heads = {}; an even number is accepted", heads.heads);
    const auto half = heads.heads / 2;
    qkv_ = register_module("qkv", nn::started_linear(heads.dim, 3 * heads.dim));
    out_ = register_module("o_proj", nn::started_linear(heads.dim, heads.dim));
    for (auto* core : {&still_, &shifted_}) *core = vision::WindowCore(half, size, size);
    register_module("still", still_);
    register_module("shifted", shifted_);
  }

 protected:
  Tensor mix_image(const Image& image) override {
    const auto parts = qkv_(image.cells).chunk(3, 3);
    const auto half = [&](int64_t which) {
      std::array<Tensor, 3> cut;
      for (size_t i = 0; i < 3; ++i) cut[i] = parts[i].chunk(2, 3)[static_cast<size_t>(which)];
      return cut;
    };
    const auto windows = [&](int64_t shift) {
      return Windows(Windows::Kind::block, image.height(), image.width(), size_, size_, shift);
    };
    const int64_t moved = size_ / 2, all = image.layer % 2 == 1 ? moved : 0;
    const auto near = windows(alternate_ ? all : 0), far = windows(alternate_ ? all : moved);
    const auto [q, k, v] = half(0);
    const auto [q2, k2, v2] = half(1);
    return out_(torch::cat({still_(near, image, q, k, v), shifted_(far, image, q2, k2, v2)}, 3));
  }

 private:
  int64_t size_;
  bool alternate_;
  torch::nn::Linear qkv_{nullptr}, out_{nullptr};
  vision::WindowCore still_{nullptr}, shifted_{nullptr};
};

}  // namespace

RegistryRow rows::double_window_attention() {
  return vision::image_row(
      {.name = "double_window_attention",
       .paper = "StyleSwin: Transformer-based GAN for High-resolution Image Generation (arXiv 2112.10762)",
       .year = 2021,
       .cost = "O(N w^2)",
       .parameters = vision::window_parameters({{"size", 8, "windows are of size x size cells"},
                                                {"shift", "half",
                                                 "half: of the heads; alternate: all heads in every second layer, from "
                                                 "the second on, none in the others (Swin)"}}),
       .small = {{"dim", 24}, {"heads", 2}, {"size", 4}},
       .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
         ConfigReader reader("double_window_attention", json);
         const auto heads = vision::WindowHeads::read(reader);
         const auto size = reader.integer("size", 8, 2, 1024);
         const bool alternate = reader.choice("shift", "half", {"half", "alternate"}) == "alternate";
         reader.finish();
         return std::make_shared<DoubleWindowAttention>(heads, size, alternate);
       }});
}

}  // namespace heed
