// Tasks that are learned from examples alone: answers recomputed by a second program, laws checked on many samples.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <numeric>

#include "heed/tasks/corpus.h"
#include "support/temporary_directory.h"
#include "support/test_files.h"
#include "tasks/hawkes.h"
#include "tasks/shapes.h"
#include "tasks/strew.h"

namespace heed::tasks::learned_tasks_test {
namespace {

using nlohmann::json;

/// A reader of expressions that knows the grammar and nothing of how they are drawn.
struct ListOpsReader {
  const std::vector<int64_t>& tokens;
  size_t at = 0;

  int64_t value() {
    const int64_t token = tokens.at(at++);
    if (token >= 1 && token <= 10) return token - 1;
    std::vector<int64_t> values;
    while (tokens.at(at) != 15) values.push_back(value());
    ++at;
    const auto n = static_cast<int64_t>(values.size());
    EXPECT_GE(n, 2);
    if (token == 11) return *std::min_element(values.begin(), values.end());
    if (token == 12) return *std::max_element(values.begin(), values.end());
    if (token == 14) return std::accumulate(values.begin(), values.end(), int64_t{0}) % 10;
    EXPECT_EQ(token, 13);
    // The median by counting: of an even number the mean of the middle two, its fraction cut off.
    const auto ranked = [&](int64_t rank) {
      for (int64_t v = 0;; ++v)
        if (std::count_if(values.begin(), values.end(), [v](int64_t x) { return x <= v; }) > rank) return v;
    };
    return n % 2 ? ranked(n / 2) : (ranked(n / 2 - 1) + ranked(n / 2)) / 2;
  }
};

TEST(ListOps, LabelsAreTheValuesOfTheExpressions) {
  for (const json& parameters : {json::object(), json{{"max_depth", 10}, {"max_args", 10}, {"max_length", 400}}}) {
    const auto task = make_task("listops", parameters);
    const auto longest = static_cast<size_t>(task->face().length);
    for (uint64_t i = 0; i < 300; ++i) {
      const auto example = task->example(Split::train, i);
      EXPECT_TRUE(example.tokens.size() >= 64 && example.tokens.size() <= longest);
      ListOpsReader reader{example.tokens};
      ASSERT_EQ(example.labels, std::vector<int64_t>{reader.value()});
      EXPECT_EQ(reader.at, example.tokens.size());
    }
  }
}

// What is known of this law: 88 tokens in the mean, 0 and 9 the commonest answers with about 14 % each.
TEST(ListOps, FollowsTheLawOfLongRangeArena) {
  const auto task = make_task("listops");
  constexpr int kSamples = 4000;
  double length = 0, squares = 0;
  std::array<int, 10> counts{};
  for (uint64_t i = 0; i < kSamples; ++i) {
    const auto example = task->example(Split::train, i);
    const auto n = static_cast<double>(example.tokens.size());
    length += n, squares += n * n;
    ++counts[static_cast<size_t>(example.labels[0])];
  }
  const double mean = length / kSamples, error = std::sqrt((squares / kSamples - mean * mean) / kSamples);
  EXPECT_NEAR(mean, 88, 0.5 + 4 * error);
  for (size_t d = 1; d < 9; ++d) EXPECT_LT(counts[d], std::min(counts[0], counts[9])) << d;
  EXPECT_NEAR(task->chance(), 0.14, 0.005 + 4 * std::sqrt(0.14 * 0.86 / 1000));
}

TEST(Algo, AnswersAreWhatTheFunctionSays) {
  const auto run = [](const std::vector<float>& x, const std::string& function, size_t j) {
    const std::vector<float> head(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(j) + 1);
    auto sorted = function == "sort" ? x : head;
    std::sort(sorted.begin(), sorted.end());
    if (function == "sum") return std::accumulate(head.begin(), head.end(), 0.0);
    if (function == "min") return double(sorted.front());
    if (function == "max") return double(sorted.back());
    if (function == "sort") return double(sorted[j]);
    if (function == "median") return 0.5 * (double(sorted[j / 2]) + double(sorted[(j + 1) / 2]));
    double best = -INFINITY;  // maxsub, over all pairs of ends
    for (size_t begin = 0; begin <= j; ++begin)
      for (size_t end = begin; end <= j; ++end)
        best = std::max(best, std::accumulate(head.begin() + static_cast<std::ptrdiff_t>(begin),
                                              head.begin() + static_cast<std::ptrdiff_t>(end) + 1, 0.0));
    return best;
  };
  for (const std::string function : {"sum", "min", "max", "median", "sort", "maxsub"})
    for (const int64_t numbers : {1, 2, 8, 13}) {
      const auto task = make_task("algo", {{"function", function}, {"numbers", numbers}});
      for (uint64_t i = 0; i < 50; ++i) {
        auto example = task->example(Split::train, i);
        ASSERT_EQ(example.values.size(), static_cast<size_t>(numbers + 1));
        EXPECT_TRUE(std::isnan(example.targets.back()));
        EXPECT_EQ(example.values.back(), 0);
        example.values.pop_back();
        for (size_t j = 0; j < example.values.size(); ++j)
          EXPECT_NEAR(example.targets[j], run(example.values, function, j), 1e-5) << function << " " << j;
      }
    }
}

// A sample has its own range; beyond scale 1 it is none that training could have had.
TEST(Algo, ScaledSamplesLeaveTheRangeOfTraining) {
  const auto extremes = [](double scale, uint64_t index) {
    auto values = make_task("algo", {{"scale", scale}, {"numbers", 200}})->example(Split::test, index).values;
    values.pop_back();
    return std::pair(*std::min_element(values.begin(), values.end()), *std::max_element(values.begin(), values.end()));
  };
  int outside = 0;
  double widest = 0;
  for (uint64_t i = 0; i < 100; ++i) {
    const auto [low, high] = extremes(1, i);
    EXPECT_TRUE(low >= -2 && high <= 2);
    const auto [far_low, far_high] = extremes(10, i);
    EXPECT_TRUE(far_low >= -20 && far_high <= 20);
    outside += far_low < -2 || far_high > 2;
    widest = std::max<double>(widest, far_high - far_low);
  }
  EXPECT_GE(outside, 95);  // a range that leaves by a hair may hold no number out there
  EXPECT_GT(widest, 20);
  for (const float value : make_task("algo", {{"step", 0.5}})->example(Split::train, 3).values)
    EXPECT_EQ(value * 2, std::round(value * 2));
}

TEST(ResetSum, AnswersAreSumsSinceTheLastReset) {
  for (const auto& [digits, resets] : {std::pair{4, 0.1}, {10, 0.4}, {2, 0.0}}) {
    const auto task = make_task("reset_sum", {{"length", 50}, {"digits", digits}, {"resets", resets}});
    EXPECT_EQ(task->face().vocabulary, digits + 1);
    EXPECT_EQ(task->face().unit, digits - 1);
    EXPECT_EQ(task->ideal(), 0);
    constexpr int kSamples = 400;
    int64_t seen = 0;
    for (uint64_t i = 0; i < kSamples; ++i) {
      const auto example = task->example(Split::train, i);
      ASSERT_EQ(example.tokens.size(), 50u);
      EXPECT_EQ(example.tokens.front(), digits);
      seen += std::count(example.tokens.begin() + 1, example.tokens.end(), digits);
      for (size_t at = 0; at < example.tokens.size(); ++at) {
        EXPECT_TRUE(example.tokens[at] >= 0 && example.tokens[at] <= digits);
        const auto last = std::find(example.tokens.rend() - long(at) - 1, example.tokens.rend(), digits);
        EXPECT_EQ(example.targets[at],
                  float(std::accumulate(last.base(), example.tokens.begin() + long(at) + 1, int64_t{0})));
      }
    }
    const double places = 49.0 * kSamples;
    EXPECT_NEAR(double(seen), places * resets, 4.5 * std::sqrt(places * resets * (1 - resets)));
  }
}

// Without resets the sum of t digits has t times the variance of one; a guess knows its mean at each place.
TEST(ResetSum, ChanceIsTheVarianceAtEachPlace) {
  const auto task = make_task("reset_sum", {{"length", 20}, {"digits", 3}, {"resets", 0.0}});
  const double expected = (2.0 / 3) / 4 * 19 / 2;  // of a digit, in squares of 2, at place 9.5 in the mean
  EXPECT_NEAR(task->chance(), expected, 4.5 * expected * std::sqrt(2.0 / 1000));
}

TEST(Digits, AreTheKnownImages) {
  const auto task = make_task("digits");
  EXPECT_EQ(task->size(Split::train) + task->size(Split::valid) + task->size(Split::test), 1797);
  std::vector<Example> all;
  for (const auto split : {Split::valid, Split::test})
    for (int64_t i = 0; i < task->size(split); ++i) all.push_back(task->example(split, static_cast<uint64_t>(i)));
  const size_t valid = static_cast<size_t>(task->size(Split::valid));
  EXPECT_EQ(all.size() - valid, 360u);
  EXPECT_EQ(task->example(Split::test, 360).values, all[valid].values);
  std::array<int, 10> counts{};
  for (size_t i = valid; i < all.size(); ++i) ++counts[static_cast<size_t>(all[i].labels[0])];
  EXPECT_EQ(task->chance(), *std::max_element(counts.begin(), counts.end()) / 360.0);
  for (const auto& example : all) {
    ASSERT_EQ(example.values.size(), 64u);
    for (const float value : example.values) {
      EXPECT_TRUE(value >= 0 && value <= 1 && value * 16 == std::round(value * 16));
    }
  }
}

// The nearest neighbour among the first 1437 images is right for exactly 344 of the last 360.
TEST(Digits, TheNearestNeighbourIsRightAsOftenAsIsKnown) {
  const auto task = make_task("digits");
  std::vector<Example> known;
  for (uint64_t i = 0; i < 40'000; ++i) known.push_back(task->example(Split::train, i));
  for (uint64_t i = 0; i < 144; ++i) known.push_back(task->example(Split::valid, i));
  std::sort(known.begin(), known.end(), [](const auto& a, const auto& b) { return a.values < b.values; });
  known.erase(
      std::unique(known.begin(), known.end(), [](const auto& a, const auto& b) { return a.values == b.values; }),
      known.end());
  EXPECT_EQ(known.size(), 1437u) << "40000 draws of 1293 images miss one with a probability of 1293 exp(-31)";
  int right = 0;
  for (uint64_t i = 0; i < 360; ++i) {
    const auto asked = task->example(Split::test, i);
    double least = INFINITY;
    int64_t label = -1;
    for (const auto& image : known) {
      double distance = 0;
      for (size_t p = 0; p < 64; ++p) distance += std::pow(double(image.values[p]) - double(asked.values[p]), 2);
      if (distance < least) least = distance, label = image.labels[0];
    }
    right += label == asked.labels[0];
  }
  EXPECT_EQ(right, 344);
}

/// x and y of a sample of icl_regression.
struct Points {
  std::vector<std::vector<double>> x;
  std::vector<double> y;
};

Points points_of(const Example& example, size_t dim) {
  Points points;
  for (size_t i = 0; i < example.targets.size(); i += 2) {
    const auto* vector = example.values.data() + i * (dim + 1);
    EXPECT_EQ(vector[dim], 0);
    points.x.emplace_back(vector, vector + dim);
    points.y.push_back(double(example.targets[i]));
    if (i + 1 == example.targets.size()) break;
    EXPECT_TRUE(std::isnan(example.targets[i + 1]));
    for (size_t d = 0; d < dim; ++d) EXPECT_EQ(vector[dim + 1 + d], 0);
    EXPECT_EQ(vector[2 * dim + 1], example.targets[i]);
  }
  return points;
}

// Known exactly: behind k pairs the least-norm solution errs by 1 - k / d, one gradient step of the best size by
// (d + 1) / (k + d + 1).
TEST(IclRegression, FollowsTheExactCurves) {
  constexpr size_t kDim = 5, kPoints = 12, kSamples = 4000;
  const auto task = make_task("icl_regression", {{"dim", kDim}, {"points", kPoints}});
  std::array<double, kPoints> least_norm{}, gradient{};
  for (uint64_t s = 0; s < kSamples; ++s) {
    const auto points = points_of(task->example(Split::train, s), kDim);
    ASSERT_EQ(points.x.size(), kPoints);
    std::vector<double> w(kDim, 0.0), correlation(kDim, 0.0);
    std::vector<std::vector<double>> basis;  // orthonormal, of what was seen
    for (size_t k = 0; k < kPoints; ++k) {
      const auto& x = points.x[k];
      const auto dot = [](const auto& a, const auto& b) {
        return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
      };
      least_norm[k] += std::pow(dot(w, x) - points.y[k], 2);
      const double step = 1.0 / double(k + kDim + 1);
      gradient[k] += std::pow(step * dot(correlation, x) - points.y[k], 2);
      for (size_t d = 0; d < kDim; ++d) correlation[d] += points.y[k] * x[d];
      auto rest = x;
      for (int twice = 0; twice < 2; ++twice)
        for (const auto& b : basis) {
          const double along = dot(b, rest);
          for (size_t d = 0; d < kDim; ++d) rest[d] -= along * b[d];
        }
      if (basis.size() == kDim) continue;
      const double size = std::sqrt(dot(rest, rest)), error = (points.y[k] - dot(w, x)) / size;
      for (auto& value : rest) value /= size;
      for (size_t d = 0; d < kDim; ++d) w[d] += error * rest[d];
      basis.push_back(rest);
    }
  }
  double sum = 0;
  for (size_t k = 0; k < kPoints; ++k) {
    const double known = std::max(0.0, 1 - double(k) / kDim), step = double(kDim + 1) / double(k + kDim + 1);
    sum += known;
    // Squares of sums of products of normals: deviations of about 3 times the mean.
    EXPECT_NEAR(least_norm[k] / kSamples / kDim, known, 1e-6 + 4 * 3 * known / std::sqrt(kSamples)) << k;
    EXPECT_NEAR(gradient[k] / kSamples / kDim, step, 4 * 3 * step / std::sqrt(kSamples)) << k;
  }
  EXPECT_NEAR(task->ideal().value(), sum / kPoints, 1e-12);
  EXPECT_EQ(make_task("icl_regression", {{"noise", 0.5}})->ideal(), std::nullopt);
  const auto last = make_task("icl_regression", {{"last_only", true}})->example(Split::test, 0);
  EXPECT_EQ(std::count_if(last.targets.begin(), last.targets.end(), [](float y) { return !std::isnan(y); }), 1);
}

TEST(TsForecast, WindowsShowOneSeriesAndItsFuture) {
  const json parameters{{"context", 20}, {"horizon", 4}, {"channels", 3}, {"length", 1000}};
  const auto task = make_task("ts_forecast", parameters);
  // Every step of the test split, by its windows: what one asks for is what another shows.
  std::vector<std::vector<float>> shown(200);
  for (int64_t i = 0; i < task->size(Split::test); ++i) {
    const auto begin = static_cast<size_t>(strewn(static_cast<uint64_t>(i), task->size(Split::test)));
    const auto example = task->example(Split::test, static_cast<uint64_t>(i));
    for (size_t t = 0; t < 20; ++t)
      shown[begin + t].assign(example.values.begin() + long(3 * t), example.values.begin() + long(3 * t + 3));
  }
  double naive = 0;
  for (int64_t i = 0; i < task->size(Split::test); ++i) {
    const auto begin = static_cast<size_t>(strewn(static_cast<uint64_t>(i), task->size(Split::test)));
    const auto example = task->example(Split::test, static_cast<uint64_t>(i));
    for (size_t a = 0; a + 12 < example.targets.size(); ++a) ASSERT_TRUE(std::isnan(example.targets[a]));
    for (size_t h = 0; h < 4; ++h)
      for (size_t c = 0; c < 3; ++c) {
        const float target = example.targets[19 * 12 + 3 * h + c];
        if (!shown[begin + 20 + h].empty()) {
          EXPECT_EQ(target, shown[begin + 20 + h][c]);
        }
        naive += std::pow(double(target) - double(example.values[19 * 3 + c]), 2);
      }
  }
  EXPECT_NEAR(task->chance(), naive / double(12 * task->size(Split::test)), 1e-6);
  const auto train = task->example(Split::train, 0);
  EXPECT_TRUE(std::none_of(train.targets.begin(), train.targets.end(), [](float y) { return std::isnan(y); }));
  EXPECT_EQ(train.targets[0], train.values[3]);  // the first step's next one is the second step
}

TEST(TsForecast, ChannelsFollowEachOtherAndAreStandardised) {
  const auto task = make_task("ts_forecast", {{"context", 4000}, {"horizon", 1}, {"length", 41000}});
  std::array<double, 8> sum{}, squares{};
  constexpr int kWindows = 60;
  for (uint64_t i = 0; i < kWindows; ++i) {
    const auto example = task->example(Split::train, i);
    for (size_t t = 0; t < 4000; ++t)
      for (size_t c = 0; c < 8; ++c) {
        const double x = double(example.values[8 * t + c]);
        sum[c] += x / (4000 * kWindows), squares[c] += x * x / (4000 * kWindows);
      }
  }
  for (size_t c = 0; c < 8; ++c) {
    EXPECT_NEAR(sum[c], 0, 0.1) << c;
    EXPECT_NEAR(squares[c], 1, 0.1) << c;
  }
}

TEST(Strewn, VisitsEveryPlaceOnceAndLeavesNoGapEarly) {
  for (const int64_t count : {1, 2, 7, 100, 1081}) {
    std::vector<int64_t> seen;
    for (int64_t i = 0; i < count; ++i) seen.push_back(strewn(static_cast<uint64_t>(i), count));
    auto first = seen;
    std::sort(seen.begin(), seen.end());
    for (int64_t i = 0; i < count; ++i) EXPECT_EQ(seen[size_t(i)], i);
    if (count < 100) continue;
    first.resize(10);
    std::sort(first.begin(), first.end());
    for (size_t i = 1; i < 10; ++i) EXPECT_LT(first[i] - first[i - 1], count / 4);
  }
}

// The rate that the first events suggest, integrated in small steps.
TEST(Hawkes, LikelihoodsAreThoseOfTheRates) {
  const json parameters{{"events", 30}, {"marks", 3}, {"base", 0.3}, {"repeat", 0.25}, {"next", 0.5}, {"decay", 1.5}};
  const HawkesTask task(parameters);
  for (uint64_t i = 0; i < 5; ++i) {
    const auto events = task.events(Split::test, i);
    std::vector<double> times;
    double now = 0;
    for (size_t e = 0; e < events.size(); ++e) {
      const auto rate = [&](double t, int64_t mark) {
        double sum = 0.3;
        for (size_t j = 0; j < e; ++j) {
          const double called = (events[j].mark == mark ? 0.25 : 0) + ((events[j].mark + 1) % 3 == mark ? 0.5 : 0);
          sum += called * 1.5 * std::exp(-1.5 * (t - times[j]));
        }
        return sum;
      };
      constexpr int kSteps = 2000;
      double integral = 0;
      for (int s = 0; s < kSteps; ++s)
        for (int64_t m = 0; m < 3; ++m)
          integral += rate(now + (s + 0.5) / kSteps * events[e].gap, m) * events[e].gap / kSteps;
      now += events[e].gap;
      EXPECT_NEAR(events[e].nats, integral - std::log(rate(now, events[e].mark)), 1e-4 * (1 + integral));
      times.push_back(now);
    }
  }
}

// Far from its beginning a stream has base / (1 - repeat - next) events of each mark a unit of time.
TEST(Hawkes, ComesAtItsMeanRate) {
  const HawkesTask task(json{{"events", 4000}});
  double time = 0, count = 0;
  for (uint64_t i = 0; i < 20; ++i) {
    const auto events = task.events(Split::train, i);
    for (size_t e = 1000; e < events.size(); ++e) time += events[e].gap, ++count;
  }
  // The number of events in a long time varies as that of a Poisson stream, times 1 / (1 - 0.8)^2.
  EXPECT_NEAR(count / time, 4 * 0.2 / (1 - 0.8), 4 * 4 * 5 / std::sqrt(count));
  EXPECT_LT(task.ideal().value(), task.chance());
}

TEST(Hawkes, ExamplesAskForTheNextEvent) {
  const HawkesTask task(json{{"events", 10}});
  const auto events = task.events(Split::valid, 4);
  const auto example = task.example(Split::valid, 4);
  ASSERT_EQ(example.labels.size(), 9u);
  for (size_t e = 0; e < 9; ++e) {
    EXPECT_EQ(example.labels[e], events[e + 1].mark);
    EXPECT_EQ(example.targets[e], float(events[e + 1].gap));
    EXPECT_EQ(example.values[6 * e + 1], float(events[e].gap));
    EXPECT_EQ(example.values[6 * e + 2 + size_t(events[e].mark)], 1);
  }
}

TEST(ByteLm, ShowsTheTextAndAsksForTheNextByte) {
  const TemporaryDirectory folder;
  std::string text;
  for (int i = 0; i < 2000; ++i) text += "line " + std::to_string(i * i) + "\n";
  std::ofstream(folder / "text") << text;
  const auto task = make_task("byte_lm", {{"text", (folder / "text").string()}, {"context", 64}});
  for (const auto split : {Split::train, Split::valid, Split::test})
    for (uint64_t i = 0; i < 20; ++i) {
      const auto example = task->example(split, i);
      ASSERT_EQ(example.tokens.size(), 64u);
      std::string window;
      for (const auto token : example.tokens) window += static_cast<char>(token);
      window += static_cast<char>(example.labels.back());
      EXPECT_NE((text + '\0').find(window), std::string::npos);
      for (size_t t = 0; t + 1 < 64; ++t) EXPECT_EQ(example.labels[t], example.tokens[t + 1]);
    }
  EXPECT_EQ(task->size(Split::test), Corpus::read({folder / "text"}).evaluation_windows(Split::test, 64));
  // Two symbols, equally frequent everywhere: one bit.
  std::string coins;
  for (int i = 0; i < 20'000; ++i) coins += i % 2 ? 'a' : 'b';
  std::ofstream(folder / "coins") << coins;
  EXPECT_NEAR(make_task("byte_lm", {{"text", json::array({(folder / "coins").string()})}})->chance(), 1, 0.05);
}

int64_t area_of(int64_t shape, int64_t size) {
  const ShapesTask::Object object{shape, 0, 3, 4, size};
  int64_t area = 0;
  for (int64_t y = 0; y < 16; ++y)
    for (int64_t x = 0; x < 16; ++x) area += object.covers(y, x);
  return area;
}

// Counted by hand, 5 and 6 pixels a side.
TEST(Shapes, HaveTheirAreas) {
  const std::array<std::pair<int64_t, int64_t>, 4> areas = {{{25, 36}, {21, 32}, {13, 18}, {9, 20}}};
  for (int64_t shape = 0; shape < 4; ++shape) {
    EXPECT_EQ(area_of(shape, 5), areas[size_t(shape)].first) << shape;
    EXPECT_EQ(area_of(shape, 6), areas[size_t(shape)].second) << shape;
  }
}

TEST(Shapes, LabelsAreWhatThePixelsShow) {
  const json quiet{{"noise", 0.0}};
  for (const char* answer : {"shape", "count", "segments"}) {
    auto parameters = quiet;
    parameters["answer"] = answer;
    const ShapesTask task(parameters);
    for (uint64_t i = 0; i < 100; ++i) {
      const auto example = task.example(Split::train, i);
      const auto objects = task.objects(Split::train, i);
      std::array<int64_t, 256> shown{};  // 1 + shape of a pixel
      int64_t lit = 0, area = 0;
      for (size_t p = 0; p < 256; ++p) {
        for (const auto& object : objects)
          if (object.covers(int64_t(p / 16), int64_t(p % 16))) shown[p] = 1 + object.shape;
        const bool bright = example.values[p] + example.values[256 + p] + example.values[512 + p] > 0.5f;
        EXPECT_EQ(bright, shown[p] != 0);
        lit += bright;
      }
      for (const auto& object : objects) area += area_of(object.shape, object.size);
      EXPECT_EQ(lit, area) << "objects don't overlap";
      if (std::string(answer) == "shape") {
        ASSERT_EQ(objects.size(), 1u);
        EXPECT_EQ(example.labels, std::vector<int64_t>{objects[0].shape});
      } else if (std::string(answer) == "count") {
        EXPECT_EQ(example.labels, std::vector<int64_t>{int64_t(objects.size()) - 1});
      } else {
        ASSERT_EQ(example.labels.size(), 64u);
        for (size_t patch = 0; patch < 64; ++patch) {
          std::array<int, 5> counts{};
          for (const size_t p : {0, 1, 16, 17}) ++counts[size_t(shown[patch / 8 * 32 + patch % 8 * 2 + p])];
          const int64_t label = example.labels[patch];
          EXPECT_TRUE(label == 0 ? counts[0] > 2 : counts[size_t(label)] >= 2) << patch;
        }
      }
    }
  }
}

TEST(LearnedTasks, AreFunctionsOfSplitIndexAndSeed) {
  for (const char* name : {"listops", "algo", "icl_regression", "ts_forecast", "hawkes", "digits", "byte_lm", "shapes",
                           "clutter", "marks"}) {
    const auto first = make_task(name), second = make_task(name), other = make_task(name, {{"seed", 1}});
    const auto same = [](const Example& a, const Example& b) {
      return a.tokens == b.tokens && a.values == b.values && a.labels == b.labels;
    };
    second->example(Split::train, 5);
    EXPECT_TRUE(same(first->example(Split::train, 3), second->example(Split::train, 3))) << name;
    EXPECT_FALSE(same(first->example(Split::train, 3), first->example(Split::train, 4))) << name;
    EXPECT_FALSE(same(first->example(Split::train, 3), first->example(Split::valid, 3))) << name;
    EXPECT_FALSE(same(first->example(Split::train, 3), other->example(Split::train, 3))) << name;
    EXPECT_GT(first->chance(), 0) << name;
  }
}

TEST(LearnedTasks, RefuseBadParameters) {
  const auto refused = [](const char* name, const json& parameters, std::string_view expected) {
    const auto message = error_of([&] { make_task(name, parameters); });
    EXPECT_NE(message.find(expected), message.npos) << message;
  };
  refused("listop", {}, "listops");
  refused("listops", {{"min_length", 300}}, "min_length = 300");
  EXPECT_NE(error_of([] {
              make_task("listops", {{"max_depth", 2}, {"max_args", 3}})->example(Split::train, 0);
            }).find("too rare"),
            std::string::npos);
  refused("algo", {{"function", "srot"}}, "sort");
  refused("algo", {{"scale", 0}}, "scale = 0");
  refused("reset_sum", {{"resets", 1.0}}, "resets = 1");
  refused("reset_sum", {{"digits", 1}}, "digits = 1");
  refused("digits", {{"patch", 3}}, "patch = 3");
  refused("icl_regression", {{"noise", -1}}, "noise = -1");
  refused("shapes", {{"patch", 3}}, "patch = 3");
  refused("shapes", {{"objects", 4}}, "objects = 4");
  refused("ts_forecast", {{"length", 1000}}, "length = 1000");
  refused("hawkes", {{"repeat", 0.5}}, "repeat + next = 1.1");
  refused("byte_lm", {{"text", "/no/such/text"}}, "/no/such/text");
  refused("byte_lm", {{"context", 1 << 20}}, "context = 1048576");
}

}  // namespace
}  // namespace heed::tasks::learned_tasks_test
