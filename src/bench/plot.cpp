#include "bench/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/units.h"

namespace heed::bench {
namespace {

constexpr double kWidth = 780, kHeight = 430, kLeft = 78, kTop = 14, kBottom = 376;
constexpr double kLineRight = 570, kScatterRight = 756;  // labels of lines stand to the right of the frame
constexpr double kLabelGap = 15, kCharacter = 6.6, kMarkerSize = 4.6;

/// A tick and whether it is named.
struct Tick {
  double value;
  bool named = true;
};

/// Values on a logarithmic scale of pixels, shares and plain values on a linear one.
class Axis {
 public:
  Axis(Unit unit, std::pair<double, double> range, double from, double to)
      : linear_(unit == Unit::share || unit == Unit::value),
        low_(scaled(range.first)),
        high_(scaled(range.second)),
        from_(from),
        to_(to) {
    if (unit == Unit::share) low_ = 0, high_ = 1;
    if (high_ - low_ < 1e-9) low_ -= 0.35, high_ += 0.35;
    const double margin = 0.03 * (high_ - low_);
    low_ -= margin, high_ += margin;
  }
  double at(double value) const { return from_ + (scaled(value) - low_) / (high_ - low_) * (to_ - from_); }
  bool holds(double value) const { return scaled(value) >= low_ - 1e-9 && scaled(value) <= high_ + 1e-9; }
  double low() const { return linear_ ? low_ : std::exp(low_); }
  double high() const { return linear_ ? high_ : std::exp(high_); }

 private:
  double scaled(double value) const { return linear_ ? value : std::log(value); }

