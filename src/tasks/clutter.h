// A digit somewhere on a canvas, among pieces of other digits.
#pragma once

#include "tasks/digits.h"

namespace heed::tasks {

/// A digit of 8 x 8 pixels at a random place, over pieces of 4 x 4 pixels cut from other digits; all begin at a corner
/// of a patch. Digits are the ones of DigitsTask's splits. Asked for is the digit, or of every patch whether it is one
/// of the digit's.
class ClutterTask final : public LearnedTask {
 public:
  enum class Answer { digit, place };
  static constexpr int64_t kDigit = 8, kPiece = 4;

  struct Drawn {
    Example example;
    int64_t row, column;  ///< the pixel where the digit begins
  };

  explicit ClutterTask(const nlohmann::json& parameters);
  Face face() const override;
  /// The commonest digit's share of the test images, or the share of the patches that are not the digit's.
  double chance() const override;
  Example example(Split split, uint64_t index) const override { return draw(split, index).example; }
  Drawn draw(Split split, uint64_t index) const;
  static std::vector<Parameter> parameters();

 private:
  /// Of every patch, row by row, whether it is one of a digit's that begins at this pixel.
  std::vector<int64_t> covered(int64_t row, int64_t column) const;

  DigitsTask digits_;
  Answer answer_;
  int64_t side_, patch_, pieces_, blur_;
  double noise_;
};

}  // namespace heed::tasks
