// Groups of channels that attend to short summaries of the image: pooled cells, mean windows, mean dilated windows.
#include <fmt/format.h>

#include "heed/attention.h"
#include "heed/error.h"
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"

namespace heed {
namespace {

using torch::Tensor;
using vision::Image;

constexpr int64_t kSide = 7;  // of a window

struct FactorizationConfig {
  vision::WindowHeads heads;
  int64_t reduction = 2;
  bool released_pooling = false;
  /// Channels of the pooled group, and of each group of windows.
  int64_t pooled() const { return heads.dim / 8; }
  int64_t windowed() const { return reduction > 1 ? heads.dim * 7 / 16 : heads.dim * 7 / 8; }
};

/// Places begin + i dilation of windows side by side along an axis, reflected at its ends: [windows kSide].
Tensor window_places(int64_t size, int64_t dilation) {
  const int64_t extent = (kSide - 1) * dilation + 1, windows = (size + extent - 1) / extent;
  const auto place = (torch::arange(windows).unsqueeze(1) * extent + torch::arange(kSide) * dilation).flatten();
  if (size == 1) return torch::zeros_like(place);
  const auto around = place.remainder(2 * size - 2);
  return torch::minimum(around, 2 * size - 2 - around);
}

/// Attention of all cells to a few keys that a group of channels sums the image up in.
class SummaryAttentionImpl : public torch::nn::Module {
 public:
  SummaryAttentionImpl(int64_t channels, int64_t heads) : heads_(heads) {
    require(channels > 0 && channels % heads == 0,
            "factorization_attention: a group of {} channels is no multiple of {} heads", channels, heads);
    kv_ = register_module("kv", torch::nn::Linear(channels, 2 * channels));
    places_ = register_module("places", nn::GridConv(channels, 3));
  }

  /// q [B, N, C], summary [B, M, C] on a grid of rows x columns, hidden bool [B, M] or undefined.
  Tensor forward(const Tensor& q, const Tensor& summary, int64_t rows, int64_t columns, const Tensor& hidden) {
    const auto parts = kv_(summary).chunk(2, 2);
    auto v = parts[1];
    v = v + places_(hidden.defined() ? v.masked_fill(hidden.unsqueeze(2), 0) : v, rows, columns);
    AttentionOptions options;
    if (hidden.defined()) {
      options.k_documents = hidden.to(torch::kInt32).neg();
      options.q_documents = torch::zeros({q.size(0), q.size(1)}, torch::kInt32);
    }
    return join_heads(
        attention(split_heads(q, heads_), split_heads(parts[0], heads_), split_heads(v, heads_), options));
  }

