// Convolutions whose kernels every cell makes for itself, from its affinity to the regions of a context.
#include "heed/error.h"
#include "heed/nn/dilated_conv.h"
#include "heed/nn/shown_norm.h"
#include "heed/ops/neighborhood.h"
#include "mixers/rows.h"
#include "mixers/vision/image_mixer.h"

namespace heed {
namespace {

using torch::Tensor;
using vision::Image;

constexpr int64_t kRegionSide = 7;     // a side, whatever the image's size
constexpr int64_t kSmallSide = 5;      // cells a side of the small kernels
constexpr int64_t kChannelsToOne = 4;  // channels to one inside the channel gate

struct MixingConfig {
  int64_t dim = 64, heads = 1, kernel = 7, context = 0;
  bool dynamic = true;
};

class ContextMixingConv final : public vision::ImageMixer {
 public:
  explicit ContextMixingConv(const MixingConfig& c)
      : ImageMixer("context_mixing_conv", c.dim), config_(c), groups_(2 * c.heads) {
    const int64_t own = c.dim - c.context, inner = own / 2;
    require(c.context < c.dim && own % 2 == 0 && inner % groups_ == 0 && c.dim % (2 * groups_) == 0,
            "context_mixing_conv: dim = {} of which context = {}: halves of dim and of what is not context are "
            "accepted that 2 heads = {} divides",
            c.dim, c.context, groups_);
    const auto linear = [&](const char* name, int64_t in, int64_t out) {
      return register_module(name, torch::nn::Linear(in, out));
    };
    const auto batch_norm = [&](const char* name, int64_t channels) {
      return register_module(name, torch::nn::BatchNorm1d(channels));
    };
    local_ = register_module("local", nn::GridConv(c.dim, 3));
    norm_ = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({c.dim})));
    if (c.dynamic) {
      q_ = linear("q_proj", own, inner), q_norm_ = batch_norm("q_norm", inner);
      k_ = linear("k_proj", c.context == 0 ? c.dim : c.context, inner), k_norm_ = batch_norm("k_norm", inner);
      kernels_ = linear("kernels", kRegionSide * kRegionSide, kSmallSide * kSmallSide + c.kernel * c.kernel);
    }
    near_bias_ = register_parameter("near_bias", torch::zeros({groups_, square(2 * kSmallSide - 1)}));
    far_bias_ = register_parameter("far_bias", torch::zeros({groups_, square(2 * c.kernel - 1)}));
    mix_ = linear("mix", c.dim, c.dim), mix_norm_ = batch_norm("mix_norm", c.dim);
    places_ = register_module("places", nn::DilatedConv(c.dim, c.kernel));
    const int64_t few = std::max<int64_t>(1, c.dim / kChannelsToOne);
    squeeze_ = linear("squeeze", c.dim, few), excite_ = linear("excite", few, c.dim);
    gate_ = linear("gate", c.dim, c.dim);
    out_ = linear("o_proj", c.dim, c.dim);
  }

 protected:
  Tensor mix_image(const Image& image) override {
    const auto fused = image.shown(norm_(image.cells + vision::convolve(local_, image.cells)));
    const auto hidden = image.hidden.defined() ? image.hidden.flatten(1) : Tensor();
    const auto logits = config_.dynamic
                            ? affinities(image, fused, hidden)
                            : torch::zeros({1, 1, 1, square(kSmallSide) + square(config_.kernel)}, fused.options())
                                  .expand({image.batch(), groups_, image.height() * image.width(), -1});

    const auto halves = fused.flatten(1, 2).chunk(2, 2);
    const auto near = filter(image, logits.narrow(3, 0, square(kSmallSide)), near_bias_, kSmallSide, halves[0]);
    const auto far = filter(image, logits.narrow(3, square(kSmallSide), square(config_.kernel)), far_bias_,
                            config_.kernel, halves[1]);
    auto y = nn::norm_of_shown(mix_norm_, mix_(torch::cat({near, far}, 2)), hidden);
    y = y + places_(fused.flatten(1, 2), image.height(), image.width(), hidden);
    y = y * channel_gate(image, y) * torch::silu(gate_(fused.flatten(1, 2)));
    return out_(y).unflatten(1, {image.height(), image.width()});
  }

 private:
  static int64_t square(int64_t side) { return side * side; }

  /// What every cell asks of its kernels, [B, groups, N, 25 + K^2], from its affinity to the regions of the context.
  Tensor affinities(const Image& image, const Tensor& fused, const Tensor& hidden) {
    const int64_t own = dim_ - config_.context;
    const auto context = config_.context == 0 ? fused : fused.narrow(3, own, config_.context);
    const auto q = split_heads(nn::norm_of_shown(q_norm_, q_(fused.narrow(3, 0, own)).flatten(1, 2), hidden), groups_);
    const auto regions = vision::pool(image, context, kRegionSide, kRegionSide);
    const auto k = split_heads(nn::norm_of_shown(k_norm_, k_(regions.cells), regions.hidden), groups_);
    const double scale = 1 / std::sqrt(double(own) / double(groups_));
    return kernels_(torch::matmul(q * scale, k.transpose(2, 3)));
  }

