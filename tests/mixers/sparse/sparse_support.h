// What the tests of sparse mixers share: mixers of drawn weights, and their parts in double.
#pragma once

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/mixer_support.h"
#include "support/torch_support.h"

namespace heed::test {

/// Seeds torch, and says so where the test fails.
inline void seed_torch(uint64_t seed) {
  testing::Test::RecordProperty("seed", int(seed));
  torch::manual_seed(seed);
}

/// A mixer in evaluation whose parameters are all away from their first values.
inline std::shared_ptr<TokenMixer> drawn_mixer(const std::string& name, const nlohmann::json& config,
                                               torch::ScalarType type = torch::kFloat32, double spread = 0.3) {
  auto mixer = make_mixer(name, config);
  mixer->eval();
  torch::NoGradGuard no_grad;
  for (auto& parameter : mixer->parameters()) parameter.add_(torch::randn_like(parameter) * spread);
  mixer->to(type);
  return mixer;
}

/// q [2, heads, n, 8], k and v [2, kv_heads, m, 8].
inline CoreInput drawn_core(int64_t n, int64_t m, int64_t heads, int64_t kv_heads, torch::ScalarType type) {
  return {torch::randn({2, heads, n, 8}, type), torch::randn({2, kv_heads, m, 8}, type),
          torch::randn({2, kv_heads, m, 8}, type)};
}

/// Scaled logits [B, Hq, N, M] with what lies behind a query at -inf.
inline torch::Tensor causal_logits(const CoreInput& in) {
  const auto k = in.k.repeat_interleave(in.q.size(1) / in.k.size(1), 1);
  const auto s = torch::matmul(in.q, k.transpose(2, 3)) / std::sqrt(double(in.q.size(3)));
  const int64_t n = in.q.size(2), m = in.k.size(2);
  return s.masked_fill(torch::arange(m) > (torch::arange(n) + m - n).unsqueeze(1), -INFINITY);
}

inline torch::Tensor values_of(const CoreInput& in) { return in.v.repeat_interleave(in.q.size(1) / in.v.size(1), 1); }

}  // namespace heed::test
