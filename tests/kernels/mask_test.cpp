// Mask programs against brute force: each term written out from its definition, combined at random.
#include "heed/kernels/mask.h"
#include "kernels/mask_reach.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "heed/error.h"
#include "support/tensor.h"

namespace heed::testing::mask_test {
namespace {

using namespace kernels;

struct Defined {
  Mask mask;
  std::function<bool(const MaskScope&, int64_t, int64_t)> visible;
};

const std::vector<int64_t> kLengths = {4, 0, 17, 200};
std::vector<int32_t> ids() {
  std::vector<int32_t> values;
  for (int i = 0; i < 800; ++i) values.push_back(i / 13 * 7 % 5);
  return values;
}
const std::vector<int32_t> kIds = ids();

int64_t own(const MaskScope& s, int64_t i, Alignment alignment) {
  return alignment == Alignment::bottom_right ? i + s.num_keys - s.num_queries : i;
}

Defined random_term(std::mt19937_64& random) {
  const auto pick = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
  };
  const Alignment alignment = pick(0, 1) == 0 ? Alignment::bottom_right : Alignment::top_left;
  switch (pick(0, 6)) {
    case 0:
      return {Causal{alignment}, [=](const MaskScope& s, int64_t i, int64_t j) { return j <= own(s, i, alignment); }};
    case 1: {
      const int64_t left = pick(-5, 40), right = std::max(-left, pick(-5, 40));
      return {Window{left, right, alignment}, [=](const MaskScope& s, int64_t i, int64_t j) {
                const int64_t offset = j - own(s, i, alignment);
                return -left <= offset && offset <= right;
              }};
    }
    case 2: {
      const int64_t count = pick(0, 70);
      return {SinkTokens{count}, [=](const MaskScope&, int64_t, int64_t j) { return j < count; }};
    }
    case 3:
      return {Prefix{kLengths.data()}, [](const MaskScope& s, int64_t, int64_t j) { return j < kLengths[s.batch]; }};
    case 4:
      return {DocumentIds{kIds.data(), kIds.data() + 3, 100, 50}, [](const MaskScope& s, int64_t i, int64_t j) {
                return kIds[s.batch * 100 + i] == kIds[3 + s.batch * 50 + j];
              }};
    case 5: {
      const int64_t step = pick(1, 5);
      return {Dilation{step, alignment},
              [=](const MaskScope& s, int64_t i, int64_t j) { return (own(s, i, alignment) - j) % step == 0; }};
    }
    default: {
      const auto rule = [](const void*, int64_t b, int64_t h, int64_t i, int64_t j) {
        return (i * i + 3 * j + b + h) % 7 < 4;
      };
      return {Predicate{rule},
              [](const MaskScope& s, int64_t i, int64_t j) { return (i * i + 3 * j + s.batch + s.head) % 7 < 4; }};
    }
  }
}

Defined random_program(std::mt19937_64& random, int depth) {
  const int choice = static_cast<int>(random() % 4);
  if (depth == 0 || choice == 3) return random_term(random);
  const Defined a = random_program(random, depth - 1);
  if (choice == 2) {
    return {~a.mask, [a](const MaskScope& s, int64_t i, int64_t j) { return !a.visible(s, i, j); }};
  }
  const Defined b = random_program(random, depth - 1);
  if (choice == 0) {
    return {a.mask & b.mask,
            [a, b](const MaskScope& s, int64_t i, int64_t j) { return a.visible(s, i, j) && b.visible(s, i, j); }};
  }
  return {a.mask | b.mask,
          [a, b](const MaskScope& s, int64_t i, int64_t j) { return a.visible(s, i, j) || b.visible(s, i, j); }};
}

Coverage count_tile(const Defined& d, const MaskScope& s, int64_t i0, int64_t i1, int64_t j0, int64_t j1) {
  int64_t seen = 0, all = 0;
  for (int64_t i = std::max<int64_t>(i0, 0); i < std::min(i1, s.num_queries); ++i) {
    for (int64_t j = std::max<int64_t>(j0, 0); j < std::min(j1, s.num_keys); ++j) ++all, seen += d.visible(s, i, j);
  }
  if (seen == 0) return Coverage::empty;
  return seen == all ? Coverage::full : Coverage::partial;
}

TEST(Mask, AnswersAsItsDefinitionOverRandomPrograms) {
  HEED_SEED(random, 20221);
  int quick_answers = 0;
  for (int round = 0; round < 400; ++round) {
    const Defined d = random_program(random, 3);
    const MaskScope scope{static_cast<int64_t>(random() % 4), static_cast<int64_t>(random() % 3),
                          static_cast<int64_t>(random() % 90), static_cast<int64_t>(random() % 150)};
    SCOPED_TRACE(fmt::format("round {} N={} M={}", round, scope.num_queries, scope.num_keys));
    int64_t area = 0;
    for (int64_t i = 0; i < scope.num_queries; ++i) {
      for (int64_t j0 = 0; j0 < scope.num_keys; j0 += 29) {
        const uint64_t bits = d.mask.row_bits(scope, i, j0);
        for (int64_t c = 0; c < 64; ++c) {
          const bool expected = j0 + c < scope.num_keys && d.visible(scope, i, j0 + c);
          ASSERT_EQ((bits >> c & 1) != 0, expected) << "row " << i << " key " << j0 + c;
        }
      }
      for (int64_t j = 0; j < scope.num_keys; ++j) {
        area += d.visible(scope, i, j);
        ASSERT_EQ(d.mask.visible(scope, i, j), d.visible(scope, i, j)) << "row " << i << " key " << j;
      }
    }
    EXPECT_EQ(d.mask.area(scope), area);
    for (int64_t i0 = 0; i0 < scope.num_queries; i0 += 23) {
      const int64_t rows = std::min<int64_t>(64, scope.num_queries - i0);
      for (int64_t j0 = 0; j0 < scope.num_keys; j0 += 37) {
        uint64_t words[64];
        d.mask.block_bits(scope, i0, rows, j0, words);
        for (int64_t r = 0; r < rows; ++r)
          ASSERT_EQ(words[r], d.mask.row_bits(scope, i0 + r, j0)) << i0 + r << " " << j0;
      }
    }
    for (int tile = 0; tile < 40; ++tile) {
      const int64_t i0 = static_cast<int64_t>(random() % 90), j0 = static_cast<int64_t>(random() % 150);
      const int64_t i1 = i0 + static_cast<int64_t>(random() % 30), j1 = j0 + static_cast<int64_t>(random() % 80);
      const Coverage expected = count_tile(d, scope, i0, i1, j0, j1);
      ASSERT_EQ(d.mask.classify(scope, i0, i1, j0, j1), expected) << i0 << " " << i1 << " " << j0 << " " << j1;
      const KeyRange reach = mask_reach(d.mask, scope, i0, i1, j0, j1);
      ASSERT_EQ(count_tile(d, scope, i0, i1, j0, reach.begin), Coverage::empty);
      ASSERT_EQ(count_tile(d, scope, i0, i1, reach.end, j1), Coverage::empty);
      const Coverage quick = d.mask.classify_quickly(scope, i0, i1, j0, j1);
      if (quick == Coverage::partial) continue;
      ASSERT_EQ(quick, expected);
      ++quick_answers;
    }
  }
  EXPECT_GT(quick_answers, 4000);  // of 16000: the fast half must decide a good part, or tiles are not skipped
}

TEST(Mask, QuickAnswerIsExactForSingleIntervalTerms) {
  HEED_SEED(random, 3);
  for (const Mask& mask : {Mask(Causal{}), Mask(Causal{Alignment::top_left}), Mask(Window{11}), Mask(Window{4, 7}),
                           Mask(Window{-3, 9}), Mask(SinkTokens{21}), Mask(Prefix{kLengths.data()})}) {
    for (int round = 0; round < 2000; ++round) {
      const MaskScope scope{2, 0, static_cast<int64_t>(1 + random() % 60), static_cast<int64_t>(1 + random() % 60)};
      const int64_t i0 = static_cast<int64_t>(random() % 60), j0 = static_cast<int64_t>(random() % 60);
      const int64_t i1 = i0 + static_cast<int64_t>(random() % 20), j1 = j0 + static_cast<int64_t>(random() % 20);
      ASSERT_EQ(mask.classify_quickly(scope, i0, i1, j0, j1), mask.classify(scope, i0, i1, j0, j1));
    }
  }
}

TEST(Mask, ReachIsExactForIntervals) {
  const MaskScope scope{0, 0, 40, 60};
  const Mask window = Mask(Causal{}) & Mask(Window{8});
  const KeyRange band = mask_reach(window, scope, 10, 14, 0, 60),
                 sunk = mask_reach(window | SinkTokens{3}, scope, 10, 14, 5, 60);
  EXPECT_EQ(band.begin, 10 + 20 - 7);
  EXPECT_EQ(band.end, 13 + 20 + 1);
  EXPECT_EQ(sunk.begin, band.begin);
  EXPECT_EQ(sunk.end, band.end);
  const KeyRange none = mask_reach(window, scope, 10, 14, 40, 60);
  EXPECT_EQ(none.begin, none.end);
}

TEST(Mask, ObeysTheAlgebraOfSets) {
  const Mask everything, nothing = ~everything, causal = Causal{};
  const MaskScope scope{0, 0, 40, 60};
  EXPECT_TRUE(everything.everything());
  EXPECT_TRUE((everything | causal).everything());
  EXPECT_EQ((everything & causal).area(scope), causal.area(scope));
  EXPECT_EQ(nothing.area(scope), 0);
  EXPECT_EQ((nothing | causal).area(scope), causal.area(scope));
  EXPECT_EQ((~causal).area(scope), 40 * 60 - causal.area(scope));
  EXPECT_EQ((~~causal).area(scope), causal.area(scope));
  EXPECT_EQ(causal.area(scope), 40 * 20 + 40 * 41 / 2);
}

TEST(Mask, UnboundedWindowsDoNotOverflow) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  const MaskScope scope{0, 0, 30, 50};
  EXPECT_EQ(Mask(Window(kMost, kMost)).area(scope), 1500);
  EXPECT_EQ(Mask(Window(kMost, 0)).area(scope), Mask(Causal{}).area(scope));
  EXPECT_EQ(Mask(Window(kMost)).area(scope), Mask(Causal{}).area(scope));
  EXPECT_EQ(Mask(Window(kMost, kMost)).classify_quickly(scope, 0, 30, 0, 50), Coverage::full);
}

TEST(Mask, AreaOfLongSequencesIsAnalytic) {
  const int64_t n = 1 << 20;
  const MaskScope scope{0, 0, n, n};
  EXPECT_EQ((Causal{} & Window{256}).area(scope), n * 256 - 255 * 256 / 2);
}

TEST(Mask, RefusesWhatHoldsNoKey) {
  EXPECT_THROW(Mask(Window{0}), Error);
  EXPECT_THROW(Mask(Window(-4, 3)), Error);
  EXPECT_NO_THROW(Mask(Window(-3, 3)));
  EXPECT_THROW(Mask(SinkTokens{-1}), Error);
  EXPECT_THROW(Mask(Dilation{0}), Error);
  EXPECT_THROW(Mask(Prefix{nullptr}), Error);
  EXPECT_THROW(Mask(Predicate{nullptr}), Error);
  Mask long_program = Causal{};
  EXPECT_THROW(for (int t = 0; t < 20; ++t) long_program = long_program & Window{t + 1}, Error);
}

}  // namespace
}  // namespace heed::testing::mask_test
