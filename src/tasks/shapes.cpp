#include "tasks/shapes.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "heed/nn/config.h"
#include "tasks/baselines.h"

namespace heed::tasks {
namespace {

constexpr int64_t kChannels = 3, kSmallest = 5, kLargest = 7;
constexpr int kMostTries = 100;  // of a place, before all objects are drawn again
constexpr std::array<std::array<float, kChannels>, 6> kColours = {
    {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {1, 1, 0}, {1, 0, 1}, {0, 1, 1}}};
const std::vector<std::string> kAnswers = {"shape", "count", "segments"};
enum Shape : int64_t { kSquare, kDisk, kTriangle, kCross };

/// Boxes that share a pixel or stand side by side.
bool touch(const ShapesTask::Object& a, const ShapesTask::Object& b) {
  return a.row <= b.row + b.size && b.row <= a.row + a.size && a.column <= b.column + b.size &&
         b.column <= a.column + a.size;
}

}  // namespace

bool ShapesTask::Object::covers(int64_t y, int64_t x) const {
  const int64_t r = y - row, c = x - column;
  if (r < 0 || c < 0 || r >= size || c >= size) return false;
  // Twice the distances from the middle, so that all are whole.
  const int64_t down = 2 * r - (size - 1), right = 2 * c - (size - 1);
  switch (shape) {
    case kSquare:
      return true;
    case kDisk:
      return down * down + right * right <= size * size;
    case kTriangle:
      return std::abs(right) <= r;
    default:
      return std::abs(down) <= size / 3 || std::abs(right) <= size / 3;
  }
}

std::vector<Parameter> ShapesTask::parameters() {
  return {{"answer", "shape", "shape (of the only object), count (of objects) or segments (the shape in every patch)"},
          {"side", 16, "pixels a side of the canvas"},
          {"patch", 2, "pixels a side of a patch; it divides the canvas"},
          {"objects", 3, "most objects, where not their shape is asked for"},
          {"noise", 0.1, "deviation of the noise, of colours between 0 and 1"},
          {"seed", 0, "another family of samples"}};
}

ShapesTask::ShapesTask(const nlohmann::json& parameters) : LearnedTask("shapes") {
  ConfigReader reader(name_, parameters);
  const auto answer = reader.choice("answer", "shape", kAnswers);
  answer_ = static_cast<Answer>(std::find(kAnswers.begin(), kAnswers.end(), answer) - kAnswers.begin());
  side_ = reader.integer("side", 16, 8, 512);
  patch_ = read_patch(reader, 2, 1, side_);
  // Of so many objects of the largest size, most throws leave room for all.
  most_ = reader.integer("objects", 3, 1, std::max<int64_t>(1, 3 * side_ * side_ / 256));
  noise_ = read_noise(reader, 0.1);
  finish(reader);
  if (answer_ == Answer::shape) most_ = 1;
}

Face ShapesTask::face() const {
  const int64_t outputs = answer_ == Answer::shape ? kShapes : answer_ == Answer::count ? most_ : 1 + kShapes;
  return image_face(kChannels, side_, patch_, outputs, answer_ != Answer::segments);
}

std::vector<ShapesTask::Object> ShapesTask::draw(Random& random) const {
  const int64_t count = random.between(1, most_);
  std::vector<Object> objects;
  for (int tries = 0; static_cast<int64_t>(objects.size()) < count; ++tries) {
    if (tries == kMostTries) objects.clear(), tries = 0;
    const int64_t size = random.between(kSmallest, kLargest);
    const Object object{static_cast<int64_t>(random.below(kShapes)),
                        static_cast<int64_t>(random.below(kColours.size())), random.between(0, side_ - size),
                        random.between(0, side_ - size), size};
    if (std::none_of(objects.begin(), objects.end(), [&](const Object& other) { return touch(object, other); }))
      objects.push_back(object);
  }
  return objects;
}

std::vector<ShapesTask::Object> ShapesTask::objects(Split split, uint64_t index) const {
  auto random = random_of(split, index);
  return draw(random);
}

Example ShapesTask::example(Split split, uint64_t index) const {
  auto random = random_of(split, index);
  const auto objects = draw(random);
  const int64_t patches = side_ / patch_;
  Example example;
  example.values.assign(static_cast<size_t>(kChannels * side_ * side_), 0);
  std::vector<std::array<int64_t, kShapes>> covered(static_cast<size_t>(patches * patches));
  for (int64_t y = 0; y < side_; ++y)
    for (int64_t x = 0; x < side_; ++x) {
      const auto object = std::find_if(objects.begin(), objects.end(), [&](const Object& o) { return o.covers(y, x); });
      if (object != objects.end())
        ++covered[static_cast<size_t>(y / patch_ * patches + x / patch_)][static_cast<size_t>(object->shape)];
      for (int64_t c = 0; c < kChannels; ++c) {
        auto& value = example.values[static_cast<size_t>((c * side_ + y) * side_ + x)];
        if (object != objects.end()) value = kColours[static_cast<size_t>(object->colour)][static_cast<size_t>(c)];
        if (noise_ > 0) value += static_cast<float>(noise_ * random.normal());
      }
    }
  switch (answer_) {
    case Answer::shape:
      example.labels = {objects[0].shape};
      break;
    case Answer::count:
      example.labels = {static_cast<int64_t>(objects.size()) - 1};
      break;
    case Answer::segments:
      for (const auto& counts : covered) {
        const auto most = std::max_element(counts.begin(), counts.end());
        example.labels.push_back(2 * *most >= patch_ * patch_ ? 1 + (most - counts.begin()) : 0);
      }
  }
  return example;
}

double ShapesTask::chance() const { return commonest_share(*this, Split::valid, 1000); }

}  // namespace heed::tasks
