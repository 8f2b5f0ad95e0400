// Each group of channels has one map over the image, which adds weight to where it looks.
#include "heed/error.h"
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"

namespace heed {
namespace {

using torch::Tensor;
using vision::Image;

class SubspaceAttention final : public vision::ImageMixer {
 public:
  SubspaceAttention(int64_t dim, int64_t groups) : ImageMixer("subspace_attention", dim), groups_(groups) {
    // The convention of the release: 0.9 of what was is kept.
    const auto norm = [](int64_t channels) {
      return torch::nn::BatchNorm2d(torch::nn::BatchNorm2dOptions(channels).momentum(0.1));
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
    const auto x = vision::channels_first(image.cells);
    auto pooled = torch::relu(scale_norm_(scale_(x)));
    Tensor hidden;
    if (image.hidden.defined()) {
      hidden = image.hidden.unsqueeze(1);
      pooled = pooled.masked_fill(hidden, 0);  // nothing is less: what is pooled is not below 0
    }
    pooled = torch::max_pool2d(pooled, {3, 3}, {1, 1}, {1, 1});
    auto logits = torch::relu(map_norm_(map_(pooled)));
    if (hidden.defined()) logits = logits.masked_fill(hidden, std::numeric_limits<float>::lowest());
    auto map = torch::softmax(logits.flatten(2), 2).view(logits.sizes());
    if (hidden.defined()) map = map.masked_fill(hidden, 0);
    const auto gated = x.unflatten(1, {groups_, dim_ / groups_}) * (1 + map.unsqueeze(2));
    return vision::channels_last(gated.flatten(1, 2));
  }

 private:
  int64_t groups_;
  torch::nn::Conv2d scale_{nullptr}, map_{nullptr};
  torch::nn::BatchNorm2d scale_norm_{nullptr}, map_norm_{nullptr};
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
                      {"causal", false, "only false is accepted"}},
       .small = {{"dim", 24}, {"groups", 3}},
       .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
         ConfigReader reader("subspace_attention", json);
         const auto dim = reader.integer("dim", 64, 1, 1 << 20), groups = reader.integer("groups", 4, 1, 1 << 20);
         require(!reader.get("causal", false), "subspace_attention: causal = true is not accepted");
         require(dim % groups == 0, "subspace_attention: dim = {} is no multiple of groups = {}", dim, groups);
         reader.finish();
         return std::make_shared<SubspaceAttention>(dim, groups);
       }});
}

}  // namespace heed
