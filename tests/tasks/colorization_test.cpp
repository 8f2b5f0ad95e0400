// Coloured regions and the hints of their colours.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "heed/error.h"
#include "heed/tasks/task.h"

namespace heed::tasks::colorization_test {
namespace {

constexpr int64_t kSide = 16, kPatch = 4;

/// Channel c of pixel (y, x) of the input, and colour c of the answer there.
float input(const Example& e, int64_t c, int64_t y, int64_t x) {
  return e.values[static_cast<size_t>((c * kSide + y) * kSide + x)];
}
float answer(const Example& e, int64_t c, int64_t y, int64_t x) {
  const int64_t patch = y / kPatch * (kSide / kPatch) + x / kPatch;
  return e.targets[static_cast<size_t>(((patch * 2 + c) * kPatch + y % kPatch) * kPatch + x % kPatch)];
}

TEST(Colorization, HintsShowColoursOfTheAnswer) {
  const auto task = make_task("colorization", {{"fixed", true}, {"hints", 5}});
  int64_t pure = 0;
  for (uint64_t i = 0; i < 20; ++i) {
    const auto e = task->example(Split::train, i);
    ASSERT_EQ(e.values.size(), 4u * kSide * kSide);
    ASSERT_EQ(e.targets.size(), 2u * kSide * kSide);
    int64_t shown = 0;
    for (int64_t y = 0; y < kSide; ++y)
      for (int64_t x = 0; x < kSide; ++x) {
        const float mask = input(e, 3, y, x);
        shown += mask == 1;
        if (mask == 0) {
          EXPECT_EQ(input(e, 1, y, x), 0);
          EXPECT_EQ(input(e, 2, y, x), 0);
        } else if (std::abs(input(e, 1, y, x) - answer(e, 0, y, x)) < 1e-5) {
          ++pure;  // no border runs through the hint
        }
      }
    EXPECT_GT(shown, 4);
    EXPECT_LE(shown, 20);
  }
  EXPECT_GT(pure, 200);
}

TEST(Colorization, RegionsAreFewAndTheirLightnessesApart) {
  const auto task = make_task("colorization", {{"regions", 3}, {"noise", 0.0}});
  for (uint64_t i = 0; i < 20; ++i) {
    const auto e = task->example(Split::test, i);
    std::set<std::pair<float, float>> regions;
    for (int64_t y = 0; y < kSide; ++y)
      for (int64_t x = 0; x < kSide; ++x) regions.insert({input(e, 0, y, x), answer(e, 0, y, x)});
    EXPECT_LE(regions.size(), 3u);
    std::set<float> lightnesses;
    for (const auto& [lightness, colour] : regions) lightnesses.insert(lightness);
    EXPECT_EQ(lightnesses.size(), regions.size());
  }
}

TEST(Colorization, GreyScoresChance) {
  const auto task = make_task("colorization");
  double sum = 0, count = 0;
  for (uint64_t i = 0; i < 400; ++i)
    for (const float target : task->example(Split::valid, i).targets) sum += double(target) * target, ++count;
  // 800 regions or more, of numbers whose square deviates by 0.24 from its mean: 4 standard errors.
  EXPECT_NEAR(sum / count, task->chance(), 4 * 0.25 / std::sqrt(800.0));
  EXPECT_EQ(task->example(Split::valid, 3).values, task->example(Split::valid, 3).values);
  EXPECT_THROW(make_task("colorization", {{"patch", 3}}), Error);
}

}  // namespace
}  // namespace heed::tasks::colorization_test
