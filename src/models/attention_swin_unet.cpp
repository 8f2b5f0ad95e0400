#include "heed/models/attention_swin_unet.h"

#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "heed/models/unet.h"
#include "heed/nn/grid.h"
#include "heed/nn/start.h"

namespace heed {
namespace {

using torch::Tensor;

int64_t side(const Grid& grid, int64_t window, size_t axis) { return std::min(window, grid.sizes[axis]); }

nn::Windows windows_of(const Grid& grid, int64_t window, bool shifted) {
  const int64_t rows = side(grid, window, 0), columns = side(grid, window, 1);
  return {
      nn::Windows::Kind::block, grid.sizes[0], grid.sizes[1], rows, columns, shifted ? std::min(rows, columns) / 2 : 0};
}

}  // namespace

Tensor reused_weights(const Tensor& own, const Tensor& other, AttentionReuse reuse) {
  if (reuse == AttentionReuse::none) return own;
  const auto both = reuse == AttentionReuse::sum ? own + other : own * other;
  return both / both.sum(-1, true).clamp_min(1e-12);
}

SwinBlockImpl::SwinBlockImpl(const TransformerConfig& c, const Grid& grid, int64_t window, bool shifted)
    : heads_(c.heads), grid_(grid), windows_(windows_of(grid, window, shifted)) {
  const auto norm = [&](const char* name) { return register_module(name, nn::Norm(c.block.norm, c.dim, c.norm_eps)); };
  input_norm_ = norm("input_norm"), mlp_norm_ = norm("mlp_norm");
  qkv_ = register_module("qkv", torch::nn::Linear(c.dim, 3 * c.dim));
  out_ = register_module("o_proj", torch::nn::Linear(c.dim, c.dim));
  bias_ = register_module("bias", nn::OffsetBias(c.heads, side(grid, window, 0), side(grid, window, 1)));
  const auto channels = make_channel_mixer(c.block, c.dim, c.hidden);
  require(channels != nullptr, "cross_contextual_attention: a channel mixer of none is not accepted");
  mlp_ = register_module("mlp", channels);
}

Tensor SwinBlockImpl::weights(const Tensor& q, const Tensor& k) {
  auto logits = torch::matmul(q, k.transpose(2, 3)) / std::sqrt(double(q.size(3))) + bias_->forward();
  if (const auto documents = windows_.documents({}); documents.defined()) {
    const auto apart = documents.unsqueeze(2) != documents.unsqueeze(1);  // [windows, n, n]
    const auto by_image = logits.unflatten(0, {-1, windows_.count()});
    logits = by_image.masked_fill(apart.unsqueeze(1), std::numeric_limits<float>::lowest()).flatten(0, 1);
  }
  return torch::softmax(logits, 3);
}

SwinBlockImpl::Output SwinBlockImpl::forward(const Tensor& cells, const Tensor& other, AttentionReuse reuse) {
  const auto split = windows_.split(input_norm_(cells).unflatten(1, {grid_.sizes[0], grid_.sizes[1]}));
  const auto parts = qkv_(split).chunk(3, 2);
  const auto own = weights(split_heads(parts[0], heads_), split_heads(parts[1], heads_));
  const auto used = other.defined() ? reused_weights(own, other, reuse) : own;
  const auto mixed = out_(join_heads(torch::matmul(used, split_heads(parts[2], heads_))));
  const auto x = cells + windows_.join(mixed).flatten(1, 2);
  return {x + mlp_->forward(mlp_norm_(x), grid_), own};
}

AttentionSwinUnetImpl::AttentionSwinUnetImpl(const VisionSpec& spec, const SwinUnetConfig& config)
    : spec_(spec), config_(config) {
  const auto& c = config_;
  spec.check();
  require(c.scales >= 2 && c.depth >= 1 && c.window >= 1,
          "{} scales of {} blocks with windows of {}: at least 2, 1 and 1 are accepted", c.scales, c.depth, c.window);
  Grid grid{{spec.rows(), spec.columns()}};
  const auto& base = spec.base;
  const auto widened = [&](int64_t s) {
    auto own = base;
    for (auto* size : {&own.dim, &own.heads, &own.kv_heads, &own.hidden}) *size *= s + 1;
    return own;
  };
  for (int64_t s = 0; s + 1 < c.scales; ++s) {
    const auto name = "scale_" + std::to_string(s);
    auto owner = register_module(name, std::make_shared<torch::nn::Module>(name));
    const auto own = widened(s);
    auto& scale = scales_.emplace_back();
    scale.grid = grid;
    const auto patches = torch::nn::Conv2dOptions(spec.channels, base.dim, spec.patch).stride(spec.patch);
    scale.embedding = owner->register_module(
        "embedding", s == 0 ? torch::nn::Conv2d(patches) : halving_conv(widened(s - 1).dim, own.dim));
    scale.norm = owner->register_module("norm", nn::Norm(own.block.norm, own.dim, own.norm_eps));
    for (auto* half : {&scale.encoder, &scale.decoder})
      for (int64_t i = 0; i < c.depth; ++i)
        half->push_back(owner->register_module(fmt::format("{}_{}", half == &scale.encoder ? "encoder" : "decoder", i),
                                               SwinBlock(own, grid, c.window, i % 2 == 1)));
    scale.expand = owner->register_module("expand", torch::nn::Linear(widened(s + 1).dim, 4 * own.dim));
    scale.skip = owner->register_module("skip", CrossSkip(own.dim, c.skip));
    for (auto& size : grid.sizes) size = (size + 1) / 2;
  }
  auto below = widened(c.scales - 1);
  bottom_grid_ = grid;
  below.grid = grid.sizes;
  below.max_length = grid.sizes[0] * grid.sizes[1];
  bottom_embedding_ = register_module("bottom_embedding", halving_conv(widened(c.scales - 2).dim, below.dim));
  auto owner = register_module("bottom", std::make_shared<torch::nn::Module>("bottom"));
  bottom_ = make_blocks(*owner, below, false, torch::kFloat32);
  bottom_reducers_ = make_reducers(*owner, spec.reducer, below);
  positions_ = register_parameter("positions", nn::started_rows({1, spec.rows() * spec.columns(), base.dim}));
  norm_ = register_module("norm", nn::Norm(base.block.norm, base.dim, base.norm_eps));
  classifier_ = register_module("classifier", torch::nn::Linear(base.dim, spec.labels));
}

Tensor AttentionSwinUnetImpl::expanded(Scale& scale, const Tensor& cells, const Grid& from) {
  return unfolded_cells(scale.expand(cells), from, scale.grid);
}

Tensor AttentionSwinUnetImpl::states(const Tensor& pixels, uint64_t seed) {
  check_pixels(pixels, spec_.channels, spec_.image_height, spec_.image_width);
  std::vector<Tensor> skips;
  std::vector<std::vector<Tensor>> weights;
  auto image = pixels;
  for (auto& scale : scales_) {
    auto x = nn::to_tokens(scale.embedding(image)).contiguous();
    if (skips.empty()) x = x + positions_;
    weights.emplace_back();
    for (auto& block : scale.encoder) {
      const auto out = block(x);
      x = out.cells;
      weights.back().push_back(out.weights);
    }
    skips.push_back(scale.norm(x));
    image = nn::to_image(skips.back(), scale.grid.sizes[0], scale.grid.sizes[1]).contiguous();
  }
  MixerInput input;
  input.grid = bottom_grid_;
  input.x = nn::to_tokens(bottom_embedding_(image)).contiguous();
  auto x = run_restored_blocks(bottom_, input, bottom_reducers_, 0, seed);
  for (size_t s = scales_.size(); s-- > 0;) {
    auto& scale = scales_[s];
    x = scale.skip(expanded(scale, x, s + 1 < scales_.size() ? scales_[s + 1].grid : bottom_grid_), skips[s]);
    for (size_t i = 0; i < scale.decoder.size(); ++i) x = scale.decoder[i](x, weights[s][i], config_.reuse).cells;
  }
  x = norm_(x);
  return spec_.dense ? x : x.mean(1, true);
}

}  // namespace heed
