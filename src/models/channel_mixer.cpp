#include "heed/models/channel_mixer.h"

#include "heed/error.h"
#include "heed/names.h"

namespace heed {
namespace {

using torch::Tensor;

class Mlp final : public ChannelMixer {
 public:
  Mlp(const formats::BlockConfig& block, int64_t dim, int64_t hidden, bool gated) : activation_(block.activation) {
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
  }

  Tensor forward(const Tensor& x, const std::optional<Grid>&) override {
    return down_(gate_ ? activate(gate_(x), activation_) * up_(x) : activate(up_(x), activation_));
  }

  std::vector<std::pair<std::string, Tensor>> stages(const Tensor& x) override {
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
  }
  fail("unknown activation");
}

std::shared_ptr<ChannelMixer> make_channel_mixer(const formats::BlockConfig& block, int64_t dim, int64_t hidden) {
  static const std::vector<std::string> kNames{"gated_mlp", "mlp"};
  const bool gated = block.channel_mixer == kNames[0];
  require(gated || block.channel_mixer == kNames[1], "unknown channel mixer {}: {}", block.channel_mixer,
          suggest(block.channel_mixer, kNames));
  return std::make_shared<Mlp>(block, dim, hidden, gated);
}

}  // namespace heed
