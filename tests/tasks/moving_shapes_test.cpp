// Videos of shapes that are hidden for a while.
#include "heed/tasks/moving_shapes.h"

#include <gtest/gtest.h>

#include <array>
#include <set>

#include "heed/error.h"

namespace heed::tasks::moving_shapes_test {
namespace {

TEST(MovingShapes, TheFirstShapeGoesAndComesBackAsItWas) {
  const MovingShapesOptions o;
  const auto cells = static_cast<size_t>(o.side * o.side);
  for (uint64_t i = 0; i < 10; ++i) {
    const auto video = moving_shapes(o, Split::train, i);
    ASSERT_EQ(video.lightness.size(), size_t(o.frames) * cells);
    ASSERT_EQ(video.colours.size(), 2 * size_t(o.frames) * cells);
    std::set<std::array<float, 3>> looks;
    for (int64_t t = 0; t < o.frames; ++t) {
      int64_t shown = 0;
      for (size_t at = 0; at < cells; ++at) {
        if (!video.first[size_t(t) * cells + at]) continue;
        ++shown;
        looks.insert({video.lightness[size_t(t) * cells + at], video.colours[2 * size_t(t) * cells + at],
                      video.colours[(2 * size_t(t) + 1) * cells + at]});
      }
      EXPECT_EQ(shown > 0, t < o.hidden_from || t >= o.hidden_to) << t;
    }
    EXPECT_EQ(looks.size(), 1u);
  }
}

TEST(MovingShapes, ShapesMoveAndVideosDiffer) {
  const MovingShapesOptions o;
  const auto video = moving_shapes(o, Split::test, 1), again = moving_shapes(o, Split::test, 1);
  EXPECT_EQ(video.colours, again.colours);
  EXPECT_NE(video.colours, moving_shapes(o, Split::test, 2).colours);
  EXPECT_NE(video.colours, moving_shapes(o, Split::valid, 1).colours);
  const auto cells = static_cast<size_t>(o.side * o.side);
  EXPECT_FALSE(
      std::equal(video.first.begin(), video.first.begin() + int64_t(cells), video.first.begin() + 2 * int64_t(cells)));
  MovingShapesOptions wrong;
  wrong.side = 4;
  EXPECT_THROW(moving_shapes(wrong, Split::test, 0), Error);
}

}  // namespace
}  // namespace heed::tasks::moving_shapes_test
