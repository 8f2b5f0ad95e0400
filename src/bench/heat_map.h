// A picture of scores from 0 to 1: a square for every row and column.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace heed::bench {

struct HeatMap {
  std::string title, of_rows, of_columns;  ///< what the axes are
  std::vector<std::string> rows, columns;
  std::function<std::optional<double>(size_t row, size_t column)> score;  ///< absent: an empty place
};

/// An SVG element.
std::string heat_map(const HeatMap& map);

}  // namespace heed::bench
