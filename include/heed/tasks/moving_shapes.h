// Videos of coloured shapes that move, are hidden for a while, and come back.
#pragma once

#include <cstdint>
#include <vector>

#include "heed/tasks/random.h"

namespace heed::tasks {

struct MovingShapesOptions {
  int64_t side = 16;                        ///< pixels of a frame
  int64_t frames = 20;                      ///< of a video
  int64_t shapes = 2;                       ///< of different lightness and colour; the first one is hidden for a while
  int64_t hidden_from = 4, hidden_to = 12;  ///< frames in which it is hidden
  uint64_t seed = 0;                        ///< another family of videos
};

struct MovingShapes {
  std::vector<float> lightness;  ///< [frames, side, side], 0 to 1
  std::vector<float> colours;    ///< [frames, 2, side, side], -1 to 1; the ground is grey
  std::vector<uint8_t> first;    ///< [frames, side, side]: 1 where the first shape is
};

/// Video `index` of a split. A shape has the lightness that its number says, and a colour of its own that nothing but
/// the first frame tells. Throws heed::Error for sizes that do not fit.
MovingShapes moving_shapes(const MovingShapesOptions& options, Split split, uint64_t index);

}  // namespace heed::tasks
