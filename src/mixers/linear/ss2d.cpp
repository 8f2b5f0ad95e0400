// Selective scans along several paths over the cells of a grid, summed: every cell sees all others.
#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "heed/nn/grid.h"
#include "heed/nn/scan_paths.h"
#include "mixers/linear/selective_ssm.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using torch::Tensor;

struct Ss2dConfig : linear::SelectiveSizes {
  int64_t conv = 3;
  std::string paths = "cross";
  bool conv_bias = true;
};

class Ss2d final : public RecurrentMixer {
 public:
  explicit Ss2d(const Ss2dConfig& c) : RecurrentMixer("ss2d", c.dim, false), config_(c) {
    in_proj_ = project("in_proj", c.dim, 2 * c.inner());
    o_proj_ = project("o_proj", c.inner(), c.dim);
    if (c.conv > 0) conv_ = register_module("conv", nn::GridConv(c.inner(), c.conv, c.conv_bias));
    ssm_ = register_module("ssm", linear::SelectiveSsm(linear::SelectiveSsmConfig{c.inner(), c.state_dim, c.step_rank,
                                                                                  nn::ScanPaths::count(c.paths)}));
    norm_ = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({c.inner()})));
  }

 protected:
  Tensor run(RecurrentCall& call) override {
    require(call.input.grid && call.input.grid->sizes.size() == 2, "ss2d: a grid of two sizes is missing");
    require(!call.input.cu_seqlens, "ss2d: cu_seqlens are not accepted: the tokens are one grid");
    const int64_t height = call.input.grid->sizes[0], width = call.input.grid->sizes[1];
    const nn::ScanPaths paths(config_.paths, height, width);
    const auto parts = in_proj_(call.x).chunk(2, 2);
    auto x = call.without_padding(parts[0]);
    if (conv_) x = conv_(x, height, width);
    std::optional<Tensor> hidden;
    if (call.input.key_padding) hidden = paths.scan(call.input.key_padding->unsqueeze(2)).squeeze(3);
    const auto y = paths.merge(ssm_->forward(paths.scan(torch::silu(x)), {}, hidden));
    return o_proj_(norm_(y) * torch::silu(parts[1]));
  }

 private:
  Ss2dConfig config_;
  torch::nn::Linear in_proj_{nullptr}, o_proj_{nullptr};
  nn::GridConv conv_{nullptr};
  linear::SelectiveSsm ssm_{nullptr};
  torch::nn::LayerNorm norm_{nullptr};
};

}  // namespace

RegistryRow rows::ss2d() {
  return {.name = "ss2d",
          .family = "linear_and_recurrent",
          .paper = "VMamba: Visual State Space Model (arXiv 2401.10166)",
          .year = 2024,
          .patterns = {true, false, false, false},
          .grid = true,
          .cost = "O(N)",
          .parameters = linear::selective_parameters(
              {{"conv", 3, "side of the depthwise convolution before the scans; 0: none"},
               {"conv_bias", true, "bias of the convolution"},
               {"paths", "cross", "cross, snake (neighbours follow each other), bidirectional, single"},
               {"causal", false, "only false is accepted"}}),
          .small = {{"dim", 16}, {"state_dim", 3}},
          .make = [](const nlohmann::json& json) -> std::shared_ptr<TokenMixer> {
            ConfigReader reader("ss2d", json);
            Ss2dConfig c{linear::SelectiveSizes::read(reader)};
            c.conv = reader.integer("conv", c.conv, 0, 63);
            require(c.conv == 0 || c.conv % 2 == 1, "ss2d: conv = {}: odd sides, or 0, are accepted", c.conv);
            c.conv_bias = reader.get("conv_bias", true);
            c.paths = reader.choice("paths", c.paths, nn::ScanPaths::kinds());
            require(!reader.get("causal", false), "ss2d: causal = true is not accepted: every cell sees all others");
            reader.finish();
            return std::make_shared<Ss2d>(c);
          }};
}

}  // namespace heed
