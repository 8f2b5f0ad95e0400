// Biases, QK norm, scale and soft cap of attention mixers against their formula.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/mixers/token_mixer.h"
#include "heed/nn/positions.h"
#include "support/torch_support.h"

namespace heed::attention_traits_test {
namespace {

using test::relative_error;
using torch::Tensor;

const nlohmann::json kTraits{{"dim", 24},        {"heads", 6},          {"kv_heads", 3},
                             {"head_dim", 8},    {"positions", "rope"}, {"qkv_bias", true},
                             {"qk_norm", "rms"}, {"scale", 0.7},        {"softcap", 2.5}};

std::shared_ptr<TokenMixer> randomised(const std::string& name, nlohmann::json config) {
  const auto seed = uint64_t(testing::UnitTest::GetInstance()->random_seed()) + 5;
  testing::Test::RecordProperty("seed", int(seed));
  torch::manual_seed(seed);
  auto mixer = make_mixer(name, config);
  mixer->eval();
  torch::NoGradGuard no_grad;
  for (auto& parameter : mixer->parameters()) parameter.add_(torch::randn_like(parameter) * 0.3);
  return mixer;
}

/// The formula of docs/semantics.md with QK norm before the rotation, in float64.
Tensor formula(const TokenMixer& mixer, const Tensor& input, int64_t window) {
  const auto parameters = mixer.named_parameters();
  const auto p = [&](const std::string& name) { return parameters[name].to(torch::kFloat64); };
  const auto x = input.to(torch::kFloat64);
  const int64_t n = x.size(1);
  const auto heads = [&](const std::string& name, int64_t count) {
    const auto y = torch::matmul(x, p(name + ".weight").t()) + p(name + ".bias");
    return y.view({x.size(0), n, count, 8}).transpose(1, 2);
  };
  const auto normed = [&](const Tensor& y, const std::string& name) {
    return y * torch::rsqrt(y.square().mean(-1, true) + 1e-5) * p(name + ".weight");
  };
  const auto q = nn::apply_rope(normed(heads("q_proj", 6), "q_norm"), torch::arange(n), {});
  const auto k = nn::apply_rope(normed(heads("k_proj", 3), "k_norm"), torch::arange(n), {}).repeat_interleave(2, 1);
  const auto v = heads("v_proj", 3).repeat_interleave(2, 1);
  auto s = torch::tanh(torch::matmul(q, k.transpose(2, 3)) * 0.7 / 2.5) * 2.5;
  const auto distance = torch::arange(n).unsqueeze(1) - torch::arange(n);
  s = s.masked_fill((distance < 0).logical_or(distance >= window), -INFINITY);
  const auto out = torch::matmul(torch::softmax(s, -1), v).transpose(1, 2).flatten(2);
  EXPECT_FALSE(parameters.contains("o_proj.bias"));
  return torch::matmul(out, p("o_proj.weight").t());
}

TEST(AttentionTraits, FollowTheFormula) {
  torch::NoGradGuard no_grad;
  auto dense = randomised("dense", kTraits);
  const auto x = torch::randn({2, 29, 24});
  EXPECT_LT(relative_error(dense->forward({.x = x}), formula(*dense, x, 29)), test::kForwardTolerance);
  auto config = kTraits;
  config.update({{"window", 7}, {"sinks", 0}});
  auto window = randomised("sliding_window", config);
  EXPECT_LT(relative_error(window->forward({.x = x}), formula(*window, x, 7)), test::kForwardTolerance);
  auto state = window->make_state(2);
  std::vector<Tensor> parts;
  for (int64_t at = 0; at < 29; at += 4)
    parts.push_back(window->forward({.x = x.slice(1, at, std::min<int64_t>(at + 4, 29))}, state.get()));
  EXPECT_LT(relative_error(torch::cat(parts, 1), formula(*window, x, 7)), test::kForwardTolerance);
}

TEST(AttentionTraits, BiasSetsBothAndEachOverrides) {
  const auto biases = [](nlohmann::json config) {
    auto names = make_mixer("dense", config)->named_parameters();
    return std::pair(names.contains("q_proj.bias"), names.contains("o_proj.bias"));
  };
  EXPECT_EQ(biases({{"bias", true}}), std::pair(true, true));
  EXPECT_EQ(biases({{"bias", true}, {"output_bias", false}}), std::pair(true, false));
  EXPECT_EQ(biases({{"output_bias", true}}), std::pair(false, true));
}

TEST(AttentionTraits, ImpossibleValuesAreRefused) {
  for (const auto& bad :
       std::vector<nlohmann::json>{{{"scale", -1.0}}, {{"softcap", -2.0}}, {{"norm_eps", 2.0}}, {{"qk_norm", "batch"}}})
    EXPECT_THROW(make_mixer("dense", bad), Error) << bad;
}

}  // namespace
}  // namespace heed::attention_traits_test
