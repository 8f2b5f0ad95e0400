#include "heed/models/channel_mixer.h"

#include <cmath>

#include "heed/error.h"
#include "heed/names.h"
#include "heed/nn/grid.h"
#include "heed/nn/shared_conv.h"
#include "heed/nn/start.h"

namespace heed {
namespace {

using torch::Tensor;

constexpr int64_t kNear = 3;  // cells a side that a convolution sees

void start(Tensor weight, Tensor bias) {
  torch::NoGradGuard no_grad;
  weight.normal_(0, nn::start_deviation(weight.numel() / weight.size(0)));
  if (bias.defined()) bias.zero_();
}

void require_grid(const std::optional<Grid>& grid) {
  require(grid && grid->sizes.size() == 2, "a channel mixer that convolves needs a grid of height and width");
}

class Mlp final : public ChannelMixer {
 public:
  Mlp(const formats::BlockConfig& block, int64_t dim, int64_t hidden, bool gated, bool convolves)
      : activation_(block.activation) {
    const auto linear = [&](const char* name, int64_t in, int64_t out) {
      auto module = register_module(name, torch::nn::Linear(torch::nn::LinearOptions(in, out).bias(block.mlp_bias)));
      start(module->weight, module->bias);
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
        require_grid(grid);
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

/// up, an activation, a convolution that is added, a norm by the response of the whole grid, down.
class ConvGrnMlp final : public ChannelMixer {
 public:
  ConvGrnMlp(const formats::BlockConfig& block, int64_t dim, int64_t hidden) : activation_(block.activation) {
    const auto linear = [&](const char* name, int64_t in, int64_t out) {
      auto module = register_module(name, torch::nn::Linear(torch::nn::LinearOptions(in, out).bias(block.mlp_bias)));
      start(module->weight, module->bias);
      return module;
    };
    up_ = linear("up_proj", dim, hidden), down_ = linear("down_proj", hidden, dim);
    conv_ = register_module("conv", nn::GridConv(hidden, kNear));
    gain_ = register_parameter("gain", torch::zeros({hidden}));
    shift_ = register_parameter("shift", torch::zeros({hidden}));
  }

  Tensor forward(const Tensor& x, const std::optional<Grid>& grid) override {
    require_grid(grid);
    auto inner = activate(up_(x), activation_);
    inner = inner + conv_(inner, grid->sizes[0], grid->sizes[1]).contiguous();
    const auto response = inner.norm(2, 1, true);  // [B, 1, hidden]: of a channel over all cells
    const auto share = response / (response.mean(2, true) + 1e-6);
    return down_(gain_ * (inner * share) + shift_ + inner);
  }

  std::vector<std::pair<std::string, Tensor>> stages(const Tensor&) override {
    fail("a channel mixer that convolves has no stages without a grid");
  }
  Tensor output_weight() const override { return down_->weight; }

 private:
  formats::Activation activation_;
  torch::nn::Linear up_{nullptr}, down_{nullptr};
  nn::GridConv conv_{nullptr};
  Tensor gain_, shift_;  // [hidden]
};

/// down(act(up(x))), both maps with kernels as large as a token's map, which all tokens share.
class ConvShareMlp final : public ChannelMixer {
 public:
  ConvShareMlp(const formats::BlockConfig& block, int64_t dim, int64_t hidden) : activation_(block.activation) {
    const auto whole = [&](const char* name, int64_t in, int64_t out) {
      const int64_t side = nn::side_of_map(in);
      auto module = register_module(
          name, nn::SharedConv(nn::SharedConvOptions{.side = side, .kernel = side, .kernels = out, .cells = in}));
      start(module->weight, module->bias);
      return module;
    };
    up_ = whole("up_proj", dim, hidden);
    down_ = whole("down_proj", hidden, dim);
  }

  Tensor forward(const Tensor& x, const std::optional<Grid>&) override { return stages(x).back().second; }
  std::vector<std::pair<std::string, Tensor>> stages(const Tensor& x) override {
    const auto up = up_(x), inner = activate(up, activation_);
    return {{"up", up}, {"inner", inner}, {"down", down_(inner)}};
  }
  Tensor output_weight() const override { return down_->weight; }

 private:
  formats::Activation activation_;
  nn::SharedConv up_{nullptr}, down_{nullptr};
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
  const auto& name = block.channel_mixer;
  if (name == "none") return nullptr;
  if (name == "conv_grn") return std::make_shared<ConvGrnMlp>(block, dim, hidden);
  if (name == "conv_share_mlp") return std::make_shared<ConvShareMlp>(block, dim, hidden);
  const bool gated = name == "gated_mlp" || name == "conv_glu", convolves = name == "conv_glu" || name == "conv_mlp";
  if (gated || convolves || name == "mlp") return std::make_shared<Mlp>(block, dim, hidden, gated, convolves);
  static const std::vector<std::string> kNames{"gated_mlp",      "mlp", "conv_glu", "conv_mlp", "conv_grn",
                                               "conv_share_mlp", "none"};
  fail("unknown channel mixer {}: {}", name, suggest(name, kNames));
}

}  // namespace heed
