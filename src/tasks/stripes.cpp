#include "tasks/stripes.h"

#include <cmath>

#include "heed/nn/config.h"

namespace heed::tasks {
namespace {

constexpr double kShortest = 2.5, kLonger = 1.3;  // pixels a wave, and each period by the one before

}  // namespace

std::vector<Parameter> StripesTask::parameters() {
  return {{"side", 32, "pixels a side of the canvas"},
          {"patch", 8, "pixels a side of a patch; it divides the canvas"},
          {"periods", 3, "lengths of waves, from 2.5 pixels, each 1.3 times the one before"},
          {"noise", 1.0, "deviation of the noise, of waves between -1 and 1"},
          {"seed", 0, "another family of samples"}};
}

StripesTask::StripesTask(const nlohmann::json& parameters) : LearnedTask("stripes") {
  ConfigReader reader(name_, parameters);
  side_ = reader.integer("side", 32, 8, 512);
  patch_ = read_patch(reader, 8, 1, side_);
  periods_ = reader.integer("periods", 3, 1, 16);
  noise_ = read_noise(reader, 1.0);
  finish(reader);
}

Face StripesTask::face() const { return image_face(1, side_, patch_, kDirections * periods_, true); }

Example StripesTask::example(Split split, uint64_t index) const {
  auto random = random_of(split, index);
  const auto direction = random.between(0, kDirections - 1), period = random.between(0, periods_ - 1);
  const double angle = M_PI * double(direction) / double(kDirections),
               frequency = 2 * M_PI / (kShortest * std::pow(kLonger, double(period)));
  const int64_t across = side_ / patch_;
  std::vector<double> phases(static_cast<size_t>(across * across));
  for (auto& phase : phases) phase = 2 * M_PI * random.uniform();
  Example example;
  example.labels = {direction * periods_ + period};
  example.values.reserve(static_cast<size_t>(side_ * side_));
  for (int64_t y = 0; y < side_; ++y)
    for (int64_t x = 0; x < side_; ++x) {
      const double along = double(y) * std::sin(angle) + double(x) * std::cos(angle);
      const double wave = std::sin(frequency * along + phases[static_cast<size_t>(y / patch_ * across + x / patch_)]);
      example.values.push_back(static_cast<float>(wave + noise_ * random.normal()));
    }
  return example;
}

}  // namespace heed::tasks
