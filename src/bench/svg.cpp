#include "bench/svg.h"

#include <fmt/format.h>

namespace heed::bench {
namespace {

/// A hundredth of a pixel is enough, and keeps files small.
std::string at(Point p) { return fmt::format("{:.5g},{:.5g}", p.first, p.second); }

std::string path_of(Marker shape, Point p, double s) {
  const auto move = [&](double x, double y) { return at({p.first + x * s, p.second + y * s}); };
  switch (shape) {
    case Marker::circle:
      return fmt::format("M{}a{:.4g},{:.4g} 0 1 0 {:.4g},0a{:.4g},{:.4g} 0 1 0 {:.4g},0z", move(-0.95, 0), 0.95 * s,
                         0.95 * s, 1.9 * s, 0.95 * s, 0.95 * s, -1.9 * s);
    case Marker::square:
      return fmt::format("M{}L{}L{}L{}z", move(-0.85, -0.85), move(0.85, -0.85), move(0.85, 0.85), move(-0.85, 0.85));
    case Marker::triangle:
      return fmt::format("M{}L{}L{}z", move(0, -1.15), move(1.1, 0.8), move(-1.1, 0.8));
    case Marker::down:
      return fmt::format("M{}L{}L{}z", move(0, 1.15), move(1.1, -0.8), move(-1.1, -0.8));
    case Marker::diamond:
      return fmt::format("M{}L{}L{}L{}z", move(0, -1.25), move(1.25, 0), move(0, 1.25), move(-1.25, 0));
    case Marker::plus:
      return fmt::format("M{0}L{1}L{2}L{3}L{4}L{5}L{6}L{7}L{8}L{9}L{10}L{11}z", move(-.35, -1.2), move(.35, -1.2),
                         move(.35, -.35), move(1.2, -.35), move(1.2, .35), move(.35, .35), move(.35, 1.2),
                         move(-.35, 1.2), move(-.35, .35), move(-1.2, .35), move(-1.2, -.35), move(-.35, -.35));
    case Marker::cross:
      return fmt::format("M{0}L{1}L{2}L{3}L{4}L{5}L{6}L{7}L{8}L{9}L{10}L{11}z", move(-.65, -1.1), move(0, -.45),
                         move(.65, -1.1), move(1.1, -.65), move(.45, 0), move(1.1, .65), move(.65, 1.1), move(0, .45),
                         move(-.65, 1.1), move(-1.1, .65), move(-.45, 0), move(-1.1, -.65));
    case Marker::star:
      return fmt::format("M{0}L{1}L{2}L{3}L{4}L{5}L{6}L{7}L{8}L{9}z", move(0, -1.35), move(.36, -.45), move(1.28, -.42),
                         move(.57, .2), move(.79, 1.1), move(0, .6), move(-.79, 1.1), move(-.57, .2), move(-1.28, -.42),
                         move(-.36, -.45));
  }
  return {};
}

}  // namespace

std::string escape_xml(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      case '\'':
        result += "&#39;";
        break;
      default:
        result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return result;
}

Svg::Svg(double width, double height, std::string_view title)
    : body_(fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.5g} {:.5g}\" role=\"img\" "
                        "aria-label=\"{}\">\n",
                        width, height, escape_xml(title))) {}

void Svg::line(Point from, Point to, std::string_view classes) {
  body_ += fmt::format("<path class=\"{}\" d=\"M{}L{}\"/>\n", escape_xml(classes), at(from), at(to));
}

void Svg::polyline(const std::vector<Point>& points, std::string_view classes) {
  if (points.size() < 2) return;
  std::string path;
  for (const auto& point : points) path += fmt::format("{}{}", path.empty() ? "M" : "L", at(point));
  body_ += fmt::format("<path class=\"{}\" d=\"{}\"/>\n", escape_xml(classes), path);
}

void Svg::rectangle(Point corner, double width, double height, std::string_view classes) {
  body_ += fmt::format("<rect class=\"{}\" x=\"{:.5g}\" y=\"{:.5g}\" width=\"{:.5g}\" height=\"{:.5g}\"/>\n",
                       escape_xml(classes), corner.first, corner.second, width, height);
}

void Svg::text(Point at, std::string_view text, std::string_view classes, Anchor anchor) {
  static constexpr const char* kAnchors[] = {"start", "middle", "end"};
  body_ += fmt::format("<text class=\"{}\" x=\"{:.5g}\" y=\"{:.5g}\" text-anchor=\"{}\">{}</text>\n",
                       escape_xml(classes), at.first, at.second, kAnchors[static_cast<int>(anchor)], escape_xml(text));
}

void Svg::upright_text(Point at, std::string_view text, std::string_view classes) {
  body_ += fmt::format(
      "<text class=\"{}\" transform=\"translate({:.5g},{:.5g}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
      escape_xml(classes), at.first, at.second, escape_xml(text));
}

void Svg::marker(Marker shape, Point at, double size, std::string_view classes, std::string_view tooltip) {
  body_ += fmt::format("<path class=\"{}\" d=\"{}\"><title>{}</title></path>\n", escape_xml(classes),
                       path_of(shape, at, size), escape_xml(tooltip));
}

void Svg::open(std::string_view classes) { body_ += fmt::format("<g class=\"{}\">\n", escape_xml(classes)); }
void Svg::close() { body_ += "</g>\n"; }

}  // namespace heed::bench
