// Mamba: a state-space model whose step, input and output depend on the token.
#include "heed/mixers/recurrent_mixer.h"
#include "mixers/linear/selective_ssm.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using torch::Tensor;

struct MambaConfig : linear::SelectiveSizes {
  int64_t conv = 4;
  bool causal = true;
};

/// One direction: the convolution and the scan behind it.
struct MambaDirection : torch::nn::Module {
  explicit MambaDirection(const MambaConfig& c) {
    conv = register_module("conv", nn::ShortConv(c.inner(), c.conv, true));
    ssm = register_module("ssm",
                          linear::SelectiveSsm(linear::SelectiveSsmConfig{c.inner(), c.state_dim, c.step_rank, 1}));
  }
  Tensor forward(RecurrentCall& call, const Tensor& x, const Tensor& z) {
    const auto mixed = call.conv(1, conv, x);
    std::optional<Tensor> hidden;
    if (call.input.key_padding) hidden = call.input.key_padding->unsqueeze(2);
    return ssm->forward(mixed.unsqueeze(2), z, hidden, &call.slot(0), call.input.cu_seqlens).squeeze(2);
  }
  nn::ShortConv conv{nullptr};
  linear::SelectiveSsm ssm{nullptr};
};

class Mamba final : public RecurrentMixer {
 public:
  explicit Mamba(const MambaConfig& c) : RecurrentMixer("mamba", c.dim, c.causal) {
    in_proj_ = linear::wide_projection(project("in_proj", c.dim, 2 * c.inner()));
    o_proj_ = project("o_proj", c.inner(), c.dim);
    ahead_ = register_module("ahead", std::make_shared<MambaDirection>(c));
    if (!c.causal) back_ = register_module("back", std::make_shared<MambaDirection>(c));
  }

 protected:
  Tensor run(RecurrentCall& call) override {
    const auto parts = in_proj_(call.x).chunk(2, 2);
    auto y = ahead_->forward(call, parts[0], parts[1]);
    if (back_) {
      auto turned = call.input;
      turned.x = call.x.flip(1);
      if (turned.key_padding) turned.key_padding = turned.key_padding->flip(1);
      if (turned.cu_seqlens) turned.cu_seqlens = call.tokens() - turned.cu_seqlens->flip(0);
      RecurrentCall back(turned, nullptr);
      y = y + back_->forward(back, parts[0].flip(1), parts[1].flip(1)).flip(1);
    }
    return o_proj_(y);
  }

 private:
  torch::nn::Linear in_proj_{nullptr}, o_proj_{nullptr};
  std::shared_ptr<MambaDirection> ahead_, back_;
};

}  // namespace

RegistryRow rows::mamba() {
  return {.name = "mamba",
          .family = "linear_and_recurrent",
          .paper =
              "Mamba: Linear-Time Sequence Modeling with Selective State Spaces (arXiv 2312.00752); both directions "
              "as Vision Mamba has them (arXiv 2401.09417)",
          .year = 2023,
          .patterns = {true, true, false, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .cost = "O(N)",
          .parameters = linear::selective_parameters(
              {{"conv", 4, "tokens of the short convolution"},
               {"causal", true, "false: a second scan runs backwards, and the two are summed"}}),
          .small = {{"dim", 24}, {"state_dim", 5}},
          .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
            ConfigReader reader("mamba", json);
            MambaConfig c{linear::SelectiveSizes::read(reader)};
            c.conv = reader.integer("conv", c.conv, 1, 64);
            c.causal = reader.get("causal", true);
            reader.finish();
            return std::make_shared<Mamba>(c);
          }};
}

}  // namespace heed
