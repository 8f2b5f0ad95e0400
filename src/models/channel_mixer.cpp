#include "heed/models/channel_mixer.h"

#include "heed/error.h"
#include "heed/names.h"
#include "heed/nn/grid.h"

namespace heed {
namespace {

using torch::Tensor;

constexpr int64_t kNear = 3;  // cells a side that a convolution sees

class Mlp final : public ChannelMixer {
 public:
  Mlp(const formats::BlockConfig& block, int64_t dim, int64_t hidden, bool gated, bool convolves)
      : activation_(block.activation) {
    const auto linear = [&](const char* name, int64_t in, int64_t out) {
      auto module = register_module(name, torch::nn::Linear(torch::nn::LinearOptions(in, out).bias(block.mlp_bias)));
      torch::NoGradGuard no_grad;
      module->weight.normal_(0, 0.02);
      if (block.mlp_bias) module->bias.zero_();
      return module;
    };
    if (gated) gate_ = linear("gate_proj", dim, hidden);
    up_ = linear("up_proj", dim, hidden);
    down_ = linear("down_proj", hidden, dim);
    if (convolves) conv_ = register_module("conv", nn::GridConv(hidden, kNear));
  }

  Tensor forward(const Tensor& x, const std::optional<Grid>& grid) override {
    const auto active = [&](Tensor inner) {
      if (conv_) {
        require(grid && grid->sizes.size() == 2, "a channel mixer that convolves needs a grid of height and width");
        inner = conv_(inner, grid->sizes[0], grid->sizes[1]).contiguous();
      }
      return activate(inner, activation_);
    };
    return down_(gate_ ? active(gate_(x)) * up_(x) : active(up_(x)));
  }

  std::vector<std::pair<std::string, Tensor>> stages(const Tensor& x) override {
    require(!conv_, "a channel mixer that convolves has no stages without a grid");
    std::vector<std::pair<std::string, Tensor>> stages;
    if (gate_) stages.push_back({"gate", gate_(x)});
    stages.push_back({"up", up_(x)});
    stages.push_back({"inner", gate_ ? activate(stages[0].second, activation_) * stages[1].second
                                     : activate(stages[0].second, activation_)});
    stages.push_back({"down", down_(stages.back().second)});
    return stages;
  }

  Tensor output_weight() const override { return down_->weight; }

 private:
  formats::Activation activation_;
  torch::nn::Linear gate_{nullptr}, up_{nullptr}, down_{nullptr};
  nn::GridConv conv_{nullptr};
};

}  // namespace

Tensor activate(const Tensor& x, formats::Activation activation) {
  using enum formats::Activation;
  switch (activation) {
    case silu:
      return torch::silu(x);
    case gelu:
      return torch::gelu(x);
    case gelu_tanh:
      return torch::gelu(x, "tanh");
    case relu:
      return torch::relu(x);
    case identity:
      return x;
  }
  fail("unknown activation");
}

std::shared_ptr<ChannelMixer> make_channel_mixer(const formats::BlockConfig& block, int64_t dim, int64_t hidden) {
  static const std::vector<std::string> kNames{"gated_mlp", "mlp", "conv_glu", "conv_mlp", "none"};
  const auto found = std::find(kNames.begin(), kNames.end(), block.channel_mixer) - kNames.begin();
  require(found < 5, "unknown channel mixer {}: {}", block.channel_mixer, suggest(block.channel_mixer, kNames));
  if (found == 4) return nullptr;
  return std::make_shared<Mlp>(block, dim, hidden, found % 2 == 0, found >= 2);
}

}  // namespace heed
