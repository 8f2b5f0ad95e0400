#include "tasks/digits.h"

#include <array>
#include <numeric>

#include "heed/assets.h"
#include "heed/nn/config.h"
#include "tasks/baselines.h"

namespace heed::tasks {
namespace {

constexpr int64_t kSide = 8, kPixels = kSide * kSide;
constexpr float kWhite = 16;
constexpr std::array<int64_t, 4> kBorders = {0, 1293, 1437, 1797};  // of train, valid and test

/// The same patches in random order.
std::vector<float> shuffled(const std::vector<float>& pixels, int64_t patch, Random& random) {
  const int64_t across = kSide / patch;
  std::vector<int64_t> order(static_cast<size_t>(across * across));
  std::iota(order.begin(), order.end(), 0);
  random.shuffle(order);
  std::vector<float> moved;
  for (int64_t y = 0; y < kSide; ++y)
    for (int64_t x = 0; x < kSide; ++x) {
      const int64_t from = order[static_cast<size_t>(y / patch * across + x / patch)];
      moved.push_back(
          pixels[static_cast<size_t>((from / across * patch + y % patch) * kSide + from % across * patch + x % patch)]);
    }
  return moved;
}

}  // namespace

std::vector<Parameter> DigitsTask::parameters() {
  return {{"patch", 2, "pixels a side of a patch: 1, 2 or 4"},
          {"shuffled", false, "the patches of an image stand in random order"},
          {"seed", 0, "another order of the training images"}};
}

DigitsTask::DigitsTask(const nlohmann::json& parameters)
    : LearnedTask("digits"), file_(formats::SafetensorsFile::open(find_asset("digits") / "digits.safetensors")) {
  ConfigReader reader(name_, parameters);
  patch_ = reader.integer("patch", 2, 1, 4);
  require(kSide % patch_ == 0, "{}: patch = {}: 1, 2 or 4 is accepted", name_, patch_);
  shuffled_ = reader.get("shuffled", false);
  finish(reader);
  images_ = file_.bytes("images");
  labels_ = file_.bytes("labels");
  require(file_.info("images").dtype == formats::TensorType::u8 &&
              file_.info("labels").dtype == formats::TensorType::u8 &&
              images_.size() == static_cast<size_t>(kBorders[3] * kPixels) &&
              labels_.size() == static_cast<size_t>(kBorders[3]),
          "{}: images U8 [1797, 8, 8] and labels U8 [1797] are accepted", file_.path().string());
}

Face DigitsTask::face() const { return image_face(1, kSide, patch_, 10, true); }

int64_t DigitsTask::size(Split split) const {
  const auto s = static_cast<size_t>(split);
  return kBorders[s + 1] - kBorders[s];
}

Example DigitsTask::example(Split split, uint64_t index) const {
  const auto count = static_cast<uint64_t>(size(split));
  auto random = random_of(split, index);
  const uint64_t drawn = split == Split::train ? random.below(count) : index % count;
  const size_t image = static_cast<size_t>(kBorders[static_cast<size_t>(split)]) + drawn;
  Example example;
  for (const auto pixel : images_.subspan(image * kPixels, kPixels))
    example.values.push_back(static_cast<float>(std::to_integer<int>(pixel)) / kWhite);
  if (shuffled_) example.values = shuffled(example.values, patch_, random);
  example.labels = {std::to_integer<int64_t>(labels_[image])};
  return example;
}

double DigitsTask::chance() const {
  return commonest_share(*this, Split::test, static_cast<uint64_t>(size(Split::test)));
}

}  // namespace heed::tasks