 private:
  int64_t heads_;
  torch::nn::Linear kv_{nullptr};
  nn::GridConv places_{nullptr};
};
TORCH_MODULE(SummaryAttention);

class FactorizationAttention final : public vision::ImageMixer {
 public:
  explicit FactorizationAttention(const FactorizationConfig& c)
      : ImageMixer("factorization_attention", c.heads.dim), config_(c) {
    const int64_t r = c.reduction;
    q_ = register_module("q_proj", torch::nn::Linear(dim_, dim_));
    out_ = register_module("o_proj", torch::nn::Linear(dim_, dim_));
    pool_ = register_module("pool", torch::nn::Conv2d(torch::nn::Conv2dOptions(c.pooled(), c.pooled(), r).stride(r)));
    pool_norm_ = register_module("pool_norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({c.pooled()})));
    pooled_ = register_module("pooled", SummaryAttention(c.pooled(), 1));
    for (int64_t dilation : {int64_t{1}, r}) {
      if (dilation > 1 || windows_.empty()) {
        const auto name = fmt::format("window{}", windows_.size());
        windows_.push_back({dilation, register_module(name + "_conv", nn::GridConv(c.windowed(), 3)),
                            register_module(name + "_mean", torch::nn::Linear(c.windowed(), c.windowed())),
                            register_module(name, SummaryAttention(c.windowed(), c.heads.heads))});
      }
    }
  }

 protected:
  Tensor mix_image(const Image& image) override {
    const auto q = q_(image.cells).flatten(1, 2);
    auto parts = std::vector<Tensor>{attend_to_pooled(image, q.narrow(2, 0, config_.pooled()))};
    int64_t first = config_.pooled();
    for (auto& window : windows_) {
      parts.push_back(attend_to_window(image, window, q.narrow(2, first, config_.windowed()), first));
      first += config_.windowed();
    }
    return out_(torch::cat(parts, 2)).unflatten(1, {image.height(), image.width()});
  }

 private:
  struct Window {
    int64_t dilation;
    nn::GridConv conv;
    torch::nn::Linear mean;
    SummaryAttention attention;
  };

  Tensor attend_to_pooled(const Image& image, const Tensor& q) {
    const int64_t r = config_.reduction;
    const auto up = [&](int64_t size) { return (size + r - 1) / r * r; };
    const int64_t below = up(image.height()) - image.height(), right = up(image.width()) - image.width();
    const auto cells = vision::channels_first(image.cells.narrow(3, 0, config_.pooled()));
    const auto pooled = pool_(torch::constant_pad_nd(cells, {0, right, 0, below}));
    const int64_t rows = pooled.size(2), columns = pooled.size(3);
    Tensor hidden;
    if (image.hidden.defined()) {
      // A pooled cell is hidden when all it stands for is.
      const auto padded = torch::constant_pad_nd(image.hidden.to(torch::kUInt8), {0, right, 0, below}, 1);
      hidden = padded.view({-1, rows, r, columns, r}).amin({2, 4}).to(torch::kBool).flatten(1);
    }
    return pooled_(q, pool_norm_(pooled.flatten(2).transpose(1, 2)), rows, columns, hidden);
  }

  Tensor attend_to_window(const Image& image, Window& window, const Tensor& q, int64_t first) {
    const auto cells = vision::convolve(window.conv, image.cells.narrow(3, first, config_.windowed()));
    const auto rows = window_places(image.height(), window.dilation),
               columns = window_places(image.width(), window.dilation);
    const auto mean_of = [&](const Tensor& t) {
      const auto cut = t.index_select(1, rows).index_select(2, columns);
      return mean_window(cut.unflatten(2, {-1, kSide}).unflatten(1, {-1, kSide}));
    };
    auto mean = mean_of(image.shown(cells));
    Tensor hidden;
    if (image.hidden.defined()) {
      const auto shown = image.hidden.logical_not().to(cells.scalar_type()).unsqueeze(3).expand_as(cells);
      const auto share = mean_of(shown);
      hidden = (share == 0).all(2);
      mean = mean / share.masked_fill(share == 0, 1);
    }
    return window.attention(q, window.mean(mean), kSide, kSide, hidden);
  }

  /// [B, rows, 7, columns, 7, C] -> [B, 49, C], the mean over rows x columns windows.
  Tensor mean_window(const Tensor& windows) const {
    if (!config_.released_pooling) return windows.mean({1, 3}).flatten(1, 2);
    // The windows of a cell one after the other, a head's channels each, cut into as many means as there are channels.
    const auto heads = windows.unflatten(5, {config_.heads.heads, -1});
    const auto line = heads.permute({0, 2, 4, 5, 1, 3, 6}).flatten(4);  // [B, 7, 7, heads, windows D]
    return line.unflatten(4, {heads.size(6), -1}).mean(5).flatten(3).flatten(1, 2);
  }

  FactorizationConfig config_;
  torch::nn::Linear q_{nullptr}, out_{nullptr};
  torch::nn::Conv2d pool_{nullptr};
  torch::nn::LayerNorm pool_norm_{nullptr};
  SummaryAttention pooled_{nullptr};
  std::vector<Window> windows_;
};

}  // namespace

RegistryRow rows::factorization_attention() {
  return vision::image_row(
      {.name = "factorization_attention",
       .paper = "Factorization Vision Transformer: Modeling Long Range Dependency with Local Window Cost "
                "(arXiv 2312.08614)",
       .year = 2023,
       .cost = "O(N (N / r^2 + 98))",
       .parameters = vision::window_parameters(
           {{"reduction", 2, "r: side of pooled cells and dilation of the second windows; 1: no second windows"},
            {"released_pooling", false,
             "means of windows as the released code takes them, which mix a head's channels: for its weights alone"}}),
       .small = {{"dim", 32}, {"heads", 2}},
       .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
         ConfigReader reader("factorization_attention", json);
         FactorizationConfig c;
         c.heads = vision::WindowHeads::read(reader);
         c.reduction = reader.integer("reduction", c.reduction, 1, 1024);
         c.released_pooling = reader.get("released_pooling", false);
         require(c.heads.dim % 16 == 0, "factorization_attention: dim = {}; a multiple of 16 is accepted", c.heads.dim);
         reader.finish();
         return std::make_shared<FactorizationAttention>(c);
       }});
}

}  // namespace heed
