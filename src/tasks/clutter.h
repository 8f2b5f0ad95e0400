// A digit somewhere on a canvas, among pieces of other digits.
#pragma once

#include "tasks/digits.h"

namespace heed::tasks {

/// A digit of 8 x 8 pixels at a random place, over pieces of 4 x 4 pixels cut from other digits; all begin at a corner
/// of a patch. Digits are the ones of DigitsTask's splits.
class ClutterTask final : public LearnedTask {
 public:
  static constexpr int64_t kDigit = 8, kPiece = 4;

  struct Drawn {
    Example example;
    int64_t row, column;  ///< the pixel where the digit begins
  };

  explicit ClutterTask(const nlohmann::json& parameters);
  Face face() const override;
  /// The commonest digit's share of the test images.
  double chance() const override { return digits_.chance(); }
  Example example(Split split, uint64_t index) const override { return draw(split, index).example; }
  Drawn draw(Split split, uint64_t index) const;
  static std::vector<Parameter> parameters();

 private:
  DigitsTask digits_;
  int64_t side_, patch_, pieces_, blur_;
  double noise_;
};

}  // namespace heed::tasks
