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

}  // namespace heed::test
