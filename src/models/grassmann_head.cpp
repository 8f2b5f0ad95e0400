#include "heed/models/grassmann_head.h"

#include "heed/error.h"
#include "heed/nn/pluecker.h"

namespace heed {

using torch::Tensor;

namespace {

/// Pieces [B, P, C] of a text, and whether each has a token, [B, P, 1].
struct Pieces {
  Tensor x, there, mean;  ///< mean of all tokens [B, C]

  Pieces(const TextStates& text, int64_t window) {
    const int64_t tokens = text.x.size(1), pieces = (tokens + window - 1) / window;
    auto real = torch::ones({text.x.size(0), tokens, 1}, text.x.options());
    if (text.padding) real = real.masked_fill(text.padding->unsqueeze(2), 0);
    const auto shown = text.padding ? text.x.masked_fill(text.padding->unsqueeze(2), 0) : text.x;
    const auto sums = [&](const Tensor& t) {
      return torch::constant_pad_nd(t, {0, 0, 0, pieces * window - tokens}).unflatten(1, {pieces, window}).sum(2);
    };
    const auto sum = sums(shown), count = sums(real);
    x = sum / count.clamp_min(1);
    there = (count > 0).to(text.x.scalar_type());
    mean = sum.sum(1) / count.sum(1).clamp_min(1);
  }
};

}  // namespace

GrassmannHeadImpl::GrassmannHeadImpl(const GrassmannHeadConfig& c) : config_(c) {
  require(c.dim >= 1 && c.window >= 1 && c.labels >= 1,
          "grassmann_head: dim = {}, window = {}, labels = {}: 1 or more is accepted", c.dim, c.window, c.labels);
  require(c.rank >= 2, "grassmann_head: rank = {}: 2 or more is accepted", c.rank);
  torch::NoGradGuard no_grad;
  const auto linear = [&](const char* name, int64_t in, int64_t out) {
    auto module = register_module(name, torch::nn::Linear(in, out));
    torch::nn::init::xavier_uniform_(module->weight);
    module->bias.zero_();
    return module;
  };
  reduce_ = linear("reduce", c.dim, c.rank);
  lift_ = linear("lift", c.rank * (c.rank - 1) / 2, c.dim);
  classifier_ = linear("classifier", 3 * c.dim, c.labels);
}

Tensor GrassmannHeadImpl::forward(const TextStates& premise, const TextStates& hypothesis) {
  for (const auto* text : {&premise, &hypothesis}) {
    const auto& x = text->x;
    require(x.dim() == 3 && x.size(0) == premise.x.size(0) && x.size(1) > 0 && x.size(2) == config_.dim,
            "grassmann_head: states of shape {}: [batch, 1 or more tokens, {}] of one batch is accepted",
            c10::str(x.sizes()), config_.dim);
    if (text->padding)
      require(text->padding->scalar_type() == torch::kBool && text->padding->sizes() == x.sizes().slice(0, 2),
              "grassmann_head: padding of {} {}: bool [{}, {}] is accepted",
              c10::toString(text->padding->scalar_type()), c10::str(text->padding->sizes()), x.size(0), x.size(1));
  }
  const Pieces a(premise, config_.window), b(hypothesis, config_.window);
  const auto planes = nn::plane_coordinates(reduce_(a.x).unsqueeze(2), reduce_(b.x).unsqueeze(1));  // [B, P, Q, ...]
  const auto pairs = (a.there.unsqueeze(2) * b.there.unsqueeze(1));
  // The mean is taken before the map: it is linear.
  const auto mean = (planes * pairs).sum({1, 2}) / pairs.sum({1, 2}).clamp_min(1);
  return classifier_(torch::cat({a.mean, b.mean, lift_(mean)}, 1));
}

}  // namespace heed
