// Images of coloured shapes, to be named, counted or found.
#pragma once

#include "tasks/learned_task.h"

namespace heed::tasks {

/// 1 to `objects` squares, disks, triangles and crosses of 5 to 7 pixels that don't touch, each in one of six colours,
/// on a black canvas with noise. Asked for is the shape of the only object, the number of objects, or of every patch
/// the shape that covers at least half of it, 0 for none.
class ShapesTask final : public LearnedTask {
 public:
  enum class Answer { shape, count, segments };
  static constexpr int64_t kShapes = 4;

  struct Object {
    int64_t shape, colour, row, column, size;
    /// Whether it covers a pixel of the canvas.
    bool covers(int64_t y, int64_t x) const;
  };

  explicit ShapesTask(const nlohmann::json& parameters);
  Face face() const override;
  /// The commonest answer's share in the first 1000 validation samples.
  double chance() const override;
  Example example(Split split, uint64_t index) const override;
  static std::vector<Parameter> parameters();
  /// What a sample shows.
  std::vector<Object> objects(Split split, uint64_t index) const;

 private:
  std::vector<Object> draw(Random& random) const;

  Answer answer_;
  int64_t side_, patch_, most_;
  double noise_;
};

}  // namespace heed::tasks
