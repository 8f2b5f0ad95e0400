// The tiled backward against the double reference, and the reference against central differences.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "heed/kernels/flash.h"
#include "heed/kernels/runtime.h"
#include "support/flash_case.h"
#include "support/flash_features.h"

namespace heed::testing::flash_backward_test {
namespace {

using namespace kernels;
using Kind = Normalizer::Kind;

constexpr double kGradientTolerance = 1e-4;

void expect_backward_matches(FlashCase& made, double tolerance = kGradientTolerance) {
  FlashCase expected = made;
  flash_forward(made.params());
  reference::flash_forward(expected.params());
  reference::flash_backward(expected.params(), expected.grads());
  flash_backward(made.params(), made.grads());
  made.check_guards();
  auto got = made.outputs(true), want = expected.outputs(true);
  for (size_t t = 0; t < got.size(); ++t)
    EXPECT_LE(relative_error(*got[t].second, *want[t].second), tolerance) << got[t].first;
}

class BackwardOnIsa : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(""); }
};

INSTANTIATE_TEST_SUITE_P(All, BackwardOnIsa, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return info.param; });

TEST_P(BackwardOnIsa, MatchesReferenceOverRandomShapes) {
  HEED_SEED(random, 20220528);
  const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
  const Layout layouts[] = {Layout::dense, Layout::heads_last, Layout::sliced, Layout::reversed};
  for (int round = 0; round < 24; ++round) {
    FlashShape shape;
    shape.batch = 1 + below(2), shape.k_heads = 1 + below(2), shape.v_heads = shape.k_heads;
    shape.q_heads = shape.k_heads * (1 + below(3));
    shape.queries = round % 5 == 0 ? 1 : 1 + below(220), shape.keys = round % 7 == 0 ? 1 : 2 + below(200);
    shape.d = 1 + below(round % 8 == 0 ? 300 : 80), shape.dv = 1 + below(round % 8 == 1 ? 300 : 80);
    FlashCase made(shape, {}, DType::f32, random(), layouts[round % 4]);
    SCOPED_TRACE(
        fmt::format("N={} M={} D={} Dv={} layout {}", shape.queries, shape.keys, shape.d, shape.dv, round % 4));
    expect_backward_matches(made);
  }
}

TEST_P(BackwardOnIsa, MatchesReferenceUnderEveryMask) {
  HEED_SEED(random, 8);
  int number = 0;
  for (const Mask& mask : flash_masks()) {
    for (auto [queries, keys] : {std::pair<int64_t, int64_t>{110, 110}, {60, 130}, {130, 60}}) {
      SCOPED_TRACE(fmt::format("mask {} N={} M={}", number, queries, keys));
      FlashCase made({2, 2, 1, 1, queries, keys, 20, 12}, {.mask = mask}, DType::f32, random());
      expect_backward_matches(made);
    }
    ++number;
  }
}

TEST_P(BackwardOnIsa, MatchesReferenceWithEveryFeature) {
  HEED_SEED(random, 12);
  int number = 0;
  for (const FlashFeatures& feature : flash_features()) {
    SCOPED_TRACE(fmt::format("feature {}", number));
    FlashCase made({2, 4, 2, 2, 121, 137, 24, 17}, feature, DType::f32, random(),
                   number % 2 == 0 ? Layout::dense : Layout::heads_last);
    expect_backward_matches(made);
    ++number;
  }
}

TEST_P(BackwardOnIsa, MatchesReferenceOnPackedSequences) {
  HEED_SEED(random, 14);
  int number = 0;
  for (FlashFeatures feature : flash_features()) {
    SCOPED_TRACE(fmt::format("feature {}", number++));
    if (feature.lengths) continue;
    feature.packed_q = {0, 5, 60, 0, 1, 33, 7}, feature.packed_k = {4, 5, 90, 0, 70, 0, 3};
    FlashCase made({1, 2, 2, 1, 0, 0, 16, 9}, feature, DType::f32, random());
    expect_backward_matches(made);
  }
}

// sum(out * d_out) + sum(lse * d_lse): what the gradients are gradients of.
double objective(FlashCase& made) {
  reference::flash_forward(made.params());
  double sum = 0;
  made.out.each(
      [&](int64_t b, int64_t h, int64_t n, int64_t d) { sum += made.out.at(b, h, n, d) * made.d_out.at(b, h, n, d); });
  if (made.features().kind == Kind::sigmoid) return sum;
  made.lse.each([&](int64_t b, int64_t h, int64_t n, int64_t d) {
    if (std::isfinite(made.lse.at(b, h, n, d))) sum += made.lse.at(b, h, n, d) * made.d_lse.at(b, h, n, d);
  });
  return sum;
}

TEST(FlashReference, GradientsAreThoseOfTheForward) {
  HEED_SEED(random, 15);
  int number = 0;
  for (FlashFeatures feature : flash_features()) {
    SCOPED_TRACE(fmt::format("feature {}", number++));
    if (feature.kind == Kind::sigmoid) feature.sigmoid_bias = true;
    FlashCase made({2, 2, 2, 1, 6, 7, 4, 3}, feature, DType::f64, random());
    objective(made);
    reference::flash_backward(made.params(), made.grads());
    const std::pair<Tensor*, Tensor*> pairs[] = {{&made.q, &made.d_q},
                                                 {&made.k, &made.d_k},
                                                 {&made.v, &made.d_v},
                                                 {&made.bias, &made.d_bias},
                                                 {&made.multiplier, &made.d_multiplier},
                                                 {&made.temperature, &made.d_temperature},
                                                 {&made.sink, &made.d_sink},
                                                 {&made.sigmoid_bias, &made.d_sigmoid_bias}};
    for (size_t t = 0; t < std::size(pairs); ++t) {
      auto [input, gradient] = pairs[t];
      if (!*input) continue;
      Tensor numeric(DType::f64, input->size());
      input->each([&](int64_t b, int64_t h, int64_t n, int64_t d) {
        const double value = input->at(b, h, n, d), step = 1e-5;
        input->set(b, h, n, d, value + step);
        const double above = objective(made);
        input->set(b, h, n, d, value - step);
        const double below = objective(made);
        input->set(b, h, n, d, value);
        numeric.set(b, h, n, d, (above - below) / (2 * step));
      });
      EXPECT_LE(relative_error(numeric, *gradient), 1e-6) << "tensor " << t;
    }
  }
}

}  // namespace
}  // namespace heed::testing::flash_backward_test