  /// Cells [B, N, C / 2] under the kernels of `logits` [B, groups, N, side^2], which lie over windows that are moved
  /// inwards at borders. Of an image smaller than the kernel, the middle of the kernel is used.
  Tensor filter(const Image& image, const Tensor& logits, const Tensor& bias, int64_t side, const Tensor& cells) const {
    ops::NeighborhoodOptions options;
    options.grid = {image.height(), image.width()};
    options.window = {std::min(side, image.height()), std::min(side, image.width())};
    options.scale = 1;
    const int64_t rows = options.window[0], columns = options.window[1];
    auto kernels = logits.unflatten(3, {side, side})
                       .narrow(3, (side - rows) / 2, rows)
                       .narrow(4, (side - columns) / 2, columns)
                       .flatten(3);
    const auto offsets = ops::neighborhood_offsets(options, {side, side});
    kernels = kernels + bias.index_select(1, offsets.flatten()).view({bias.size(0), offsets.size(0), offsets.size(1)});
    Tensor hidden;
    if (image.hidden.defined()) {
      const auto padding = image.hidden.flatten(1).to(cells.scalar_type()).view({image.batch(), 1, -1, 1});
      hidden = ops::neighborhood_qk(torch::ones_like(padding), padding, options) > 0;
      kernels = kernels.masked_fill(hidden, std::numeric_limits<float>::lowest());
    }
    auto weights = torch::softmax(kernels, 3);
    if (hidden.defined()) weights = weights.masked_fill(hidden, 0);
    return join_heads(ops::neighborhood_av(weights, split_heads(cells, groups_), options));
  }

  /// [B, 1, C] from the mean of the image.
  Tensor channel_gate(const Image& image, const Tensor& y) {
    Tensor mean;
    if (image.hidden.defined()) {
      const auto shown = image.hidden.flatten(1).logical_not().to(y.scalar_type()).unsqueeze(2);
      mean = (y * shown).sum(1, true) / shown.sum(1, true).clamp_min(1);
    } else {
      mean = y.mean(1, true);
    }
    return torch::sigmoid(excite_(torch::relu(squeeze_(mean))));
  }

  MixingConfig config_;
  int64_t groups_;
  nn::GridConv local_{nullptr};
  torch::nn::LayerNorm norm_{nullptr};
  torch::nn::Linear q_{nullptr}, k_{nullptr}, kernels_{nullptr}, mix_{nullptr}, squeeze_{nullptr}, excite_{nullptr},
      gate_{nullptr}, out_{nullptr};
  torch::nn::BatchNorm1d q_norm_{nullptr}, k_norm_{nullptr}, mix_norm_{nullptr};
  nn::DilatedConv places_{nullptr};
  Tensor near_bias_, far_bias_;
};

}  // namespace

RegistryRow rows::context_mixing_conv() {
  return vision::image_row(
      {.name = "context_mixing_conv",
       .paper = "OverLoCK: An Overview-first-Look-Closely-next ConvNet with Context-Mixing Dynamic Kernels "
                "(arXiv 2502.20087)",
       .year = 2025,
       .cost = "O(N (49 C + K^2 C))",
       .parameters = {{"dim", 64, "channels C of the tokens, with those of the context"},
                      {"heads", 1, "halves of the channels are filtered in groups of their own, 2 a head"},
                      {"kernel", 7, "K: cells a side of the large kernels, odd, 3 to 17; the small ones have 5"},
                      {"context", 0, "the last so many channels are a context, whose regions make the kernels; 0: all"},
                      {"dynamic", true, "false: all cells have the same kernels, learned by offset"},
                      {"causal", false, "only false is accepted"}},
       .small = {{"dim", 16}, {"heads", 1}, {"kernel", 3}},
       .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
         ConfigReader reader("context_mixing_conv", json);
         MixingConfig c;
         c.dim = reader.integer("dim", c.dim, 1, 1 << 20);
         c.heads = reader.integer("heads", c.heads, 1, 1 << 16);
         c.kernel = reader.integer("kernel", c.kernel, 3, 17);
         require(c.kernel % 2 == 1, "context_mixing_conv: kernel = {}; odd sizes are accepted", c.kernel);
         c.context = reader.integer("context", c.context, 0, 1 << 20);
         c.dynamic = reader.get("dynamic", c.dynamic);
         require(!reader.get("causal", false), "context_mixing_conv: causal = true is not accepted");
         reader.finish();
         return std::make_shared<ContextMixingConv>(c);
       }});
}

}  // namespace heed
