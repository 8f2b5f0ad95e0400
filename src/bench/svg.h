// Scalable vector graphics, written as text: a few shapes, nothing that runs.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace heed::bench {

/// `text` as it may stand between tags and in quoted attributes of XML and HTML: the five special characters as
/// entities, control characters that XML forbids as spaces.
std::string escape_xml(std::string_view text);

using Point = std::pair<double, double>;  ///< x to the right, y down, in pixels

enum class Marker { circle, square, triangle, diamond, down, plus, cross, star };
inline constexpr int kMarkers = 8;

enum class Anchor { start, middle, end };

/// One drawing. Classes are the style sheet's business.
class Svg {
 public:
  Svg(double width, double height, std::string_view title);

  void line(Point from, Point to, std::string_view classes);
  void polyline(const std::vector<Point>& points, std::string_view classes);
  void rectangle(Point corner, double width, double height, std::string_view classes);
  void text(Point at, std::string_view text, std::string_view classes, Anchor anchor = Anchor::start);
  /// Text that reads upwards.
  void upright_text(Point at, std::string_view text, std::string_view classes);
  /// A shape of about 2 * size, with what is shown where a pointer rests on it.
  void marker(Marker shape, Point at, double size, std::string_view classes, std::string_view tooltip);
  /// Everything up to `close` shares the classes.
  void open(std::string_view classes);
  void close();

  /// The element, as it may stand in a page or, being a document of its own, in a file.
  std::string str() const { return body_ + "</svg>\n"; }

 private:
  std::string body_;
};

}  // namespace heed::bench
