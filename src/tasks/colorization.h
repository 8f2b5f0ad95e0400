// Images of coloured regions whose colours are shown at a few points.
#pragma once

#include "tasks/learned_task.h"

namespace heed::tasks {

/// A canvas cut into regions, the cells of random points; each has a lightness and a colour (a, b) of its own that its
/// lightness does not give away. A model sees the lightness, with noise, and hints: squares of 2 x 2 pixels with their
/// colours. Asked for are the colours of all pixels, a patch at a time: [2, patch, patch], between -1 and 1.
class ColorizationTask final : public LearnedTask {
 public:
  explicit ColorizationTask(const nlohmann::json& parameters);
  Face face() const override;
  /// The error of grey.
  double chance() const override;
  Example example(Split split, uint64_t index) const override;
  static std::vector<Parameter> parameters();

 private:
  int64_t side_, patch_, regions_, hints_;
  double noise_;
  bool fixed_;
};

}  // namespace heed::tasks
