// Each group of channels has one map over the image, which adds weight to where it looks.
#include "heed/error.h"
#include "heed/nn/shown_norm.h"
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"

namespace heed {
namespace {

using torch::Tensor;
using vision::Image;

class SubspaceAttention final : public vision::ImageMixer {
 public:
  SubspaceAttention(int64_t dim, int64_t groups, bool pool)
      : ImageMixer("subspace_attention", dim), groups_(groups), pool_(pool) {
    // The release's momentum is torch's: the weight of the new batch.
    const auto norm = [](int64_t channels) {
      return torch::nn::BatchNorm1d(torch::nn::BatchNorm1dOptions(channels).momentum(0.9));
    };
    const auto conv = [&](int64_t in, int64_t out, int64_t conv_groups) {
      return torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, 1).groups(conv_groups).bias(false));
    };
    scale_ = register_module("scale", conv(dim, dim, dim));
    scale_norm_ = register_module("scale_norm", norm(dim));
    map_ = register_module("map", conv(dim, groups, groups));
    map_norm_ = register_module("map_norm", norm(groups));
  }

 protected:
  Tensor mix_image(const Image& image) override {
    // Nothing is less than a hidden cell's 0, so that the maximum is of what is shown.
    auto features = activated(image, scale_, scale_norm_, image.cells);
    if (pool_)
      features = vision::channels_last(torch::max_pool2d(vision::channels_first(features), {3, 3}, {1, 1}, {1, 1}));
    auto logits = activated(image, map_, map_norm_, features).flatten(1, 2);
    if (image.hidden.defined())
      logits = logits.masked_fill(image.hidden.flatten(1).unsqueeze(2), std::numeric_limits<float>::lowest());
    const auto map = torch::softmax(logits, 1).view({image.batch(), image.height(), image.width(), groups_, 1});
    return (image.cells.unflatten(3, {groups_, dim_ / groups_}) * (1 + map)).flatten(3);
  }

 private:
  /// ReLU of the norm of a convolution of single cells, [B, H, W, C]; 0 where hidden.
  static Tensor activated(const Image& image, torch::nn::Conv2d& conv, torch::nn::BatchNorm1d& norm,
                          const Tensor& cells) {
    const auto convolved = vision::channels_last(conv(vision::channels_first(cells)));
    return torch::relu(nn::norm_of_shown(norm, convolved, image.hidden));
  }

  int64_t groups_;
  bool pool_;
  torch::nn::Conv2d scale_{nullptr}, map_{nullptr};
  torch::nn::BatchNorm1d scale_norm_{nullptr}, map_norm_{nullptr};
};

}  // namespace

RegistryRow rows::subspace_attention() {
  return vision::image_row(
      {.name = "subspace_attention",
       .paper = "ULSAM: Ultra-Lightweight Subspace Attention Module (arXiv 2006.15102)",
       .year = 2020,
       .cost = "O(N)",
       .parameters = {{"dim", 64, "channels C of the tokens"},
                      {"groups", 4, "subspaces, each with a map of its own; they divide dim"},
                      {"pool", true, "maps are made from the maxima of 3 x 3 cells"},
                      {"causal", false, "only false is accepted"}},
       .small = {{"dim", 24}, {"groups", 3}},
       .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
         ConfigReader reader("subspace_attention", json);
         const auto dim = reader.integer("dim", 64, 1, 1 << 20), groups = reader.integer("groups", 4, 1, 1 << 20);
         const auto pool = reader.get("pool", true);
         require(!reader.get("causal", false), "subspace_attention: causal = true is not accepted");
         require(dim % groups == 0, "subspace_attention: dim = {} is no multiple of groups = {}", dim, groups);
         reader.finish();
         return std::make_shared<SubspaceAttention>(dim, groups, pool);
       }});
}

}  // namespace heed
