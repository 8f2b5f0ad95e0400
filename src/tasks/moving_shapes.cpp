#include "heed/tasks/moving_shapes.h"

#include <array>
#include <cmath>

#include "heed/error.h"

namespace heed::tasks {
namespace {

constexpr double kGround = 0.1, kSize = 0.36;  // the ground's lightness; a shape's side as a share of the frame
constexpr float kColour = 0.9f;

struct Moving {
  double y, x, down, right, lightness;
  std::array<float, 2> colour;
  bool disk;

  /// Once more a frame later, turned back at borders.
  void move(double room) {
    y += down, x += right;
    if (y < 0 || y > room) down = -down, y += 2 * down;
    if (x < 0 || x > room) right = -right, x += 2 * right;
  }
};

}  // namespace

MovingShapes moving_shapes(const MovingShapesOptions& o, Split split, uint64_t index) {
  require(o.side >= 8 && o.frames >= 1 && o.shapes >= 1 && o.shapes <= 8,
          "videos of {} frames of {} pixels a side with {} shapes: 1, 8 and 1 to 8 are accepted", o.frames, o.side,
          o.shapes);
  Random random(stream_key("moving_shapes", split, o.seed), index);
  const auto size = std::llround(kSize * double(o.side));
  const double room = double(o.side - size);
  std::vector<Moving> shapes;
  for (int64_t s = 0; s < o.shapes; ++s) {
    const auto speed = [&] { return (random.uniform() < 0.5 ? -1 : 1) * (0.4 + random.uniform()); };
    Moving shape{room * random.uniform(), room * random.uniform(), speed(), speed(), 0, {}, s % 2 == 1};
    shape.lightness = 0.35 + 0.6 * double(s + 1) / double(o.shapes);
    for (auto& part : shape.colour) part = kColour * (random.uniform() < 0.5 ? -1.f : 1.f);
    shapes.push_back(shape);
  }
  MovingShapes video;
  const auto cells = static_cast<size_t>(o.side * o.side);
  for (int64_t t = 0; t < o.frames; ++t) {
    const auto base = static_cast<size_t>(t) * cells;
    video.lightness.resize(base + cells, float(kGround));
    video.colours.resize(2 * (base + cells), 0);
    video.first.resize(base + cells, 0);
    for (size_t s = shapes.size(); s-- > 0;) {  // the first one stands in front
      auto& shape = shapes[s];
      if (t > 0) shape.move(room);
      if (s == 0 && t >= o.hidden_from && t < o.hidden_to) continue;
      const auto top = std::llround(shape.y), left = std::llround(shape.x);
      for (int64_t y = top; y < std::min<int64_t>(top + size, o.side); ++y)
        for (int64_t x = left; x < std::min<int64_t>(left + size, o.side); ++x) {
          const int64_t down = 2 * (y - top) - (size - 1), right = 2 * (x - left) - (size - 1);
          if (shape.disk && down * down + right * right > size * size) continue;
          const auto at = static_cast<size_t>(y * o.side + x);
          video.lightness[base + at] = static_cast<float>(shape.lightness);
          for (size_t c = 0; c < 2; ++c) video.colours[2 * base + c * cells + at] = shape.colour[c];
          video.first[base + at] = s == 0;
        }
    }
  }
  return video;
}

}  // namespace heed::tasks
