// Attention inside blocks of neighbours, then inside grids of far cells: every cell reaches every other in two steps.
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"

namespace heed {
namespace {

using nn::Windows;
using torch::Tensor;
using vision::Image;

class MultiAxisAttention final : public vision::ImageMixer {
 public:
  MultiAxisAttention(vision::WindowHeads heads, int64_t size, const std::string& axes)
      : ImageMixer("multi_axis_attention", heads.dim), size_(size) {
    if (axes != "grid") block_ = register_module("block", vision::WindowAttention(heads, size, size));
    if (axes != "block") grid_ = register_module("grid", vision::WindowAttention(heads, size, size));
    if (axes == "both") norm_ = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({heads.dim})));
  }

 protected:
  Tensor mix_image(const Image& image) override {
    const auto windows = [&](Windows::Kind kind) { return Windows(kind, image.height(), image.width(), size_, size_); };
    if (!grid_) return block_(windows(Windows::Kind::block), image);
    if (!block_) return grid_(windows(Windows::Kind::grid), image);
    // The block around this mixer adds its input: what it adds to is the stream behind the block attention.
    const auto near = block_(windows(Windows::Kind::block), image);
    const Image between{image.shown(norm_(image.cells + near)), image.hidden};
    return near + grid_(windows(Windows::Kind::grid), between);
  }

 private:
  int64_t size_;
  vision::WindowAttention block_{nullptr}, grid_{nullptr};
  torch::nn::LayerNorm norm_{nullptr};
};

}  // namespace

RegistryRow rows::multi_axis_attention() {
  return vision::image_row({.name = "multi_axis_attention",
                            .paper = "MaxViT: Multi-Axis Vision Transformer (arXiv 2204.01697)",
                            .year = 2022,
                            .cost = "O(N w^2)",
                            .parameters = vision::window_parameters(
                                {{"size", 7, "blocks, and grids, are of size x size cells"},
                                 {"axes", "both", "block, grid, or both in turn: blocks, a norm, then grids"}}),
                            .small = {{"dim", 24}, {"heads", 3}, {"size", 2}},
                            .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
                              ConfigReader reader("multi_axis_attention", json);
                              const auto heads = vision::WindowHeads::read(reader);
                              const auto size = reader.integer("size", 7, 1, 1024);
                              const auto axes = reader.choice("axes", "both", {"both", "block", "grid"});
                              reader.finish();
                              return std::make_shared<MultiAxisAttention>(heads, size, axes);
                            }});
}

}  // namespace heed
