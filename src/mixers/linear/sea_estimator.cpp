#include "mixers/linear/sea_estimator.h"

#include <cmath>

#include "heed/error.h"
#include "heed/nn/gelu.h"
#include "heed/nn/random_features.h"
#include "mixers/linear/performer_features.h"

namespace heed::linear {
namespace {

using torch::Tensor;

/// x [B, C, N, W] with the rows of padded tokens 0, as beyond the ends.
Tensor shown_rows(const Tensor& x, const Tensor& shown) {
  return x.masked_fill(shown.logical_not().unsqueeze(1).unsqueeze(3), 0);
}

}  // namespace

SeaEstimatorImpl::SeaEstimatorImpl(const SeaEstimatorConfig& c) : config_(c) {
  const int64_t r = c.causal ? 4 : 2, d = c.head_dim;
  require(c.columns >= r && c.columns % r == 0, "sea: columns = {}: a multiple of {} is accepted", c.columns, r);
  reduced_ = c.columns / r;
  planes_ = c.causal ? 2 : 4;
  const double natural = static_cast<double>(d) * std::log(static_cast<double>(d));
  const int64_t features = c.features > 0 ? c.features : std::max<int64_t>(1, static_cast<int64_t>(std::ceil(natural)));
  rows_ = register_buffer("rows", nn::orthogonal_rows(features, d, c.seed));
  if (c.causal) places_ = register_parameter("places", torch::randn({c.max_length, d}) * 0.02);
  in_ = register_module("in_proj", torch::nn::Linear(3 * d, 2 * d));
  norm_ = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({2 * d})));
  out_ = register_module("out_proj", torch::nn::Linear(2 * d, planes_ * reduced_));
  gates_ = register_module("gates", torch::nn::Linear(2 * d, 2));
  using Options = torch::nn::Conv2dOptions;
  const int64_t wide = c.heads * planes_;
  const auto conv = [&](const char* name, Options options) {
    return register_module(name, torch::nn::Conv2d(options));
  };
  if (c.causal) {
    image_norm_ = register_module("image_norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({reduced_})));
    map_norm_ = register_module("map_norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({c.columns})));
    conv1_ = conv("conv1", Options(wide, wide, 3).dilation(2).padding({0, 2}));
    conv2_ = conv("conv2", Options(wide, wide, 3).dilation(2).padding({0, 2}));
    conv3_ = conv("conv3", Options(wide, c.heads, 1));
  } else {
    conv1_ = conv("conv1", Options(wide, wide, 3).stride({2, 1}).padding(1));
    conv2_ = conv("conv2", Options(wide, wide, 3).padding(1));
    conv3_ = conv("conv3", Options(wide, c.heads, 3).padding(1));
  }
}

/// [B or 1, N, d]: the learned place of each token, or the d x d identity stretched over the shown ones.
Tensor SeaEstimatorImpl::places(RecurrentCall& call, const Tensor& ranks, const Tensor& shown) const {
  if (config_.causal) {
    const int64_t end = call.seen() + call.tokens();
    require(end <= config_.max_length, "sea: {} tokens; max_length = {}", end, config_.max_length);
    return places_.narrow(0, call.seen(), call.tokens()).unsqueeze(0);
  }
  const double d = static_cast<double>(config_.head_dim);
  const auto scale = d / shown.sum(1, true).clamp_min(1).to(call.x.scalar_type());
  const auto at = ((ranks.to(call.x.scalar_type()) + 0.5) * scale - 0.5).clamp(0, d - 1);
  return torch::relu(1 - (at.unsqueeze(2) - torch::arange(config_.head_dim, call.x.options())).abs());
}

SeaEstimatorImpl::Estimate SeaEstimatorImpl::forward(RecurrentCall& call, size_t first_slot, const Heads& heads,
                                                     const Tensor& ranks, const Tensor& shown) {
  const auto& v = heads.v;
  const auto values = torch::cat({places(call, ranks, shown).unsqueeze(1).expand_as(v).to(v.scalar_type()), v}, 3);
  const PerformerFeatures features{rows_, config_.causal ? "relu" : "softmax"};
  const auto gathered = performer_attention(call, first_slot, {heads.q, heads.k, values}, features, config_.causal);
  const auto inner = norm_(in_(torch::cat({gathered, v}, 3)));
  const auto t = nn::gelu(inner);
  const auto image = out_(t).unflatten(3, {planes_, reduced_}).transpose(2, 3).flatten(1, 2);  // [B, H s, N, K / r]
  const auto logits = config_.causal ? causal_maps(call, first_slot + 1, image, shown) : whole_maps(image, shown);
  return {torch::softmax(logits, 3), torch::sigmoid(gates_(t))};
}

Tensor SeaEstimatorImpl::causal_maps(RecurrentCall& call, size_t first_slot, Tensor image, const Tensor& shown) {
  // Two rows of dilation 2 before a row are the four tokens before it.
  constexpr int64_t kTail = 4;
  const auto convolved = [&](size_t slot, torch::nn::Conv2d& conv, const Tensor& rows) {
    auto& tail = call.slot(slot);
    const auto x = shown_rows(rows, shown);
    const auto before = tail.defined() ? tail : x.new_zeros({x.size(0), x.size(1), kTail, x.size(3)});
    const auto all = torch::cat({before, x}, 2);
    if (call.carries()) tail = all.slice(2, all.size(2) - kTail).clone();
    return torch::relu(conv(all));
  };
  image = convolved(first_slot, conv1_, image_norm_(image));
  image = convolved(first_slot + 1, conv2_, image);
  // Columns are repeated behind the last convolution, whose window is one column.
  return map_norm_(conv3_(image).repeat_interleave(config_.columns / reduced_, 3));
}

Tensor SeaEstimatorImpl::whole_maps(Tensor image, const Tensor& shown) {
  const int64_t tokens = image.size(2);
  const auto every_second = shown.slice(1, 0, c10::nullopt, 2);
  image = torch::relu(conv1_(shown_rows(image, shown)));
  image = torch::relu(conv2_(shown_rows(image, every_second)));
  image = image.repeat_interleave(2, 2).narrow(2, 0, tokens);
  return torch::upsample_bilinear2d(conv3_(shown_rows(image, shown)).contiguous(), {tokens, config_.columns}, false);
}

}  // namespace heed::linear