  bool linear_;
  double low_, high_, from_, to_;
};

std::string tick_text(Unit unit, double value) {
  switch (unit) {
    case Unit::seconds:
      if (value < 0.9995e-3) return fmt::format("{:.4g} us", value * 1e6);
      return value < 0.9995 ? fmt::format("{:.4g} ms", value * 1e3) : fmt::format("{:.4g} s", value);
    case Unit::bytes: {
      int step = 0;
      for (; value >= 1023.5 && step < 4; ++step) value /= 1024;
      static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
      return fmt::format("{:.4g} {}", value, kUnits[step]);
    }
    case Unit::error:
      return value < 0.9e-3 ? fmt::format("{:.0e}", value) : fmt::format("{:.4g}", value);
    case Unit::share:
      return fmt::format("{:.1f}", value);
    case Unit::value:
      return fmt::format("{:.4g}", std::fabs(value) < 1e-9 ? 0.0 : value);
    case Unit::length:
      break;
  }
  return fmt::format("{:.0f}", value);
}

/// Powers of ten, with 2 and 5 between them where there is room; powers of two for bytes, fifths for shares.
std::vector<Tick> ticks_of(Unit unit, const Axis& axis) {
  std::vector<Tick> ticks;
  if (unit == Unit::share) {
    for (int fifth = 0; fifth <= 5; ++fifth) ticks.push_back({fifth / 5.0});
    return ticks;
  }
  if (unit == Unit::bytes) {
    const double octaves = std::log2(axis.high() / axis.low());
    const double step = octaves > 21 ? 10 : octaves > 10 ? 4 : octaves > 4 ? 2 : 1;
    for (double e = std::ceil(std::log2(axis.low()) / step) * step; e <= std::log2(axis.high()); e += step)
      ticks.push_back({std::exp2(e)});
    return ticks;
  }
  const double decades = unit == Unit::value ? 0 : std::log10(axis.high() / axis.low());
  if (decades < 1) {
    // Linear, or too little for powers of ten: round steps, about five of them.
    const double size = std::pow(10.0, std::floor(std::log10((axis.high() - axis.low()) / 4)));
    const double parts = (axis.high() - axis.low()) / 4 / size, step = size * (parts < 2 ? 1 : parts < 5 ? 2 : 5);
    for (double value = std::ceil(axis.low() / step) * step; axis.holds(value); value += step) ticks.push_back({value});
    return ticks;
  }
  for (int e = static_cast<int>(std::floor(std::log10(axis.low()))); e <= std::ceil(std::log10(axis.high())); ++e) {
    for (const int m : {1, 2, 5}) {
      const double value = m * std::pow(10.0, e);
      if (axis.holds(value)) ticks.push_back({value, m == 1 || decades < 2.5});
    }
  }
  return ticks;
}

std::pair<double, double> range_of(const std::vector<Series>& series, bool of_x) {
  double low = INFINITY, high = -INFINITY;
  for (const auto& s : series) {
    for (const auto& [x, y] : s.points) {
      const double value = of_x ? x : y;
      low = std::min(low, value), high = std::max(high, value);
    }
  }
  return low <= high ? std::pair{low, high} : std::pair{1.0, 2.0};
}

struct Frame {
  Axis x, y;
  double right;
};

Frame frame_of(const PlotAxes& axes, const std::vector<Series>& series, double right) {
  const double bottom = axes.y_downwards ? kTop : kBottom, top = axes.y_downwards ? kBottom : kTop;
  return {Axis(axes.x, range_of(series, true), kLeft, right), Axis(axes.y, range_of(series, false), bottom, top),
          right};
}

void draw_frame(Svg& svg, const PlotAxes& axes, const Frame& f, const std::vector<Tick>& x_ticks) {
  for (const auto& tick : ticks_of(axes.y, f.y)) {
    const double y = f.y.at(tick.value);
    svg.line({kLeft, y}, {f.right, y}, tick.named ? "grid" : "grid minor");
    if (tick.named) svg.text({kLeft - 8, y + 4}, tick_text(axes.y, tick.value), "tick", Anchor::end);
  }
  for (const auto& tick : x_ticks) {
    const double x = f.x.at(tick.value);
    svg.line({x, kTop}, {x, kBottom}, tick.named ? "grid" : "grid minor");
    if (tick.named) svg.text({x, kBottom + 18}, tick_text(axes.x, tick.value), "tick", Anchor::middle);
  }
  svg.line({kLeft, kBottom}, {f.right, kBottom}, "axis");
  svg.line({kLeft, kTop}, {kLeft, kBottom}, "axis");
  svg.text({(kLeft + f.right) / 2, kBottom + 42}, axes.x_label, "label", Anchor::middle);
  svg.upright_text({16, (kTop + kBottom) / 2}, axes.y_label, "label");
}

std::string classes(const char* kind, const SeriesStyle& style) {
  return fmt::format("{} {} {}", kind, style.colour(), style.dashes());
}

std::string tooltip_of(const Series& s, size_t i) { return i < s.tooltips.size() ? s.tooltips[i] : s.name; }

/// Heights for labels that want to stand at `wanted`, apart from each other and inside the frame; in the same order.
std::vector<double> spread(std::vector<double> wanted) {
  std::vector<size_t> order(wanted.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return wanted[a] < wanted[b]; });
  const double gap = std::min(kLabelGap, (kBottom - kTop) / std::max<double>(1, static_cast<double>(wanted.size())));
  for (size_t i = 1; i < order.size(); ++i) wanted[order[i]] = std::max(wanted[order[i]], wanted[order[i - 1]] + gap);
  double limit = kBottom;
  for (size_t i = order.size(); i-- > 0; limit = wanted[order[i]] - gap)
    wanted[order[i]] = std::min(wanted[order[i]], limit);
  return wanted;
}

struct Box {
  double left, top, right, bottom;
  double overlap(const Box& o) const {
    return std::max(0.0, std::min(right, o.right) - std::max(left, o.left)) *
           std::max(0.0, std::min(bottom, o.bottom) - std::max(top, o.top));
  }
};

}  // namespace

