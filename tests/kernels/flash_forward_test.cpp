// The tiled forward against the double reference, over everything a call can ask.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "heed/kernels/flash.h"
#include "heed/kernels/runtime.h"
#include "support/flash_case.h"
#include "support/flash_features.h"

namespace heed::testing::flash_forward_test {
namespace {

using namespace kernels;
constexpr double kForwardTolerance = 2e-5;

void expect_forward_matches(FlashCase& made, double tolerance = kForwardTolerance) {
  FlashCase expected = made;
  reference::flash_forward(expected.params());
  flash_forward(made.params());
  made.check_guards();
  auto got = made.outputs(false), want = expected.outputs(false);
  for (size_t t = 0; t < got.size(); ++t)
    EXPECT_LE(relative_error(*got[t].second, *want[t].second), tolerance) << got[t].first;
}

class ForwardOnIsa : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(""); }
};

INSTANTIATE_TEST_SUITE_P(All, ForwardOnIsa, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return info.param; });

TEST_P(ForwardOnIsa, MatchesReferenceOverRandomShapes) {
  HEED_SEED(random, 20220527);
  const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
  const Layout layouts[] = {Layout::dense, Layout::heads_last, Layout::sliced, Layout::reversed};
  for (int round = 0; round < 40; ++round) {
    FlashShape shape;
    shape.batch = 1 + below(2), shape.k_heads = 1 + below(2), shape.v_heads = shape.k_heads;
    shape.q_heads = shape.k_heads * (1 + below(3));
    shape.queries = round % 5 == 0 ? 1 : 1 + below(220), shape.keys = round % 7 == 0 ? 1 : 1 + below(300);
    shape.d = 1 + below(round % 8 == 0 ? 300 : 80), shape.dv = 1 + below(round % 8 == 1 ? 300 : 80);
    FlashCase made(shape, {}, DType::f32, random(), layouts[round % 4]);
    SCOPED_TRACE(
        fmt::format("N={} M={} D={} Dv={} layout {}", shape.queries, shape.keys, shape.d, shape.dv, round % 4));
    expect_forward_matches(made);
  }
}

TEST_P(ForwardOnIsa, MatchesReferenceUnderEveryMask) {
  HEED_SEED(random, 7);
  int number = 0;
  for (const Mask& mask : flash_masks()) {
    for (auto [queries, keys] : {std::pair<int64_t, int64_t>{150, 150}, {60, 170}, {170, 60}}) {
      SCOPED_TRACE(fmt::format("mask {} N={} M={}", number, queries, keys));
      FlashCase made({2, 2, 1, 1, queries, keys, 20, 12}, {.mask = mask}, DType::f32, random());
      expect_forward_matches(made);
    }
    ++number;
  }
}

TEST_P(ForwardOnIsa, MatchesReferenceWithEveryFeature) {
  HEED_SEED(random, 11);
  int number = 0;
  for (const FlashFeatures& feature : flash_features()) {
    for (Layout layout : {Layout::dense, Layout::heads_last}) {
      SCOPED_TRACE(fmt::format("feature {}", number));
      FlashCase made({2, 4, 2, 2, 131, 147, 24, 17}, feature, DType::f32, random(), layout);
      expect_forward_matches(made);
    }
    ++number;
  }
}

TEST_P(ForwardOnIsa, MatchesReferenceOnPackedSequences) {
  HEED_SEED(random, 13);
  for (FlashFeatures feature : flash_features()) {
    if (feature.lengths) continue;
    feature.packed_q = {0, 5, 60, 0, 1, 33, 7}, feature.packed_k = {4, 5, 90, 0, 70, 0, 3};
    FlashCase made({1, 2, 2, 1, 0, 0, 16, 9}, feature, DType::f32, random());
    expect_forward_matches(made);
  }
}

}  // namespace
}  // namespace heed::testing::flash_forward_test
