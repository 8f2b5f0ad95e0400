// Bodies among distractors of another shape, to be marked.
#pragma once

#include <vector>

#include "tasks/learned_task.h"

namespace heed::tasks {

/// A grey canvas with one or two ellipses, the lesions, and two rectangles of as large an area, turned and placed at
/// random in noise; none touch. Asked of every patch: does a lesion cover half of it or more?
class LesionsTask final : public LearnedTask {
 public:
  struct Body {
    bool lesion;
    double row, column, angle, half_length, half_width;

    bool covers(double y, double x) const;
    /// Pixels from the centre to the farthest that it covers.
    double reach() const;
  };

  explicit LesionsTask(const nlohmann::json& parameters);
  Face face() const override { return image_face(1, side_, patch_, 2, false); }
  /// The share of the patches without a lesion.
  double chance() const override;
  Example example(Split split, uint64_t index) const override;
  static std::vector<Parameter> parameters();

  /// Of a sample: the lesions, then the distractors.
  std::vector<Body> bodies(Split split, uint64_t index) const;

 private:
  std::vector<Body> draw(Random& random) const;

  int64_t side_, patch_;
  double noise_;
};

}  // namespace heed::tasks
