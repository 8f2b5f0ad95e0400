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
      : ImageMixer("multi_axis_attention", heads.dim), size_(size), grid_first_(axes == "grid_first") {
    if (axes != "grid") block_ = register_module("block", vision::WindowAttention(heads, size, size));
    if (axes != "block") grid_ = register_module("grid", vision::WindowAttention(heads, size, size));
    if (block_ && grid_)
      norm_ = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({heads.dim})));
  }

 protected:
  Tensor mix_image(const Image& image) override {
    const auto windows = [&](Windows::Kind kind) { return Windows(kind, image.height(), image.width(), size_, size_); };
    const auto blocks = windows(Windows::Kind::block), grids = windows(Windows::Kind::grid);
    if (!grid_) return block_(blocks, image);
    if (!block_) return grid_(grids, image);
    // The block around this mixer adds its input: what it adds to is the stream behind the first attention.
    const auto first = grid_first_ ? grid_(grids, image) : block_(blocks, image);
    const Image between{image.shown(norm_(image.cells + first)), image.hidden};
    return first + (grid_first_ ? block_(blocks, between) : grid_(grids, between));
  }

 private:
  int64_t size_;
  bool grid_first_;
  vision::WindowAttention block_{nullptr}, grid_{nullptr};
  torch::nn::LayerNorm norm_{nullptr};
};

}  // namespace

RegistryRow rows::multi_axis_attention() {
  return vision::image_row(
      {.name = "multi_axis_attention",
       .paper = "MaxViT: Multi-Axis Vision Transformer (arXiv 2204.01697)",
       .year = 2022,
       .cost = "O(N w^2)",
       .parameters = vision::window_parameters(
           {{"size", 7, "blocks, and grids, are of size x size cells"},
            {"axes", "both", "block, grid, both in turn (blocks, a norm, then grids), or grid_first"}}),
       .small = {{"dim", 24}, {"heads", 3}, {"size", 2}},
       .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
         ConfigReader reader("multi_axis_attention", json);
         const auto heads = vision::WindowHeads::read(reader);
         const auto size = reader.integer("size", 7, 1, 1024);
         const auto axes = reader.choice("axes", "both", {"both", "block", "grid", "grid_first"});
         reader.finish();
         return std::make_shared<MultiAxisAttention>(heads, size, axes);
       }});
}

}  // namespace heed
