#include "tasks/colorization.h"

#include <array>
#include <cmath>

#include "heed/nn/config.h"

namespace heed::tasks {
namespace {

constexpr int64_t kHint = 2;  // pixels a side
constexpr double kBrightest = 0.9, kDarkest = 0.1, kColour = 0.9;
constexpr double kHuber = 0.01;

struct Region {
  double y, x, lightness;
  std::array<float, 2> colour;
};

size_t nearest(const std::vector<Region>& regions, int64_t y, int64_t x) {
  size_t best = 0;
  double least = 1e30;
  for (size_t r = 0; r < regions.size(); ++r) {
    const double apart = std::hypot(regions[r].y - double(y), regions[r].x - double(x));
    if (apart < least) least = apart, best = r;
  }
  return best;
}

}  // namespace

std::vector<Parameter> ColorizationTask::parameters() {
  return {{"side", 16, "pixels a side of the canvas"},
          {"patch", 4, "pixels a side of a patch; it divides the canvas"},
          {"regions", 3, "most regions of an image; it has 2 at least"},
          {"hints", 8, "most hints of an image"},
          {"fixed", false, "every image has as many hints; else 0 to so many"},
          {"noise", 0.02, "deviation of the noise of the lightness, which is between 0 and 1"},
          {"seed", 0, "another family of samples"}};
}

ColorizationTask::ColorizationTask(const nlohmann::json& parameters) : LearnedTask("colorization") {
  ConfigReader reader(name_, parameters);
  side_ = reader.integer("side", 16, 4, 512);
  patch_ = read_patch(reader, 4, 1, side_);
  regions_ = reader.integer("regions", 3, 2, 64);
  hints_ = reader.integer("hints", 8, 0, side_ * side_);
  fixed_ = reader.get("fixed", false);
  noise_ = read_noise(reader, 0.02);
  finish(reader);
}

Face ColorizationTask::face() const {
  Face face;
  face.input = Face::Input::image;
  face.answer = Face::Answer::values;
  face.sight = Face::Sight::all;
  face.metric = Metric::squared_error;
  face.channels = 4;
  face.height = face.width = side_;
  face.patch = patch_;
  face.outputs = 2 * patch_ * patch_;
  face.huber = kHuber;
  return face;
}

double ColorizationTask::chance() const { return kColour * kColour / 3; }

Example ColorizationTask::example(Split split, uint64_t index) const {
  auto random = random_of(split, index);
  const auto place = [&] { return double(side_) * random.uniform(); };
  const auto count = random.between(2, regions_);
  std::vector<Region> regions;
  for (int64_t r = 0; r < count; ++r) {
    Region region{place(), place(), 0, {}};
    for (auto& part : region.colour) part = static_cast<float>(kColour * (2 * random.uniform() - 1));
    regions.push_back(region);
  }
  // Lightnesses are spread evenly, in an order of their own, so that borders can be seen.
  for (size_t r = 0; r < regions.size(); ++r) {
    regions[r].lightness = kDarkest + (kBrightest - kDarkest) * (double(r) + random.uniform()) / double(count);
    std::swap(regions[r].lightness, regions[random.below(r + 1)].lightness);
  }

  const auto at = [&](int64_t channel, int64_t y, int64_t x) {
    return static_cast<size_t>((channel * side_ + y) * side_ + x);
  };
  const int64_t patches = side_ / patch_;
  Example example;
  example.values.assign(static_cast<size_t>(4 * side_ * side_), 0);
  example.targets.assign(static_cast<size_t>(2 * side_ * side_), 0);
  std::vector<size_t> region_of;
  for (int64_t y = 0; y < side_; ++y)
    for (int64_t x = 0; x < side_; ++x) {
      const auto& region = regions[region_of.emplace_back(nearest(regions, y, x))];
      example.values[at(0, y, x)] = static_cast<float>(region.lightness + noise_ * random.normal());
      const int64_t patch = y / patch_ * patches + x / patch_;
      for (int64_t c = 0; c < 2; ++c)
        example.targets[static_cast<size_t>(((patch * 2 + c) * patch_ + y % patch_) * patch_ + x % patch_)] =
            region.colour[static_cast<size_t>(c)];
    }
  const int64_t hints = fixed_ ? hints_ : random.between(0, hints_);
  for (int64_t h = 0; h < hints; ++h) {
    const int64_t top = random.between(0, side_ - kHint), left = random.between(0, side_ - kHint);
    std::array<float, 2> mean{};
    for (int64_t i = 0; i < kHint * kHint; ++i)
      for (size_t c = 0; c < 2; ++c)
        mean[c] += regions[region_of[static_cast<size_t>((top + i / kHint) * side_ + left + i % kHint)]].colour[c] /
                   float(kHint * kHint);
    for (int64_t i = 0; i < kHint * kHint; ++i) {
      const int64_t y = top + i / kHint, x = left + i % kHint;
      for (int64_t c = 0; c < 2; ++c) example.values[at(1 + c, y, x)] = mean[static_cast<size_t>(c)];
      example.values[at(3, y, x)] = 1;
    }
  }
  return example;
}

}  // namespace heed::tasks
