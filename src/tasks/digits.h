// Handwritten digits of 8 x 8 pixels as patches (UCI, Optical Recognition of Handwritten Digits).
#pragma once

#include <filesystem>
#include <memory>

#include "heed/formats/safetensors.h"
#include "tasks/learned_task.h"

namespace heed::tasks {

/// The images in the file's order: the first 1293 are for training, drawn at random, the next 144 for validation, the
/// last 360 for the test; sample i of these two is their i-th image, modulo their number.
class DigitsTask final : public LearnedTask {
 public:
  explicit DigitsTask(const nlohmann::json& parameters);
  Face face() const override;
  /// The commonest digit's share of the test images.
  double chance() const override;
  Example example(Split split, uint64_t index) const override;
  int64_t size(Split split) const override;
  static std::vector<Parameter> parameters();

 private:
  formats::SafetensorsFile file_;
  std::span<const std::byte> images_, labels_;
  int64_t patch_;
  bool shuffled_;
};

}  // namespace heed::tasks
