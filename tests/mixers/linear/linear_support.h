// What the tests of linear mixers share: mixers, tokens and cores in double.
#pragma once

#include "support/mixer_support.h"
#include "support/torch_support.h"

namespace heed::test {

/// In evaluation, in double.
inline std::shared_ptr<TokenMixer> wide_mixer(std::string_view name, const nlohmann::json& config) {
  auto mixer = make_mixer(name, config);
  mixer->eval();
  mixer->to(torch::kFloat64);
  return mixer;
}

/// x [batch, n, dim] of normal numbers.
inline MixerInput random_tokens(int64_t batch, int64_t n, int64_t dim) {
  return {.x = torch::randn({batch, n, dim}, torch::kFloat64)};
}

/// q, k [2, heads, n, d] with `deviation`, v [2, heads, n, dv or d] with 1.
inline CoreInput random_core(int64_t heads, int64_t n, int64_t d, int64_t dv = 0, double deviation = 1) {
  const auto draw = [&](int64_t size) { return torch::randn({2, heads, n, size}, torch::kFloat64); };
  return {draw(d) * deviation, draw(d) * deviation, draw(dv > 0 ? dv : d)};
}

/// Per head [H, N, size] of x [N, C] under a matrix of p.
inline torch::Tensor by_head(const torch::OrderedDict<std::string, torch::Tensor>& p, const std::string& name,
                             const torch::Tensor& x, int64_t heads) {
  return torch::matmul(x, p[name + ".weight"].t()).unflatten(1, {heads, -1}).transpose(0, 1);
}

/// t [H, N, size] with each row's mean square 1, side by side [N, H size], times weight [size].
inline torch::Tensor normed_heads(const torch::Tensor& t, const torch::Tensor& weight) {
  const auto normed = t * torch::rsqrt(t.square().mean(2, true) + 1e-5) * weight;
  return normed.transpose(0, 1).flatten(1);
}

/// Uniform numbers in place of ones and zeros.
inline void scatter(TokenMixer& mixer) {
  torch::NoGradGuard no_grad;
  for (auto& p : mixer.parameters()) p.uniform_(-1, 1);
}

}  // namespace heed::test
