#include "mixers/linear/damped_ema.h"

#include <cmath>

#include "heed/ops/toeplitz_fft.h"

namespace heed::linear {

using torch::Tensor;

namespace {

constexpr int64_t kPiece = 256;  ///< tokens whose powers are held at once

Tensor powers(const Tensor& rate, int64_t begin, int64_t end) {
  return torch::exp(torch::arange(begin, end).to(rate.scalar_type()).view({-1, 1, 1}) * rate);
}

}  // namespace

DampedEmaImpl::DampedEmaImpl(int64_t channels, int64_t dimensions, bool bidirectional)
    : directions_(bidirectional ? 2 : 1) {
  const std::vector<int64_t> size{directions_, channels, dimensions};
  delta_ = register_parameter("delta", torch::randn(size) * 0.2);
  alpha_ = register_parameter("alpha", torch::randn(size) * 0.2);
  // Signs that alternate keep the first outputs small.
  const auto signs = 1 - 2 * torch::arange(dimensions).remainder(2);
  beta_ = register_parameter("beta", torch::randn(size) * 0.02 + signs);
  gamma_ = register_parameter("gamma", torch::randn(size));
  omega_ = register_parameter("omega", torch::randn({channels}));
}

DampedEmaImpl::Sums DampedEmaImpl::sums(int64_t direction) const {
  const auto wide = [&](const Tensor& t) {
    return t.scalar_type() == torch::kFloat64 ? t[direction] : t[direction].to(torch::kFloat32);
  };
  const auto p = torch::sigmoid(wide(delta_)), a = torch::sigmoid(wide(alpha_));
  return {torch::log1p(-p * a), p * wide(beta_), wide(gamma_) / std::sqrt(static_cast<double>(gamma_.size(2)))};
}

Tensor DampedEmaImpl::kernel(const Sums& s, int64_t tokens) const {
  std::vector<Tensor> parts;
  for (int64_t t = 0; t < tokens; t += kPiece)
    parts.push_back((powers(s.rate, t, std::min(tokens, t + kPiece)) * (s.in * s.out)).sum(2));
  return torch::cat(parts);
}

Tensor DampedEmaImpl::forward(const Tensor& x, Tensor* state) {
  const int64_t tokens = x.size(1);
  if (tokens == 0) return x;
  const Sums ahead = sums(0);
  if (state == nullptr) {
    auto c = kernel(ahead, tokens);
    if (directions_ == 2) c = torch::cat({kernel(sums(1), tokens).narrow(0, 0, tokens - 1).flip(0), c});
    return ops::toeplitz_fft(c.unsqueeze(0), x, directions_ == 1) + omega_ * x;
  }
  const auto u = x.to(ahead.rate.scalar_type());
  auto h = state->defined() ? *state : torch::zeros({x.size(0), x.size(2), ahead.rate.size(1)}, u.options());
  std::vector<Tensor> parts;
  for (int64_t t = 0; t < tokens; t += kPiece) {
    const int64_t count = std::min(kPiece, tokens - t);
    const auto piece = u.narrow(1, t, count), decay = powers(ahead.rate, 0, count + 1);
    const auto carried = torch::einsum("bcn,lcn->blc", {h, decay.slice(0, 1) * ahead.out});
    parts.push_back(carried + ops::toeplitz_fft(kernel(ahead, count).unsqueeze(0), piece.contiguous(), true));
    h = decay[count] * h + torch::einsum("lcn,blc->bcn", {decay.slice(0, 0, count).flip(0) * ahead.in, piece});
  }
  *state = h;
  return torch::cat(parts, 1).to(x.scalar_type()) + omega_ * x;
}

}  // namespace heed::linear
