// Birds of two species that one small spot tells apart.
#pragma once

#include <array>

#include "tasks/learned_task.h"

namespace heed::tasks {

/// A bird, a body and a head of one random colour, somewhere on a noisy canvas. It wears a spot of 2 x 2 pixels that is
/// red or blue: that is its species, which is asked for. Everything else is the same for both.
class BirdsTask final : public LearnedTask {
 public:
  static constexpr int64_t kSpot = 2;  ///< pixels a side, all in one patch

  struct Bird {
    double row, column, height, width;  ///< of the body: middle and half axes, in pixels
    double head_row, head_column, head;
    std::array<float, 3> colour;
    int64_t spot_row, spot_column;  ///< where the spot begins
    int64_t species;
    bool covers(int64_t y, int64_t x) const;
  };

  explicit BirdsTask(const nlohmann::json& parameters);
  Face face() const override;
  double chance() const override { return 0.5; }
  Example example(Split split, uint64_t index) const override;
  static std::vector<Parameter> parameters();
  /// What a sample shows.
  Bird bird(Split split, uint64_t index) const;
  /// The patch that has the spot, counted row by row.
  int64_t deciding_patch(const Bird& bird) const;

 private:
  Bird draw(Random& random) const;

  int64_t side_, patch_;
  double noise_;
};

}  // namespace heed::tasks
