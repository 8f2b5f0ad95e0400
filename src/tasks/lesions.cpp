#include "tasks/lesions.h"

#include <algorithm>
#include <cmath>

#include "heed/nn/config.h"
#include "tasks/baselines.h"

namespace heed::tasks {
namespace {

/// Pixels: half lengths of an ellipse, and how far centres keep from the canvas's borders.
constexpr double kShortest = 7, kLongest = 11, kBorder = 8;
/// Of the half length.
constexpr double kNarrowest = 0.6, kWidest = 0.9;
constexpr int64_t kDistractors = 2;
constexpr int kMostTries = 100;

}  // namespace

std::vector<Parameter> LesionsTask::parameters() {
  return {{"side", 64, "pixels a side of the canvas, 64 or more"},
          {"patch", 4, "pixels a side of a patch; it divides the canvas"},
          {"noise", 0.25, "deviation of the noise, of bodies of 1"},
          {"seed", 0, "another family of samples"}};
}

LesionsTask::LesionsTask(const nlohmann::json& parameters) : LearnedTask("lesions") {
  ConfigReader reader(name_, parameters);
  side_ = reader.integer("side", 64, 64, 512);  // smaller ones may not hold four bodies that do not touch
  patch_ = read_patch(reader, 4, 1, side_);
  noise_ = read_noise(reader, 0.25);
  finish(reader);
}

double LesionsTask::chance() const { return commonest_share(*this, Split::valid, 100); }

bool LesionsTask::Body::covers(double y, double x) const {
  const double along = ((x - column) * std::cos(angle) + (y - row) * std::sin(angle)) / half_length,
               across = ((y - row) * std::cos(angle) - (x - column) * std::sin(angle)) / half_width;
  return lesion ? along * along + across * across <= 1 : std::max(std::abs(along), std::abs(across)) <= 1;
}

double LesionsTask::Body::reach() const { return lesion ? half_length : std::hypot(half_length, half_width); }

std::vector<LesionsTask::Body> LesionsTask::bodies(Split split, uint64_t index) const {
  auto random = random_of(split, index);
  return draw(random);
}

Example LesionsTask::example(Split split, uint64_t index) const {
  auto random = random_of(split, index);
  const auto drawn = draw(random);
  const int64_t across = side_ / patch_;
  Example sample;
  std::vector<int64_t> covered(size_t(across * across), 0);
  for (int64_t y = 0; y < side_; ++y) {
    for (int64_t x = 0; x < side_; ++x) {
      double value = noise_ * random.normal();
      for (const auto& body : drawn) {
        if (!body.covers(double(y), double(x))) continue;
        value += 1;
        covered[size_t(y / patch_ * across + x / patch_)] += body.lesion;
      }
      sample.values.push_back(float(value));
    }
  }
  for (const auto count : covered) sample.labels.push_back(2 * count >= patch_ * patch_);
  return sample;
}

std::vector<LesionsTask::Body> LesionsTask::draw(Random& random) const {
  const auto within = [&](double low, double high) { return low + (high - low) * random.uniform(); };
  const int64_t lesions = random.between(1, 2), count = lesions + kDistractors;
  std::vector<Body> bodies;
  for (int tries = 0; int64_t(bodies.size()) < count; ++tries) {
    if (tries == kMostTries) bodies.clear(), tries = 0;
    Body body{int64_t(bodies.size()) < lesions, 0, 0, within(0, M_PI), within(kShortest, kLongest), 0};
    body.half_width = within(kNarrowest, kWidest) * body.half_length;
    // A rectangle of an ellipse's area has sides shorter by the root of pi / 4.
    const double shorter = body.lesion ? 1 : std::sqrt(M_PI) / 2;
    body.half_length *= shorter, body.half_width *= shorter;
    body.row = within(kBorder, double(side_) - kBorder), body.column = within(kBorder, double(side_) - kBorder);
    const auto touches = [&](const Body& other) {
      return std::hypot(body.row - other.row, body.column - other.column) < body.reach() + other.reach();
    };
    if (std::none_of(bodies.begin(), bodies.end(), touches)) bodies.push_back(body);
  }
  return bodies;
}

}  // namespace heed::tasks
