#include "tasks/ts_forecast.h"

#include <array>
#include <cmath>
#include <limits>
#include <numbers>

#include "heed/nn/config.h"
#include "tasks/strew.h"

namespace heed::tasks {
namespace {

constexpr double kMemory = 0.7, kFollows = 0.8, kDeviation = 0.3;
constexpr int64_t kLongestLag = 24, kSines = 3;
constexpr double kShortestPeriod = 6, kLongestPeriod = 96;
constexpr std::array<int64_t, 4> kBorders = {0, 70, 80, 100};  // percent, of train, valid and test

}  // namespace

std::vector<Parameter> TsForecastTask::parameters() {
  return {{"context", 96, "steps of a window"},
          {"horizon", 24, "steps that are forecast"},
          {"channels", 8, "channels of the series"},
          {"length", 6000, "steps of the series"},
          {"seed", 0, "another series"}};
}

TsForecastTask::TsForecastTask(const nlohmann::json& parameters) : LearnedTask("ts_forecast") {
  ConfigReader reader(name_, parameters);
  context_ = reader.integer("context", 96, 1, 1 << 20);
  horizon_ = reader.integer("horizon", 24, 1, 1 << 16);
  channels_ = reader.integer("channels", 8, 1, 1 << 10);
  length_ = reader.integer("length", 6000, 1, 1 << 24);
  finish(reader);
  require(windows(Split::valid) > 0,
          "{}: length = {}: its tenth for validation is shorter than a context of {} and a horizon of {}", name_,
          length_, context_, horizon_);
  generate();
}

void TsForecastTask::generate() {
  auto random = random_of(Split::train, 0);
  series_.assign(static_cast<size_t>(length_ * channels_), 0);
  const auto train = static_cast<double>(length_ * kBorders[1] / 100);
  for (int64_t c = 0; c < channels_; ++c) {
    const double trend = (2 * random.uniform() - 1) / static_cast<double>(length_);
    const int64_t lag = random.between(1, kLongestLag);
    struct Sine {
      double size, frequency, phase;
    };
    std::vector<Sine> sines;
    for (int64_t k = 0; k < kSines; ++k) {
      const double period = kShortestPeriod * std::pow(kLongestPeriod / kShortestPeriod, random.uniform());
      sines.push_back({0.5 + random.uniform(), 2 * std::numbers::pi / period, 2 * std::numbers::pi * random.uniform()});
    }
    double noise = 0, sum = 0, squares = 0;
    for (int64_t t = 0; t < length_; ++t) {
      noise = kMemory * noise + kDeviation * random.normal();
      double x = trend * static_cast<double>(t) + noise;
      for (const auto& sine : sines) x += sine.size * std::sin(sine.frequency * static_cast<double>(t) + sine.phase);
      if (c > 0 && t >= lag) x += kFollows * at(t - lag, c - 1);
      series_[static_cast<size_t>(t * channels_ + c)] = x;
      if (static_cast<double>(t) < train) sum += x, squares += x * x;
    }
    const double mean = sum / train, scale = 1 / std::sqrt(squares / train - mean * mean);
    for (int64_t t = 0; t < length_; ++t) {
      auto& x = series_[static_cast<size_t>(t * channels_ + c)];
      x = (x - mean) * scale;
    }
  }
}

Face TsForecastTask::face() const {
  Face face;
  face.input = Face::Input::vectors;
  face.answer = Face::Answer::values;
  face.metric = Metric::squared_error;
  face.channels = channels_;
  face.outputs = channels_ * horizon_;
  face.length = context_;
  return face;
}

int64_t TsForecastTask::windows(Split split) const {
  const auto s = static_cast<size_t>(split);
  return length_ * kBorders[s + 1] / 100 - length_ * kBorders[s] / 100 - context_ - horizon_ + 1;
}

int64_t TsForecastTask::size(Split split) const { return split == Split::train ? 0 : windows(split); }

int64_t TsForecastTask::begin_of(Split split, uint64_t index) const {
  const int64_t count = windows(split), begin = length_ * kBorders[static_cast<size_t>(split)] / 100;
  if (split != Split::train) return begin + strewn(index, count);
  return begin + random_of(split, 1 + index).between(0, count - 1);
}

Example TsForecastTask::example(Split split, uint64_t index) const {
  const int64_t begin = begin_of(split, index);
  Example example;
  for (int64_t t = begin; t < begin + context_; ++t) {
    for (int64_t c = 0; c < channels_; ++c) example.values.push_back(static_cast<float>(at(t, c)));
    const bool asked = split == Split::train || t + 1 == begin + context_;
    for (int64_t h = 1; h <= horizon_; ++h)
      for (int64_t c = 0; c < channels_; ++c)
        example.targets.push_back(asked ? static_cast<float>(at(t + h, c)) : std::numeric_limits<float>::quiet_NaN());
  }
  return example;
}

double TsForecastTask::chance() const {
  double error = 0;
  const int64_t first = length_ * kBorders[2] / 100 + context_ - 1, count = windows(Split::test);
  for (int64_t t = first; t < first + count; ++t)
    for (int64_t h = 1; h <= horizon_; ++h)
      for (int64_t c = 0; c < channels_; ++c) error += std::pow(at(t + h, c) - at(t, c), 2);
  return error / static_cast<double>(count * horizon_ * channels_);
}

}  // namespace heed::tasks
