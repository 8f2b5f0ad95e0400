// Linear attention normalised by subtraction, which keeps different queries apart, and a local residual.
#include "heed/nn/feature_map.h"
#include "heed/nn/gelu.h"
#include "mixers/linear/image_attention.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::Cells;
using linear::Heads;
using linear::HeadsConfig;
using torch::Tensor;

class InlineAttention final : public linear::ImageAttention {
 public:
  InlineAttention(const HeadsConfig& config, nn::FeatureMap map, bool residual)
      : ImageAttention("inline_attention", config), map_(map), residual_(residual) {
    if (!residual) return;
    // Grouped by head: what a head's kernels are follows from its own channels.
    const auto grouped = [&](int64_t in, int64_t out) {
      return torch::nn::Conv1d(torch::nn::Conv1dOptions(in, out, 1).groups(config.heads));
    };
    require(config.dim == config.values(), "inline_attention: dim = {} and {} values; the residual needs as many",
            config.dim, config.values());
    kernel_in_ = register_module("kernel_in", grouped(config.dim, config.dim));
    kernel_out_ = register_module("kernel_out", grouped(config.dim, 9 * config.dim));
  }

 protected:
  Tensor attend_cells(const Cells& cells, const Heads& heads) override {
    const Heads wide = linear::wide(heads);
    const auto q = nn::apply(map_, wide.q), k = cells.shown(nn::apply(map_, wide.k));
    const auto scale = score_scale(cells);
    const auto sum = (q * cells.sum(k)).sum(-1, true) * scale;
    return ops::linear_noncausal(q, k * scale, wide.v) + (1 - sum) * cells.mean(wide.v);
  }

  Tensor before_output(RecurrentCall& call, Tensor joined) override {
    if (!residual_) return joined;
    const auto cells = cells_of(call);
    const auto mean = linear::wide(call.without_padding(call.x)).sum(1) / cells.count.view({-1, 1});
    const auto told = mean.to(call.x.scalar_type()).unsqueeze(-1);
    const auto kernels = kernel_out_(nn::gelu(kernel_in_(told))).view({-1, 1, 3, 3});
    const auto v = nn::to_image(call.without_padding(v_proj_(call.x)), cells.height, cells.width);
    // Every channel of every item has its own kernel: one convolution of B C groups.
    const auto flat = v.reshape({1, -1, cells.height, cells.width});
    const auto local = torch::conv2d(flat, kernels, {}, 1, 1, 1, flat.size(1)).view(v.sizes());
    return joined + nn::to_tokens(local);
  }

 private:
  nn::FeatureMap map_;
  bool residual_;
  torch::nn::Conv1d kernel_in_{nullptr}, kernel_out_{nullptr};
};

}  // namespace

RegistryRow rows::inline_attention() {
  return linear::image_row(
      {.name = "inline_attention",
       .paper = "Bridging the Divide: Reconsidering Softmax and Linear Attention (arXiv 2412.06590)",
       .year = 2024,
       .cost = "O(N)",
       .parameters = linear::heads_parameters(
           {{"feature_map", "identity", "of q and k; signs are fine"},
            {"residual", true, "3 x 3 kernels per channel, made from the mean token, run over v"}},
           false),
       .small = {{"dim", 24}, {"heads", 3}},
       .make = linear::heads_maker(
           "inline_attention",
           [](const HeadsConfig& config, ConfigReader& reader) {
             const auto map = nn::feature_map(reader.choice("feature_map", "identity", nn::feature_map_names()));
             return std::make_shared<InlineAttention>(config, map, reader.get("residual", true));
           },
           false)});
}

}  // namespace heed
