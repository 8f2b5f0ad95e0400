#include "tasks/birds.h"

#include <cmath>

#include "heed/nn/config.h"

namespace heed::tasks {
namespace {

constexpr int64_t kChannels = 3, kRed = 0, kBlue = 2;
constexpr double kLeastAxis = 0.15, kMostAxis = 0.25, kHead = 0.5;  // of the side; of the smaller axis

bool inside(double y, double x, double height, double width) {
  return y * y / (height * height) + x * x / (width * width) <= 1;
}

}  // namespace

std::vector<Parameter> BirdsTask::parameters() {
  return {{"side", 24, "pixels a side of the canvas"},
          {"patch", 4, "pixels a side of a patch, 2 or more; it divides the canvas"},
          {"noise", 0.1, "deviation of the noise, of colours between 0 and 1"},
          {"seed", 0, "another family of samples"}};
}

BirdsTask::BirdsTask(const nlohmann::json& parameters) : LearnedTask("birds") {
  ConfigReader reader(name_, parameters);
  side_ = reader.integer("side", 24, 16, 512);
  patch_ = read_patch(reader, 4, kSpot, side_);
  noise_ = read_noise(reader, 0.1);
  finish(reader);
}

Face BirdsTask::face() const { return image_face(kChannels, side_, patch_, 2, true); }

bool BirdsTask::Bird::covers(int64_t y, int64_t x) const {
  const auto down = double(y) + 0.5, right = double(x) + 0.5;
  return inside(down - row, right - column, height, width) || inside(down - head_row, right - head_column, head, head);
}

BirdsTask::Bird BirdsTask::draw(Random& random) const {
  const auto side = double(side_);
  const auto between = [&](double low, double high) { return low + (high - low) * random.uniform(); };
  Bird bird{};
  bird.height = side * between(kLeastAxis, kMostAxis), bird.width = side * between(kLeastAxis, kMostAxis);
  bird.row = between(bird.height, side - bird.height), bird.column = between(bird.width, side - bird.width);
  bird.head = kHead * std::min(bird.height, bird.width);
  const double angle = between(0, 2 * M_PI);
  bird.head_row = bird.row + bird.height * std::sin(angle),
  bird.head_column = bird.column + bird.width * std::cos(angle);
  for (auto& part : bird.colour) part = static_cast<float>(random.uniform());
  bird.species = static_cast<int64_t>(random.below(2));
  // On the body, and in one patch.
  const auto begin = [&] { return random.between(0, side_ - kSpot); };
  const auto whole = [&](int64_t at) { return at / patch_ == (at + kSpot - 1) / patch_; };
  const auto covered = [&] {
    for (int64_t i = 0; i < kSpot * kSpot; ++i)
      if (!bird.covers(bird.spot_row + i / kSpot, bird.spot_column + i % kSpot)) return false;
    return true;
  };
  do bird.spot_row = begin(), bird.spot_column = begin();
  while (!whole(bird.spot_row) || !whole(bird.spot_column) || !covered());
  return bird;
}

BirdsTask::Bird BirdsTask::bird(Split split, uint64_t index) const {
  auto random = random_of(split, index);
  return draw(random);
}

int64_t BirdsTask::deciding_patch(const Bird& bird) const {
  return bird.spot_row / patch_ * (side_ / patch_) + bird.spot_column / patch_;
}

Example BirdsTask::example(Split split, uint64_t index) const {
  auto random = random_of(split, index);
  const auto bird = draw(random);
  Example example;
  example.values.resize(static_cast<size_t>(kChannels * side_ * side_));
  for (int64_t c = 0; c < kChannels; ++c)
    for (int64_t y = 0; y < side_; ++y)
      for (int64_t x = 0; x < side_; ++x) {
        const bool spot =
            y >= bird.spot_row && y < bird.spot_row + kSpot && x >= bird.spot_column && x < bird.spot_column + kSpot;
        float value = bird.covers(y, x) ? bird.colour[static_cast<size_t>(c)] : 0;
        if (spot) value = c == (bird.species == 0 ? kRed : kBlue) ? 1 : 0;
        example.values[static_cast<size_t>((c * side_ + y) * side_ + x)] =
            value + static_cast<float>(noise_ * random.normal());
      }
  example.labels = {bird.species};
  return example;
}

}  // namespace heed::tasks
