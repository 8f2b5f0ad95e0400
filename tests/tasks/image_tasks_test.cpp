// Images in which something must be found: the samples are read again, pixel by pixel.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "heed/error.h"
#include "support/test_files.h"
#include "tasks/birds.h"
#include "tasks/clutter.h"
#include "tasks/lesions.h"
#include "tasks/marks.h"
#include "tasks/stripes.h"

namespace heed::tasks::image_tasks_test {
namespace {

using nlohmann::json;

/// The pixels of a square of an image of `side` pixels a side, row by row.
std::vector<float> square(const std::vector<float>& image, int64_t side, int64_t row, int64_t column, int64_t size) {
  std::vector<float> pixels;
  for (int64_t y = row; y < row + size; ++y)
    for (int64_t x = column; x < column + size; ++x) pixels.push_back(image[size_t(y * side + x)]);
  return pixels;
}

TEST(Digits, ShuffledPatchesAreTheSameInAnotherOrder) {
  for (const int64_t patch : {1, 2, 4}) {
    const auto task = make_task("digits", {{"patch", patch}}),
               shuffled = make_task("digits", {{"patch", patch}, {"shuffled", true}});
    const auto patches = [&](const Example& digit) {
      std::vector<std::vector<float>> all;
      for (int64_t row = 0; row < 8; row += patch)
        for (int64_t column = 0; column < 8; column += patch)
          all.push_back(square(digit.values, 8, row, column, patch));
      return all;
    };
    int moved = 0;
    for (const auto split : {Split::train, Split::test})
      for (uint64_t i = 0; i < 20; ++i) {
        const auto digit = task->example(split, i), other = shuffled->example(split, i);
        EXPECT_EQ(digit.labels, other.labels);
        auto a = patches(digit), b = patches(other);
        moved += a != b;
        std::sort(a.begin(), a.end()), std::sort(b.begin(), b.end());
        EXPECT_EQ(a, b);
      }
    EXPECT_GT(moved, 30);
  }
}

TEST(Clutter, HoldsADigitAmongPiecesOfOthers) {
  const auto digits = make_task("digits");
  for (const int64_t patch : {2, 4}) {
    const int64_t side = 20, pieces = 5;
    const ClutterTask task({{"side", side}, {"patch", patch}, {"pieces", pieces}});
    std::set<std::pair<int64_t, int64_t>> places;
    for (const auto split : {Split::train, Split::test})
      for (uint64_t i = 0; i < 40; ++i) {
        const auto drawn = task.draw(split, i);
        const auto digit = digits->example(split, i);
        EXPECT_EQ(drawn.example.labels, digit.labels);
        EXPECT_EQ(square(drawn.example.values, side, drawn.row, drawn.column, 8), digit.values);
        EXPECT_EQ(drawn.row % patch + drawn.column % patch, 0);
        places.insert({drawn.row, drawn.column});
        // What is lit outside of the digit lies in at most so many squares of 4 x 4 pixels.
        int64_t lit = 0;
        for (int64_t y = 0; y < side; ++y)
          for (int64_t x = 0; x < side; ++x) {
            const bool outside = y < drawn.row || y >= drawn.row + 8 || x < drawn.column || x >= drawn.column + 8;
            lit += outside && drawn.example.values[size_t(y * side + x)] > 0;
          }
        EXPECT_LE(lit, pieces * 16);
      }
    EXPECT_GT(places.size(), 9u);
  }
  EXPECT_NEAR(ClutterTask(json::object()).chance(), digits->chance(), 0);
}

TEST(Clutter, AsksForThePatchesOfTheDigit) {
  for (const int64_t patch : {1, 2, 4}) {
    const ClutterTask task({{"answer", "place"}, {"patch", patch}, {"side", 20}}),
        named({{"patch", patch}, {"side", 20}});
    const int64_t across = 20 / patch;
    EXPECT_EQ(task.face().outputs, 2);
    EXPECT_FALSE(task.face().whole);
    EXPECT_DOUBLE_EQ(task.chance(), 1 - 64.0 / 400);
    for (uint64_t i = 0; i < 20; ++i) {
      const auto drawn = task.draw(Split::test, i);
      EXPECT_EQ(drawn.example.values, named.example(Split::test, i).values);
      ASSERT_EQ(int64_t(drawn.example.labels.size()), across * across);
      for (int64_t p = 0; p < across * across; ++p) {
        const int64_t y = p / across * patch - drawn.row, x = p % across * patch - drawn.column;
        EXPECT_EQ(drawn.example.labels[size_t(p)], y >= 0 && y < 8 && x >= 0 && x < 8);
      }
    }
  }
}

/// One spot of the species' colour in one patch, on the bird; the rest does not tell.
TEST(Birds, WearTheirSpeciesInOnePatch) {
  for (const auto& [side, patch] : {std::pair<int64_t, int64_t>{24, 4}, {16, 2}, {18, 3}, {21, 7}}) {
    const BirdsTask task({{"side", side}, {"patch", patch}, {"noise", 0.0}});
    constexpr int kBirds = 300;
    int64_t red = 0;
    std::set<int64_t> patches;
    for (uint64_t i = 0; i < kBirds; ++i) {
      const auto bird = task.bird(Split::test, i);
      const auto example = task.example(Split::test, i);
      ASSERT_EQ(int64_t(example.values.size()), 3 * side * side);
      EXPECT_EQ(example.labels, std::vector<int64_t>{bird.species});
      for (int64_t y = 0; y < side; ++y)
        for (int64_t x = 0; x < side; ++x) {
          const bool spot =
              y - bird.spot_row >= 0 && y - bird.spot_row < 2 && x - bird.spot_column >= 0 && x - bird.spot_column < 2;
          if (spot) {
            EXPECT_TRUE(bird.covers(y, x));
            EXPECT_EQ(y / patch * (side / patch) + x / patch, task.deciding_patch(bird));
          }
          for (int64_t c = 0; c < 3; ++c) {
            const float expected = spot                ? float(c == (bird.species == 0 ? 0 : 2))
                                   : bird.covers(y, x) ? bird.colour[size_t(c)]
                                                       : 0;
            EXPECT_EQ(example.values[size_t((c * side + y) * side + x)], expected);
          }
        }
      red += bird.species == 0;
      patches.insert(task.deciding_patch(bird));
    }
    EXPECT_NEAR(double(red), kBirds / 2.0, 5 * std::sqrt(kBirds) / 2);
    EXPECT_GT(patches.size(), 3u);
  }
}

/// Along a wave pixels of a patch repeat, across it they are alike; each patch begins elsewhere.
TEST(Stripes, AreWavesOfTheClassInEveryPatch) {
  constexpr int64_t kSide = 24, kPatch = 8, kPeriods = 3;
  const StripesTask task({{"side", kSide}, {"patch", kPatch}, {"periods", kPeriods}, {"noise", 0.0}});
  EXPECT_EQ(task.face().outputs, 12);
  EXPECT_DOUBLE_EQ(task.chance(), 1.0 / 12);
  std::set<int64_t> classes;
  for (uint64_t i = 0; i < 200; ++i) {
    const auto example = task.example(Split::train, i);
    const auto label = example.labels[0];
    classes.insert(label);
    const double angle = M_PI * double(label / kPeriods) / 4,
                 frequency = 2 * M_PI / (2.5 * std::pow(1.3, double(label % kPeriods)));
    std::set<int64_t> phases;
    for (int64_t top = 0; top < kSide; top += kPatch)
      for (int64_t left = 0; left < kSide; left += kPatch) {
        // A wave is known by its parts that go with the sine and with the cosine of the place: a fit without rest.
        double ss = 0, sc = 0, cc = 0, vs = 0, vc = 0, vv = 0;
        for (int64_t y = top; y < top + kPatch; ++y)
          for (int64_t x = left; x < left + kPatch; ++x) {
            const double at = frequency * (double(y) * std::sin(angle) + double(x) * std::cos(angle)),
                         v = double(example.values[size_t(y * kSide + x)]), s = std::sin(at), c = std::cos(at);
            ss += s * s, sc += s * c, cc += c * c, vs += v * s, vc += v * c, vv += v * v;
          }
        const double det = ss * cc - sc * sc, a = (vs * cc - vc * sc) / det, b = (vc * ss - vs * sc) / det;
        // 64 pixels, each rounded to a float of at most 1.
        EXPECT_NEAR(vv - a * vs - b * vc, 0, 64 * 6e-8 * 2);
        EXPECT_NEAR(a * a + b * b, 1, 1e-5);
        phases.insert(int64_t(1000 * std::atan2(b, a)));
      }
    EXPECT_GT(phases.size(), 5u);
  }
  EXPECT_EQ(classes.size(), 12u);
}

TEST(Clutter, BlurAndNoiseAreOnTopOfTheSameSample) {
  constexpr int64_t kSide = 16;
  const json plain{{"side", kSide}, {"patch", 2}};
  const auto with = [&](const char* key, const json& value) {
    auto changed = plain;
    changed[key] = value;
    return ClutterTask(changed);
  };
  const ClutterTask task(plain), noisy = with("noise", 0.5), blurred = with("blur", 1);
  double squares = 0;
  for (uint64_t i = 0; i < 20; ++i) {
    const auto clear = task.example(Split::test, i).values, mean = blurred.example(Split::test, i).values,
               rough = noisy.example(Split::test, i).values;
    for (int64_t y = 0; y < kSide; ++y)
      for (int64_t x = 0; x < kSide; ++x) {
        double sum = 0;
        for (int64_t j = 0; j < kSide * kSide; ++j)
          if (std::abs(j / kSide - y) <= 1 && std::abs(j % kSide - x) <= 1) sum += double(clear[size_t(j)]);
        EXPECT_NEAR(mean[size_t(y * kSide + x)], sum / 9, 9 * 6e-8);  // nine roundings of numbers up to 9
      }
    for (size_t j = 0; j < clear.size(); ++j) squares += double(rough[j] - clear[j]) * double(rough[j] - clear[j]);
  }
  // Squares of N normal numbers: a deviation of sqrt(2 / N) around their variance.
  const double count = 20 * kSide * kSide;
  EXPECT_NEAR(squares / count, 0.25, 0.25 * 5 * std::sqrt(2 / count));
}

TEST(Marks, AskWhetherTwoFarMarksAreAlike) {
  for (const auto& [side, colours, distance] : {std::tuple<int64_t, int64_t, int64_t>{9, 2, 6}, {7, 4, 3}, {3, 3, 2}}) {
    const MarksTask task({{"side", side}, {"colours", colours}, {"distance", distance}, {"noise", 0.0}});
    constexpr int kSamples = 400;
    int alike = 0;
    std::set<std::pair<int64_t, int64_t>> seen;
    for (uint64_t i = 0; i < kSamples; ++i) {
      const auto example = task.example(Split::train, i);
      std::vector<std::array<int64_t, 3>> marks;  // row, column, colour
      for (int64_t at = 0; at < int64_t(example.values.size()); ++at)
        if (example.values[size_t(at)] != 0)
          marks.push_back({at % (side * side) / side, at % side, at / (side * side)});
      ASSERT_EQ(marks.size(), 2u);
      EXPECT_GE(std::max(std::abs(marks[0][0] - marks[1][0]), std::abs(marks[0][1] - marks[1][1])), distance);
      std::vector<int64_t> labels(size_t(side * side), Example::kNoLabel);
      const bool same = marks[0][2] == marks[1][2];
      for (const auto& mark : marks) labels[size_t(mark[0] * side + mark[1])] = same;
      EXPECT_EQ(example.labels, labels);
      alike += same;
      seen.insert(std::minmax(marks[0][2], marks[1][2]));
    }
    EXPECT_NEAR(alike, kSamples / 2, 5 * std::sqrt(kSamples) / 2);
    EXPECT_EQ(int64_t(seen.size()), colours * (colours + 1) / 2);
    EXPECT_EQ(task.chance(), 0.5);
  }
}

TEST(Marks, AskEveryCellForTheColourOfTheOnlyMark) {
  const MarksTask task({{"answer", "copy"}, {"side", 5}, {"colours", 3}, {"noise", 0.0}});
  EXPECT_FALSE(task.face().whole);
  std::set<int64_t> cells;
  for (uint64_t i = 0; i < 200; ++i) {
    const auto example = task.example(Split::train, i);
    ASSERT_EQ(std::count(example.values.begin(), example.values.end(), 1.0f), 1);
    const auto at = std::find(example.values.begin(), example.values.end(), 1.0f) - example.values.begin();
    EXPECT_EQ(example.labels, std::vector<int64_t>(25, at / 25));
    cells.insert(at % 25);
  }
  EXPECT_EQ(cells.size(), 25u);
}

TEST(Lesions, AreEllipsesAmongRectanglesOfTheirArea) {
  const LesionsTask task(json::object({{"noise", 0.0}}));
  EXPECT_FALSE(task.face().whole);
  std::set<size_t> counts;
  for (uint64_t i = 0; i < 50; ++i) {
    const auto bodies = task.bodies(Split::test, i);
    counts.insert(bodies.size());
    const auto example = task.example(Split::test, i);
    std::vector<int64_t> inside(256, 0);
    for (int64_t at = 0; at < 64 * 64; ++at) {
      const double y = double(at / 64), x = double(at % 64);
      double lesion = 0, other = 0;
      for (const auto& body : bodies) (body.lesion ? lesion : other) += body.covers(y, x);
      ASSERT_LE(lesion + other, 1) << "two bodies touch";
      EXPECT_EQ(example.values[size_t(at)], float(lesion + other));
      inside[size_t(at / 64 / 4 * 16 + at % 64 / 4)] += int64_t(lesion);
    }
    for (size_t p = 0; p < inside.size(); ++p) EXPECT_EQ(example.labels[p], int64_t(inside[p] >= 8)) << i << ", " << p;
    // Areas as drawn: pi a b of an ellipse, 4 a b of a rectangle whose sides are shorter by the root of pi / 4.
    for (const auto& body : bodies) {
      const double area = (body.lesion ? M_PI : 4) * body.half_length * body.half_width;
      EXPECT_GE(area, M_PI * 0.6 * 49 * (1 - 1e-12));
      EXPECT_LE(area, M_PI * 0.9 * 121 * (1 + 1e-12));
    }
  }
  EXPECT_EQ(counts, (std::set<size_t>{3, 4}));
}

TEST(ImageTasks, RefuseBadParameters) {
  const auto refused = [](const char* name, const json& parameters, std::string_view expected) {
    const auto message = error_of([&] { make_task(name, parameters); });
    EXPECT_NE(message.find(expected), message.npos) << message;
  };
  refused("clutter", {{"patch", 3}}, "patch = 3");
  refused("clutter", {{"side", 26}}, "side = 26");
  refused("clutter", {{"noise", -1.0}}, "noise = -1");
  refused("clutter", {{"blur", -1}}, "blur = -1");
  refused("clutter", {{"answer", "where"}}, "place");
  refused("birds", {{"patch", 5}}, "patch = 5");
  refused("birds", {{"side", 8}}, "side = 8");
  refused("birds", {{"noise", -1.0}}, "noise = -1");
  refused("lesions", {{"side", 32}}, "side = 32");
  refused("lesions", {{"patch", 5}}, "patch = 5");
  refused("stripes", {{"patch", 5}}, "patch = 5");
  refused("stripes", {{"periods", 0}}, "periods = 0");
  refused("stripes", {{"noise", -1.0}}, "noise = -1");
  refused("marks", {{"answer", "colour"}}, "copy");
  refused("marks", {{"colours", 1}}, "colours = 1");
  refused("marks", {{"distance", 9}}, "distance = 9");
}

}  // namespace
}  // namespace heed::tasks::image_tasks_test
