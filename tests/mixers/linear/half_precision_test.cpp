// 16-bit tensors in, sums and scales in float32: what is lost is the rounding of the output.
#include <gtest/gtest.h>

#include "heed/mixers/token_mixer.h"
#include "support/torch_support.h"

namespace heed::half_precision_test {
namespace {

using nlohmann::json;
using test::relative_error;
using torch::Tensor;

struct Core {
  const char* mixer;
  json settings;
  bool grid = false;
};

std::string core_name(const testing::TestParamInfo<Core>& info) {
  return info.param.mixer + std::string(info.param.settings.value("causal", true) ? "_causal" : "");
}

class SixteenBits : public testing::TestWithParam<Core> {};

TEST_P(SixteenBits, AreRoundedOnce) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  const auto& core = GetParam();
  json config{{"dim", 16}, {"heads", 2}};
  config.update(core.settings);
  auto mixer = make_mixer(core.mixer, config);
  mixer->eval();
  // Long enough that sums in 16 bits stand still.
  constexpr int64_t kSide = 48, kTokens = kSide * kSide;
  // Values that do not average out, so that the output is as large as they are.
  const auto draw = [&](double mean) { return torch::randn({1, 2, kTokens, 8}) * 0.5 + mean; };
  const Tensor q = draw(0), k = draw(0), v = draw(2);
  for (const auto& [type, digits] : {std::pair{torch::kFloat16, 11}, {torch::kBFloat16, 8}}) {
    CoreInput narrow{q.to(type), k.to(type), v.to(type)};
    if (core.grid) narrow.grid = Grid{{kSide, kSide}};
    auto wide = narrow;
    for (auto* t : {&wide.q, &wide.k, &wide.v}) *t = t->to(torch::kFloat64);
    const auto out = mixer->mix(narrow);
    EXPECT_EQ(out.scalar_type(), type);
    EXPECT_LT(relative_error(out, mixer->mix(wide)), std::pow(2.0, -digits)) << torch::toString(type);
  }
}

const json kAll{{"causal", false}};

INSTANTIATE_TEST_SUITE_P(Cores, SixteenBits,
                         testing::Values(Core{"linear_attention", json::object()}, Core{"linear_attention", kAll},
                                         Core{"performer", json::object()}, Core{"performer", kAll},
                                         Core{"flow_attention", json::object()}, Core{"flow_attention", kAll},
                                         Core{"kernelized_rpe", {{"max_length", 4096}, {"features", 8}}},
                                         Core{"inline_attention", {{"causal", false}, {"residual", false}}, true},
                                         Core{"rala", {{"causal", false}, {"rotary", false}}, true},
                                         Core{"mala", {{"causal", false}, {"rotary", false}}, true},
                                         Core{"l2vit_lga", {{"causal", false}, {"concentration", false}}, true}),
                         core_name);

TEST(SixteenBitsOfSea, TheAverageOfALongPastIsNotHeldBackByItsSum) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(2);
  auto mixer = make_mixer("sea", {{"dim", 16}, {"heads", 2}, {"columns", 16}, {"keys", 2}});
  mixer->named_parameters()["estimator.gates.bias"].fill_(-100);  // the average alone
  mixer->to(torch::kBFloat16);
  const auto draw = [] { return torch::randn({1, 2, 700, 8}).to(torch::kBFloat16); };
  const CoreInput in{draw(), draw(), (draw() * 0.5 + 2).to(torch::kBFloat16)};
  const auto means = in.v.to(torch::kFloat64).cumsum(2) / torch::arange(1, 701, torch::kFloat64).view({1, 1, -1, 1});
  EXPECT_LT(relative_error(mixer->mix(in), means), 2 * std::pow(2.0, -8));  // the product with the gate rounds, too
}

}  // namespace
}  // namespace heed::half_precision_test
