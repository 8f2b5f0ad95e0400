// Plots of named series, logarithmic unless an axis is a share or a value, labelled at the line's end or beside the
// point.
#pragma once

#include <fmt/format.h>

#include <optional>
#include <string>
#include <vector>

#include "bench/svg.h"

namespace heed::bench {

enum class Unit {
  length,
  seconds,
  bytes,
  error,
  share,  ///< 0 to 1, not logarithmic
  value   ///< any number, not logarithmic
};

/// How a series looks everywhere: colour, marker and dashes, so that none is told by colour alone.
struct SeriesStyle {
  int index = -1;  ///< -1: in the background, without a label

  std::string colour() const { return index < 0 ? "muted" : fmt::format("c{}", index % 8); }
  Marker marker() const { return static_cast<Marker>(index < 0 ? 0 : (index + index / 8 * 3) % kMarkers); }
  std::string dashes() const { return fmt::format("d{}", index < 0 ? 0 : index / 8 % 3); }
};
/// Series that get a style of their own; more would not be told apart.
inline constexpr int kStyles = 16;

struct Series {
  std::string name;
  SeriesStyle style;
  std::vector<Point> points;  ///< in units of the axes; positive on logarithmic ones
  std::vector<std::string> tooltips;
};

struct PlotAxes {
  std::string title, x_label, y_label;
  Unit x = Unit::length, y = Unit::seconds;
  bool y_downwards = false;     ///< small values at the top
  std::vector<Point> front{};   ///< points by their x that none excels: a line of stairs through them
  std::optional<Point> ring{};  ///< a point to be ringed
};

/// Lines with their names at the right. `ticks` are the x values to name.
std::string line_plot(const PlotAxes& axes, const std::vector<Series>& series, const std::vector<double>& ticks);
/// The first point of each series, with its name beside it; its other points, smaller, are what the first sums up.
std::string scatter_plot(const PlotAxes& axes, const std::vector<Series>& series);

}  // namespace heed::bench
