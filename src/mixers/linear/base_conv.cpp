// BaseConv: a gated short convolution, the layer that BASED puts between its linear attention and its windows.
#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "heed/nn/config.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using torch::Tensor;

class BaseConv final : public RecurrentMixer {
 public:
  BaseConv(int64_t dim, int64_t expand, int64_t width) : RecurrentMixer("base_conv", dim, true) {
    in_proj_ = project("in_proj", dim, 2 * expand * dim);
    conv_ = register_module("conv", nn::ShortConv(expand * dim, width, false, true));
    o_proj_ = project("o_proj", expand * dim, dim);
  }

 protected:
  Tensor run(RecurrentCall& call) override {
    const auto parts = in_proj_(call.x).chunk(2, 2);
    return o_proj_(call.conv(0, conv_, parts[0]) * parts[1]);
  }

 private:
  torch::nn::Linear in_proj_{nullptr}, o_proj_{nullptr};
  nn::ShortConv conv_{nullptr};
};

}  // namespace

RegistryRow rows::base_conv() {
  return {.name = "base_conv",
          .family = "linear_and_recurrent",
          .paper = "Simple linear attention language models balance the recall-throughput tradeoff (arXiv 2402.18668)",
          .year = 2024,
          .patterns = {false, true, false, false},
          .step = true,
          .fixed_state = true,
          .one_way = true,
          .cost = "O(N)",
          .parameters = {{"dim", 64, "channels C of the tokens"},
                         {"expand", 2, "inner channels are expand * dim"},
                         {"conv", 3, "tokens of the short convolution"},
                         {"causal", true, "only true is accepted"}},
          .small = {{"dim", 24}},
          .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
            ConfigReader reader("base_conv", json);
            const auto dim = reader.integer("dim", 64, 1, 1 << 20), expand = reader.integer("expand", 2, 1, 64),
                       conv = reader.integer("conv", 3, 2, 64);
            require(reader.get("causal", true), "base_conv: causal = false is not accepted: its convolution is");
            reader.finish();
            return std::make_shared<BaseConv>(dim, expand, conv);
          }};
}

}  // namespace heed
