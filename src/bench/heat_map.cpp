#include "bench/heat_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/svg.h"

namespace heed::bench {

std::string heat_map(const HeatMap& map) {
  constexpr double kCellWidth = 56, kCellHeight = 34, kTop = 46, kLetter = 7;
  size_t longest = map.of_rows.size();
  for (const auto& row : map.rows) longest = std::max(longest, row.size());
  const double left = std::max(90.0, 20 + kLetter * double(longest));
  Svg svg(left + kCellWidth * double(map.columns.size()) + 10, kTop + kCellHeight * double(map.rows.size()) + 10,
          map.title);
  svg.text({left, 16}, map.of_columns, "label");
  svg.text({left - 10, kTop - 8}, map.of_rows, "label", Anchor::end);
  for (size_t c = 0; c < map.columns.size(); ++c)
    svg.text({left + kCellWidth * (double(c) + 0.5), kTop - 8}, map.columns[c], "tick", Anchor::middle);
  for (size_t r = 0; r < map.rows.size(); ++r) {
    const double y = kTop + kCellHeight * double(r);
    svg.text({left - 10, y + kCellHeight / 2 + 4}, map.rows[r], "tick", Anchor::end);
    for (size_t c = 0; c < map.columns.size(); ++c) {
      const auto score = map.score(r, c);
      if (!score) continue;
      const double x = left + kCellWidth * double(c);
      svg.rectangle({x + 1, y + 1}, kCellWidth - 2, kCellHeight - 2, fmt::format("heat h{}", std::lround(10 * *score)));
      svg.text({x + kCellWidth / 2, y + kCellHeight / 2 + 4}, fmt::format("{:.2f}", *score),
               *score > 0.55 ? "name on" : "name", Anchor::middle);
    }
  }
  return svg.str();
}

}  // namespace heed::bench
