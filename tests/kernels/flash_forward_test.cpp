// The tiled forward against the double reference, over everything a call can ask.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "heed/kernels/flash.h"
#include "heed/kernels/runtime.h"
#include "support/flash_case.h"

namespace heed::testing {
namespace {

using namespace kernels;
using Kind = Normalizer::Kind;

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

class EachIsa : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(""); }
};

INSTANTIATE_TEST_SUITE_P(Forward, EachIsa, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return info.param; });

TEST_P(EachIsa, MatchesReferenceOverRandomShapes) {
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

// Every mask program, beside the features that change how a tile is handled.
std::vector<Mask> masks() {
  static const int64_t prefix[] = {5, 40, 0, 3};
  static std::vector<int32_t> ids;
  if (ids.empty()) {
    for (int i = 0; i < 400; ++i) ids.push_back(i / 37 % 4);
  }
  const auto checkered = [](const void*, int64_t b, int64_t h, int64_t i, int64_t j) {
    return (i * 7 + j * 3 + h + b) % 5 != 0;
  };
  return {Mask(),
          Causal{},
          Causal{Alignment::top_left},
          Window{9},
          Window{70, 3},
          Window{-2, 12},
          Causal{} & (Window{8} | SinkTokens{3}),
          Causal{} | Prefix{prefix},
          Causal{} & DocumentIds{ids.data(), ids.data(), 0, 0},
          Dilation{3} & Window{40, 40},
          ~Mask(Window{20, 20}),
          ~Mask(),
          Predicate{checkered}};
}

TEST_P(EachIsa, MatchesReferenceUnderEveryMask) {
  HEED_SEED(random, 7);
  int number = 0;
  for (const Mask& mask : masks()) {
    for (auto [queries, keys] : {std::pair<int64_t, int64_t>{150, 150}, {60, 170}, {170, 60}}) {
      SCOPED_TRACE(fmt::format("mask {} N={} M={}", number, queries, keys));
      FlashCase made({2, 2, 1, 1, queries, keys, 20, 12}, {.mask = mask}, DType::f32, random());
      expect_forward_matches(made);
    }
    ++number;
  }
}

std::vector<FlashFeatures> features() {
  const Mask causal = Causal{};
  return {{.mask = causal, .softcap = 3},
          {.softcap = 20, .logit_size = 8},
          {.mask = causal, .alibi = true},
          {.mask = causal, .temperature = true},
          {.mask = causal, .bias = {{0, 0, 0}}},
          {.bias = {{1, 0, 0}}},
          {.bias = {{1, 1, 1}}},
          {.mask = causal, .multiplier = {{0, 1, 0}}},
          {.multiplier = {{1, 0, 1}}},
          {.mask = causal, .dropout = 0.3},
          {.dropout = 0.9, .multiplier = {{0, 0, 0}}},
          {.mask = causal, .sink = true},
          {.mask = Window{-2, 12}, .sink = true, .head_maps = true},
          {.mask = causal, .kind = Kind::sigmoid},
          {.kind = Kind::sigmoid, .softcap = 2, .dropout = 0.2, .sigmoid_bias = true},
          {.mask = causal, .kind = Kind::clipped_softmax, .gamma = -0.03, .zeta = 1.1},
          {.kind = Kind::clipped_softmax, .dropout = 0.1, .gamma = 0, .zeta = 1, .alibi = true},
          {.mask = causal, .lengths = true},
          {.sink = true, .lengths = true},
          {.head_maps = true},
          {.mask = causal & Window{30},
           .softcap = 5,
           .dropout = 0.1,
           .alibi = true,
           .temperature = true,
           .sink = true,
           .bias = {{0, 1, 0}},
           .multiplier = {{1, 1, 0}}}};
}

TEST_P(EachIsa, MatchesReferenceWithEveryFeature) {
  HEED_SEED(random, 11);
  int number = 0;
  for (const FlashFeatures& feature : features()) {
    for (Layout layout : {Layout::dense, Layout::heads_last}) {
      SCOPED_TRACE(fmt::format("feature {}", number));
      FlashCase made({2, 4, 2, 2, 131, 147, 24, 17}, feature, DType::f32, random(), layout);
      expect_forward_matches(made);
    }
    ++number;
  }
}

TEST_P(EachIsa, MatchesReferenceOnPackedSequences) {
  HEED_SEED(random, 13);
  for (FlashFeatures feature : features()) {
    if (feature.lengths) continue;
    feature.packed_q = {0, 5, 60, 0, 1, 33, 7}, feature.packed_k = {4, 5, 90, 0, 70, 0, 3};
    FlashCase made({1, 2, 2, 1, 0, 0, 16, 9}, feature, DType::f32, random());
    expect_forward_matches(made);
  }
}

}  // namespace
}  // namespace heed::testing