std::string line_plot(const PlotAxes& axes, const std::vector<Series>& series, const std::vector<double>& ticks) {
  const Frame f = frame_of(axes, series, kLineRight);
  Svg svg(kWidth, kHeight, axes.title);
  std::vector<Tick> x_ticks;
  for (const double tick : ticks) x_ticks.push_back({tick});
  draw_frame(svg, axes, f, x_ticks);

  std::vector<Point> stairs;
  for (const auto& [x, y] : axes.front) {
    if (!stairs.empty()) stairs.emplace_back(f.x.at(x), stairs.back().second);
    stairs.emplace_back(f.x.at(x), f.y.at(y));
  }
  if (stairs.size() > 1) svg.polyline(stairs, "front");

  std::vector<const Series*> named;
  std::vector<double> wanted;
  // What stands in the background is drawn first.
  for (const bool background : {true, false}) {
    for (const auto& s : series) {
      if (s.points.empty() || (s.style.index < 0) != background) continue;
      std::vector<Point> path;
      for (const auto& [x, y] : s.points) path.emplace_back(f.x.at(x), f.y.at(y));
      svg.polyline(path, classes("series", s.style));
      for (size_t i = 0; i < path.size(); ++i)
        svg.marker(s.style.marker(), path[i], background ? 2.5 : kMarkerSize, classes("point", s.style),
                   tooltip_of(s, i));
      if (background) continue;
      named.push_back(&s);
      wanted.push_back(path.back().second);
    }
  }
  if (axes.ring)
    svg.marker(Marker::circle, {f.x.at(axes.ring->first), f.y.at(axes.ring->second)}, 2 * kMarkerSize, "ring",
               "chosen");
  const auto heights = spread(wanted);
  for (size_t i = 0; i < named.size(); ++i) {
    const auto& s = *named[i];
    const Point last{f.x.at(s.points.back().first), f.y.at(s.points.back().second)};
    svg.polyline({{last.first + 7, last.second},
                  {kLineRight + 6, last.second},
                  {kLineRight + 22, heights[i]},
                  {kLineRight + 28, heights[i]}},
                 "leader " + s.style.colour());
    svg.marker(s.style.marker(), {kLineRight + 34, heights[i]}, 3.6, classes("point", s.style), s.name);
    svg.text({kLineRight + 43, heights[i] + 4}, s.name, "name");
  }
  return svg.str();
}

std::string scatter_plot(const PlotAxes& axes, const std::vector<Series>& series) {
  const Frame f = frame_of(axes, series, kScatterRight);
  Svg svg(kWidth, kHeight, axes.title);
  draw_frame(svg, axes, f, ticks_of(axes.x, f.x));

  std::vector<Box> taken;
  for (const auto& s : series) {
    if (s.points.empty()) continue;
    const Point p{f.x.at(s.points[0].first), f.y.at(s.points[0].second)};
    svg.marker(s.style.marker(), p, s.style.index < 0 ? 3 : kMarkerSize + 1, classes("point", s.style),
               tooltip_of(s, 0));
    for (size_t i = 1; i < s.points.size(); ++i)
      svg.marker(s.style.marker(), {f.x.at(s.points[i].first), f.y.at(s.points[i].second)}, kMarkerSize / 2,
                 classes("point", s.style), tooltip_of(s, i));
    taken.push_back({p.first - 7, p.second - 7, p.first + 7, p.second + 7});
  }
  for (const auto& s : series) {
    if (s.points.empty() || s.style.index < 0) continue;
    const Point p{f.x.at(s.points[0].first), f.y.at(s.points[0].second)};
    const double width = kCharacter * static_cast<double>(s.name.size());
    Box best{};
    double least = INFINITY;
    // Beside, above, below, then farther away.
    for (const double distance : {1.0, 1.9, 2.8, 3.7}) {
      for (const auto& [dx, dy] : {Point{1, 0}, {-1, 0}, {1, -1}, {1, 1}, {-1, -1}, {-1, 1}, {0, -1}, {0, 1}}) {
        const double left = dx > 0 ? p.first + 10 : dx < 0 ? p.first - 10 - width : p.first - width / 2;
        const double middle = p.second + dy * 15 * distance;
        const Box box{left, middle - 7, left + width, middle + 7};
        double cost = 0.4 * (distance - 1);
        for (const auto& other : taken) cost += box.overlap(other);
        cost += 1e3 * (std::max(0.0, kLeft + 2 - box.left) + std::max(0.0, box.right - kScatterRight) +
                       std::max(0.0, kTop - box.top) + std::max(0.0, box.bottom - kBottom));
        if (cost < least - 1e-9) least = cost, best = box;
      }
    }
    taken.push_back(best);
    const double middle = (best.top + best.bottom) / 2;
    if (std::fabs(middle - p.second) > 20)
      svg.line({p.first, p.second + (middle > p.second ? 8 : -8)},
               {std::clamp(p.first, best.left, best.right), middle > p.second ? best.top : best.bottom},
               "leader " + s.style.colour());
    svg.text({best.left, middle + 4}, s.name, "name");
  }
  return svg.str();
}

}  // namespace heed::bench
