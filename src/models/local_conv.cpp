#include "heed/models/local_conv.h"

#include <vector>

#include "heed/error.h"
#include "heed/names.h"
#include "heed/nn/gelu.h"
#include "heed/nn/grid.h"

namespace heed {
namespace {

using torch::Tensor;

constexpr int64_t kReach = 3;  // cells a side

class DepthwiseLocalConv final : public LocalConv {
 public:
  explicit DepthwiseLocalConv(int64_t dim) { conv_ = register_module("conv", nn::GridConv(dim, kReach)); }

 private:
  Tensor added(const Tensor& x, int64_t height, int64_t width) override { return conv_(x, height, width); }

  nn::GridConv conv_{nullptr};
};

class MbConv final : public LocalConv {
 public:
  explicit MbConv(int64_t dim) {
    constexpr int64_t kWider = 4;
    const int64_t inner = kWider * dim, squeezed = std::max<int64_t>(1, dim / 4);
    const auto norm = [&](const char* name, int64_t channels) {
      return register_module(name, torch::nn::BatchNorm1d(channels));
    };
    norm_ = norm("norm", dim), expanded_norm_ = norm("expanded_norm", inner), conv_norm_ = norm("conv_norm", inner);
    expand_ = register_module("expand", torch::nn::Linear(torch::nn::LinearOptions(dim, inner).bias(false)));
    conv_ = register_module("conv", nn::GridConv(inner, kReach, false));
    squeeze_ = register_module("squeeze", torch::nn::Linear(inner, squeezed));
    excite_ = register_module("excite", torch::nn::Linear(squeezed, inner));
    project_ = register_module("project", torch::nn::Linear(inner, dim));
  }

 private:
  Tensor added(const Tensor& x, int64_t height, int64_t width) override {
    const auto normed = [](torch::nn::BatchNorm1d& norm, const Tensor& t) {
      return norm(t.flatten(0, 1)).view(t.sizes());
    };
    const auto wide = nn::gelu(normed(expanded_norm_, expand_(normed(norm_, x))));
    const auto near = nn::gelu(normed(conv_norm_, conv_(wide, height, width).contiguous()));
    const auto gate = torch::sigmoid(excite_(torch::silu(squeeze_(near.mean(1, true)))));
    return project_(near * gate);
  }

  torch::nn::BatchNorm1d norm_{nullptr}, expanded_norm_{nullptr}, conv_norm_{nullptr};
  torch::nn::Linear expand_{nullptr}, squeeze_{nullptr}, excite_{nullptr}, project_{nullptr};
  nn::GridConv conv_{nullptr};
};

}  // namespace

Tensor LocalConv::forward(const Tensor& x, const MixerInput& input) {
  require(input.grid && input.grid->sizes.size() == 2,
          "a block with a local convolution needs a grid of height and width, and all of its cells");
  require(!input.key_padding, "a block with a local convolution: padding is not accepted");
  return x + added(x, input.grid->sizes[0], input.grid->sizes[1]);
}

std::shared_ptr<LocalConv> make_local_conv(const std::string& name, int64_t dim) {
  if (name == "depthwise") return std::make_shared<DepthwiseLocalConv>(dim);
  if (name == "mbconv") return std::make_shared<MbConv>(dim);
  static const std::vector<std::string> kNames{"depthwise", "mbconv"};
  fail("unknown local convolution {}: {}", name, suggest(name, kNames));
}

}  // namespace heed
