// Attention between the cells of windows, then between channels: each channel weighs all cells.
#include "heed/error.h"
#include "heed/nn/start.h"
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"

namespace heed {
namespace {

using nn::Windows;
using torch::Tensor;
using vision::Image;

/// softmax(c^-1/2 k^T v) on q^T, inside groups of c channels (the released code's roles of q, k and v).
class ChannelAttentionImpl : public torch::nn::Module {
 public:
  explicit ChannelAttentionImpl(vision::WindowHeads heads) : groups_(heads.heads) {
    qkv_ = register_module("qkv", nn::started_linear(heads.dim, 3 * heads.dim));
    out_ = register_module("o_proj", nn::started_linear(heads.dim, heads.dim));
  }

  Tensor forward(const Image& image) {
    const auto parts = image.shown(qkv_(image.cells)).flatten(1, 2).chunk(3, 2);
    const auto q = split_heads(parts[0], groups_), k = split_heads(parts[1], groups_),
               v = split_heads(parts[2], groups_);
    // Sums over cells grow with the image, so the map is made in float32 at least.
    const auto wide = q.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
    const auto logits = torch::matmul(k.to(wide).transpose(2, 3), v.to(wide)) / std::sqrt(double(q.size(3)));
    const auto map = torch::softmax(logits, 3).to(q.scalar_type());
    const auto mixed = torch::matmul(q, map.transpose(2, 3));
    return out_(join_heads(mixed)).unflatten(1, {image.height(), image.width()});
  }

 private:
  int64_t groups_;
  torch::nn::Linear qkv_{nullptr}, out_{nullptr};
};
TORCH_MODULE(ChannelAttention);

class DualAttention final : public vision::ImageMixer {
 public:
  DualAttention(vision::WindowHeads heads, int64_t size, const std::string& parts)
      : ImageMixer("dual_attention", heads.dim), size_(size) {
    const auto stage = [&](const std::string& name, torch::nn::LayerNorm& norm, nn::GridConv& conv) {
      norm = register_module(name + "_norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({heads.dim})));
      conv = register_module(name + "_conv", nn::GridConv(heads.dim, 3));
    };
    if (parts != "channel") {
      stage("spatial", spatial_norm_, spatial_conv_);
      spatial_ = register_module("spatial", vision::WindowAttention(heads, size, size, false));
    }
    if (parts != "spatial") {
      stage("channel", channel_norm_, channel_conv_);
      channel_ = register_module("channel", ChannelAttention(heads));
    }
  }

 protected:
  // Every part is a convolution that tells places, a norm and an attention, each added to the stream. The block around
  // this mixer adds its input again.
  Tensor mix_image(const Image& image) override {
    auto x = image.cells;
    if (spatial_) {
      x = x + vision::convolve(spatial_conv_, image.shown(x));
      const Windows windows(Windows::Kind::block, image.height(), image.width(), size_, size_);
      x = x + spatial_(windows, Image{image.shown(spatial_norm_(x)), image.hidden});
    }
    if (channel_) {
      x = x + vision::convolve(channel_conv_, image.shown(x));
      x = x + channel_(Image{image.shown(channel_norm_(x)), image.hidden});
    }
    return x - image.cells;
  }

 private:
  int64_t size_;
  vision::WindowAttention spatial_{nullptr};
  ChannelAttention channel_{nullptr};
  torch::nn::LayerNorm spatial_norm_{nullptr}, channel_norm_{nullptr};
  nn::GridConv spatial_conv_{nullptr}, channel_conv_{nullptr};
};

}  // namespace

RegistryRow rows::dual_attention() {
  return vision::image_row(
      {.name = "dual_attention",
       .paper = "DaViT: Dual Attention Vision Transformers (arXiv 2204.03645)",
       .year = 2022,
       .cost = "O(N (w^2 + c))",
       .parameters = vision::window_parameters(
           {{"size", 7, "windows are of size x size cells"}, {"parts", "both", "spatial, channel, or both in turn"}}),
       .small = {{"dim", 24}, {"heads", 3}, {"size", 3}},
       .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
         ConfigReader reader("dual_attention", json);
         const auto heads = vision::WindowHeads::read(reader);
         const auto size = reader.integer("size", 7, 1, 1024);
         const auto parts = reader.choice("parts", "both", {"both", "spatial", "channel"});
         reader.finish();
         return std::make_shared<DualAttention>(heads, size, parts);
       }});
}

}  // namespace heed
