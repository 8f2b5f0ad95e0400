// Rows and columns, pooled to strips, gate the cells where they cross.
#include "heed/error.h"
#include "heed/nn/shown_norm.h"
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"

namespace heed {
namespace {

using torch::Tensor;
using vision::Image;

struct LocalConfig {
  int64_t dim = 64, kernel = 7, groups = 0, norm_groups = 16;
};

class EfficientLocalAttention final : public vision::ImageMixer {
 public:
  explicit EfficientLocalAttention(const LocalConfig& c) : ImageMixer("efficient_local_attention", c.dim) {
    conv_ = register_module(
        "conv",
        torch::nn::Conv1d(
            torch::nn::Conv1dOptions(c.dim, c.dim, c.kernel).padding(c.kernel / 2).groups(c.groups).bias(false)));
    norm_ = register_module("norm", torch::nn::GroupNorm(torch::nn::GroupNormOptions(c.norm_groups, c.dim)));
  }

 protected:
  Tensor mix_image(const Image& image) override {
    return image.cells * gate(image, image.height(), 1).unsqueeze(2) * gate(image, 1, image.width()).unsqueeze(1);
  }

 private:
  /// Gates [B, strips, C] of rows x columns strips.
  Tensor gate(const Image& image, int64_t rows, int64_t columns) {
    const auto strips = vision::pool(image, image.cells, rows, columns);
    const auto around = conv_(strips.cells.transpose(1, 2).contiguous());
    return torch::sigmoid(nn::norm_of_shown(norm_, around, strips.hidden)).transpose(1, 2);
  }

  torch::nn::Conv1d conv_{nullptr};
  torch::nn::GroupNorm norm_{nullptr};
};

}  // namespace

RegistryRow rows::efficient_local_attention() {
  return vision::image_row(
      {.name = "efficient_local_attention",
       .paper = "ELA: Efficient Local Attention for Deep Convolutional Neural Networks (arXiv 2403.01123)",
       .year = 2024,
       .cost = "O(N)",
       .parameters = {{"dim", 64, "channels C of the tokens"},
                      {"kernel", 7, "strips of a convolution, odd: 5 and 7 in the paper"},
                      {"groups", 0, "of the convolution: dim (0) in variants T and B, dim / 8 in S and L"},
                      {"norm_groups", 16, "of the norm: 32 in variant T, 16 in the others"},
                      {"causal", false, "only false is accepted"}},
       .small = {{"dim", 24}, {"kernel", 3}, {"norm_groups", 4}},
       .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
         ConfigReader reader("efficient_local_attention", json);
         LocalConfig c;
         c.dim = reader.integer("dim", c.dim, 1, 1 << 20);
         c.kernel = reader.integer("kernel", c.kernel, 1, 1023);
         c.groups = reader.integer("groups", 0, 0, 1 << 20);
         if (c.groups == 0) c.groups = c.dim;
         c.norm_groups = reader.integer("norm_groups", c.norm_groups, 1, 1 << 20);
         require(!reader.get("causal", false), "efficient_local_attention: causal = true is not accepted");
         require(c.kernel % 2 == 1, "efficient_local_attention: kernel = {}; odd sizes are accepted", c.kernel);
         require(c.dim % c.groups == 0 && c.dim % c.norm_groups == 0,
                 "efficient_local_attention: dim = {} is no multiple of groups = {} and norm_groups = {}", c.dim,
                 c.groups, c.norm_groups);
         reader.finish();
         return std::make_shared<EfficientLocalAttention>(c);
       }});
}

}  // namespace heed
