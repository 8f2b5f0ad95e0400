// PairWorld: frequencies, captions, and that a sample depends on its index alone.
#include "heed/tasks/pairworld.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace heed::tasks::pairworld_test {
namespace {

bool holds(const std::vector<int64_t>& objects, int64_t o) {
  return std::binary_search(objects.begin(), objects.end(), o);
}

TEST(PairWorld, ObjectsAreAsFrequentAsTheyShouldBe) {
  const PairWorld world(3);
  const int64_t n = 20000;
  double a = 0, b_with = 0, b_alone = 0;
  for (int64_t i = 0; i < n; ++i) {
    const auto sample = world.sample(Split::train, uint64_t(i));
    for (int64_t pair = 0; pair < 6; ++pair) {
      const bool first = holds(sample.present, 2 * pair), second = holds(sample.present, 2 * pair + 1);
      a += first;
      b_with += first && second;
      b_alone += !first && second;
    }
  }
  // One a at least: of 6, each with probability 0.35.
  const double p = 0.35 / (1 - std::pow(0.65, 6)), six = 6.0 * double(n);
  EXPECT_NEAR(a / six, p, 5 * std::sqrt(p * (1 - p) / six));
  EXPECT_NEAR(b_with / a, 0.85, 5 * std::sqrt(0.85 * 0.15 / a));
  EXPECT_NEAR(b_alone / (six - a), 0.05, 5 * std::sqrt(0.05 * 0.95 / (six - a)));
}

TEST(PairWorld, ImagesHoldTheirObjectsAndCaptionsNameThem) {
  const PairWorld world(1, 0), noisy(1);
  for (uint64_t i = 0; i < 200; ++i)
    for (const bool conflict : {false, true}) {
      const auto sample = world.sample(Split::test, i, conflict);
      ASSERT_FALSE(sample.present.empty());
      std::vector<double> norms(PairWorld::kPatches);
      for (int64_t p = 0; p < PairWorld::kPatches; ++p)
        for (int64_t c = 0; c < PairWorld::kChannels; ++c)
          norms[size_t(p)] += std::pow(sample.pixels[size_t(c * PairWorld::kPatches + p)], 2);
      const std::set<int64_t> places(sample.places.begin(), sample.places.end());
      EXPECT_EQ(places.size(), sample.present.size());
      for (int64_t p = 0; p < PairWorld::kPatches; ++p) EXPECT_NEAR(norms[size_t(p)], places.contains(p), 1e-5);
      EXPECT_FALSE(places.contains(sample.empty));
      EXPECT_EQ(sample.caption.front(), PairWorld::kBegin);
      EXPECT_EQ(sample.caption.back(), PairWorld::kEnd);
      EXPECT_EQ(sample.caption.size(), std::min<size_t>(sample.present.size(), PairWorld::kMostNamed) + 2);
      for (size_t t = 1; t + 1 < sample.caption.size(); ++t)
        EXPECT_EQ(sample.caption[t], PairWorld::kFirstObject + sample.present[t - 1]);
      for (const int64_t o : sample.present) EXPECT_TRUE(!conflict || o % 2 == 0);
      const auto again = noisy.sample(Split::test, i, conflict);
      EXPECT_EQ(again.present, sample.present);
      EXPECT_EQ(again.pixels, noisy.sample(Split::test, i, conflict).pixels);
      EXPECT_NE(again.pixels, noisy.sample(Split::valid, i, conflict).pixels);
    }
}

TEST(CaptionScore, CountsEachObjectOnce) {
  CaptionScore score;
  score.add({1, 1, 4}, {1, 2});
  score.add({2}, {2});
  EXPECT_DOUBLE_EQ(score.chair_i(), 1.0 / 3);
  EXPECT_DOUBLE_EQ(score.chair_s(), 0.5);
  EXPECT_DOUBLE_EQ(score.recall(), 2.0 / 3);
  EXPECT_DOUBLE_EQ(score.length(), 1.5);
  EXPECT_EQ(CaptionScore().chair_i(), 0);
}

}  // namespace
}  // namespace heed::tasks::pairworld_test
