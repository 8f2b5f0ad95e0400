// Linear attention normalised by subtraction, which keeps different queries apart, and a local residual.
#include "heed/error.h"
#include "heed/nn/feature_map.h"
#include "heed/nn/gelu.h"
#include "heed/nn/windows.h"
#include "mixers/linear/image_attention.h"
#include "mixers/rows.h"

namespace heed {
namespace {

using linear::Cells;
using linear::Heads;
using linear::HeadsConfig;
using torch::Tensor;

struct InlineConfig {
  nn::FeatureMap map = nn::FeatureMap::identity;
  bool residual = true, class_token = false;
  int64_t window = 0;  ///< 0: the whole image
};

/// The cells of an image cut into windows, each an item of its own.
struct Cut {
  Cut(const Cells& whole, int64_t batch, int64_t side)
      : height(whole.height),
        width(whole.width),
        windows(nn::Windows::Kind::block, height, width, side, side),
        cells{windows.rows(), windows.columns(), {}, {}} {
    auto real = torch::ones({batch, height * width, 1}, whole.count.options());
    if (whole.hidden.defined()) real = real.masked_fill(whole.hidden.squeeze(1), 0);
    const auto shown = split(real).unsqueeze(1);
    cells.hidden = shown == 0;
    cells.count = shown.sum(2, true).clamp_min(1);
  }
  /// [B, N, C] -> [B windows, cells of one, C] and back.
  Tensor split(const Tensor& tokens) const { return windows.split(tokens.unflatten(1, {height, width})); }
  Tensor join(const Tensor& tokens) const { return windows.join(tokens).flatten(1, 2); }

  int64_t height, width;
  nn::Windows windows;
  Cells cells;  ///< of the windows
};

class InlineAttention final : public linear::ImageAttention {
 public:
  InlineAttention(const HeadsConfig& config, const InlineConfig& own)
      : ImageAttention("inline_attention", config, own.class_token), own_(own) {
    if (!own.residual) return;
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
    if (own_.window == 0) return attend_among(cells, wide);
    const Cut cut(cells, wide.q.size(0), own_.window);
    const auto part = [&](const Tensor& t) { return split_heads(cut.split(join_heads(t)), config_.heads); };
    const auto out = attend_among(cut.cells, {part(wide.q), part(wide.k), part(wide.v)});
    return split_heads(cut.join(join_heads(out)), config_.heads);
  }

  Tensor before_output(RecurrentCall& call, Tensor joined) override {
    if (!own_.residual) return joined;
    const auto cells = cells_of(call);
    const auto x = call.without_padding(call.x), v = cells.of_grid(call.without_padding(v_proj_(call.x)));
    if (own_.window == 0) return joined + cells.behind_zeros(local(cells, x, v));
    const Cut cut(cells, call.batch(), own_.window);
    return joined + cut.join(local(cut.cells, cut.split(x), cut.split(v)));
  }

 private:
  Tensor attend_among(const Cells& cells, const Heads& heads) const {
    const auto q = nn::apply(own_.map, heads.q), k = cells.shown(nn::apply(own_.map, heads.k));
    const auto scale = score_scale(cells);
    const auto sum = (q * cells.sum(k)).sum(-1, true) * scale;
    return ops::linear_noncausal(q, k * scale, cells.shown(heads.v)) + (1 - sum) * cells.mean(heads.v);
  }

  /// v [B, height width, C] under kernels that the mean of x [B, N, C], 0 where it is padding, decides.
  Tensor local(const Cells& cells, const Tensor& x, const Tensor& v) {
    const auto mean = linear::wide(x).sum(1) / cells.count.view({-1, 1});
    const auto told = mean.to(x.scalar_type()).unsqueeze(-1);
    const auto kernels = kernel_out_(nn::gelu(kernel_in_(told))).view({-1, 1, 3, 3});
    const auto image = nn::to_image(v, cells.height, cells.width);
    // Every channel of every item has its own kernel: one convolution of B C groups.
    const auto flat = image.reshape({1, -1, cells.height, cells.width});
    return nn::to_tokens(torch::conv2d(flat, kernels, {}, 1, 1, 1, flat.size(1)).view(image.sizes()));
  }

  InlineConfig own_;
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
            {"residual", true, "3 x 3 kernels per channel, made from the mean token, run over v"},
            {"window", 0, "cells a side of windows that are images of their own; 0: the whole image"},
            {"class_token", false, "the first token is no cell: the kernels do not run over it"}},
           false),
       .small = {{"dim", 24}, {"heads", 3}},
       .make = linear::heads_maker(
           "inline_attention",
           [](const HeadsConfig& config, ConfigReader& reader) {
             InlineConfig own;
             own.map = nn::feature_map(reader.choice("feature_map", "identity", nn::feature_map_names()));
             own.residual = reader.get("residual", own.residual);
             own.window = reader.integer("window", own.window, 0, 1 << 14);
             own.class_token = reader.get("class_token", own.class_token);
             require(own.window == 0 || !own.class_token,
                     "inline_attention: window = {} with a class token, which is in no window", own.window);
             return std::make_shared<InlineAttention>(config, own);
           },
           false)});
}

}  // namespace heed
