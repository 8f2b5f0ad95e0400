// ReLU linear attention with a learned temperature, and a local concentration of what it spreads.
#include "heed/nn/gelu.h"
#include "mixers/linear/image_attention.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::Cells;
using linear::Heads;
using linear::HeadsConfig;
using torch::Tensor;

class L2vitLga final : public linear::ImageAttention {
 public:
  L2vitLga(const HeadsConfig& config, double least, bool concentrates)
      : ImageAttention("l2vit_lga", config), least_(least), concentrates_(concentrates) {
    temperature_ = register_parameter("temperature",
                                      torch::full({config.heads}, 1 / std::sqrt(static_cast<double>(config.key_dim))));
    if (!concentrates) return;
    norm_ = register_module("lcm_norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({config.dim})));
    conv_in_ = register_module("lcm_in", nn::GridConv(config.dim, 7));
    batch_norm_ = register_module("lcm_batch_norm", torch::nn::BatchNorm2d(config.dim));
    conv_out_ = register_module("lcm_out", nn::GridConv(config.dim, 7));
  }

 protected:
  Tensor run(RecurrentCall& call) override {
    const auto attended = ImageAttention::run(call);
    if (!concentrates_) return attended;
    // The block's x += LGA; x += LCM(LN x), of which the mixer returns what is added to the stream.
    const auto cells = cells_of(call);
    const auto& stream = call.input.residual.defined() ? call.input.residual : call.x;
    const auto inner = call.without_padding(norm_(stream + attended));
    const auto mixed = nn::to_image(nn::gelu(conv_in_(inner, cells.height, cells.width)), cells.height, cells.width);
    const auto normed = call.without_padding(nn::to_tokens(batch_norm_(mixed)));
    return attended + conv_out_(normed, cells.height, cells.width);
  }

  Tensor attend_cells(const Cells& cells, const Heads& heads) override {
    const Heads wide = linear::wide(heads);
    const auto q = torch::relu(wide.q), k = cells.shown(torch::relu(wide.k));
    const auto denominator = (q * cells.sum(k)).sum(-1, true);
    const auto temperature = temperature_.view({1, -1, 1, 1});
    // Without a least one, a query without positive channels reads nothing.
    return ops::linear_noncausal(q, k * temperature, wide.v) / denominator.clamp_min(std::max(least_, 1e-30));
  }

 private:
  double least_;
  bool concentrates_;
  Tensor temperature_;  // [H]
  torch::nn::LayerNorm norm_{nullptr};
  nn::GridConv conv_in_{nullptr}, conv_out_{nullptr};
  torch::nn::BatchNorm2d batch_norm_{nullptr};
};

}  // namespace

RegistryRow rows::l2vit_lga() {
  return linear::image_row(
      {.name = "l2vit_lga",
       .paper = "The Linear Attention Resurrection in Vision Transformer (arXiv 2501.16182)",
       .year = 2025,
       .cost = "O(N)",
       .parameters = linear::heads_parameters(
           {{"least_denominator", 100.0, "denominators are clamped from below; scale it with N for small images"},
            {"concentration", true, "two 7 x 7 depthwise convolutions behind the attention"}},
           false),
       .small = {{"dim", 24}, {"heads", 3}, {"least_denominator", 0.5}},
       .make = linear::heads_maker(
           "l2vit_lga",
           [](const HeadsConfig& config, ConfigReader& reader) {
             const double least = reader.get("least_denominator", 100.0);
             require(least >= 0, "l2vit_lga: least_denominator = {}: at least 0 is accepted", least);
             return std::make_shared<L2vitLga>(config, least, reader.get("concentration", true));
           },
           false)});
}

}  // namespace heed
