// Drawings and pages: valid whatever the names are, legible where many lines end together.
#include "bench/svg.h"

#include <gtest/gtest.h>

#include <cmath>
#include <regex>

#include "bench/plot.h"
#include "bench/units.h"
#include "support/xml_check.h"

namespace heed::bench::svg_test {
namespace {

using testing::xml_complaint;

TEST(XmlCheck, TellsGoodFromBad) {
  EXPECT_EQ(xml_complaint("<a b=\"c\"><d/>text &amp; more</a>"), "");
  for (const char* bad :
       {"<a>", "<a></b>", "<a b=c></a>", "a & b", "<a b=\"<\"></a>", "<a b=\"&\"></a>", "</a>", "< a></a>"})
    EXPECT_NE(xml_complaint(bad), "") << bad;
}

TEST(Svg, EscapesWhatMarkupWouldRead) {
  EXPECT_EQ(escape_xml("<script>\"a\" & 'b'</script>"), "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;&lt;/script&gt;");
  EXPECT_EQ(escape_xml(std::string("a\0b\x01"
                                   "c",
                                   5)),
            "a b c");
}

TEST(Svg, IsWellFormedWhateverTheNames) {
  const std::string evil = "\"><script>alert('&')</script>";
  Svg svg(100, 50, evil);
  svg.open(evil);
  svg.line({0, 0}, {1, 1}, evil);
  svg.polyline({{0, 0}, {1, 2}, {3, 4}}, evil);
  svg.rectangle({1, 2}, 3, 4, evil);
  svg.text({0, 0}, evil, evil, Anchor::end);
  svg.upright_text({0, 0}, evil, evil);
  for (int m = 0; m < kMarkers; ++m) svg.marker(static_cast<Marker>(m), {5, 5}, 3, evil, evil);
  svg.close();
  EXPECT_EQ(xml_complaint(svg.str()), "");
  EXPECT_EQ(svg.str().find("<script"), std::string::npos);
}

std::vector<Series> many_series(int count) {
  std::vector<Series> all;
  for (int i = 0; i < count; ++i) {
    Series s{"mechanism " + std::to_string(i), {i < kStyles ? i : -1}, {}, {}};
    for (const double n : {256, 1024, 4096}) s.points.emplace_back(n, 1e-4 * n * (1 + 0.001 * i));
    all.push_back(s);
  }
  return all;
}

std::vector<double> name_heights(const std::string& svg) {
  std::vector<double> heights;
  const std::regex name("class=\"name\" x=\"[^\"]*\" y=\"([^\"]*)\"");
  for (auto it = std::sregex_iterator(svg.begin(), svg.end(), name); it != std::sregex_iterator(); ++it)
    heights.push_back(std::stod((*it)[1]));
  return heights;
}

TEST(Plot, NamesOfLinesThatEndTogetherStandApart) {
  const auto svg = line_plot({"t", "x", "y"}, many_series(14), {256, 1024, 4096});
  EXPECT_EQ(xml_complaint(svg), "");
  auto heights = name_heights(svg);
  ASSERT_EQ(heights.size(), 14u);
  std::sort(heights.begin(), heights.end());
  for (size_t i = 1; i < heights.size(); ++i) EXPECT_GE(heights[i] - heights[i - 1], 12);
  EXPECT_GE(heights.front(), 0);
  EXPECT_LE(heights.back(), 430);
}

TEST(Plot, SeriesBeyondTheStylesStandInTheBackgroundWithoutNames) {
  const auto svg = line_plot({"t", "x", "y"}, many_series(kStyles + 9), {256, 1024, 4096});
  EXPECT_EQ(name_heights(svg).size(), size_t(kStyles));
  EXPECT_NE(svg.find("muted"), std::string::npos);
}

TEST(Plot, NoTwoStylesLookAlike) {
  for (int a = 0; a < kStyles; ++a) {
    for (int b = 0; b < a; ++b) {
      const SeriesStyle x{a}, y{b};
      // A line shows all three, a point the first two.
      EXPECT_TRUE(x.colour() != y.colour() || x.marker() != y.marker()) << a << " " << b;
    }
  }
}

TEST(Plot, ASinglePointAndEqualValuesArePlotted) {
  for (const auto& svg :
       {scatter_plot({"t", "x", "y", Unit::seconds, Unit::error, true}, {{"one", {0}, {{1e-3, 0.1}}, {}}}),
        line_plot({"t", "x", "y"}, {{"flat", {0}, {{64, 1}, {128, 1}}, {}}}, {64, 128}),
        line_plot({"t", "x", "y"}, {}, {})}) {
    EXPECT_EQ(xml_complaint(svg), "");
    EXPECT_EQ(svg.find("nan"), std::string::npos);
    EXPECT_EQ(svg.find("inf"), std::string::npos);
  }
}

TEST(Plot, ValuesOfEitherSignStandOnALinearAxis) {
  const auto svg =
      line_plot({"t", "x", "y", Unit::length, Unit::value}, {{"loss", {0}, {{1, -1}, {2, 0}, {3, 3}}, {}}}, {1, 2, 3});
  EXPECT_EQ(xml_complaint(svg), "");
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  for (const char* tick : {">-1<", ">0<", ">2<", ">3<"}) EXPECT_NE(svg.find(tick), std::string::npos) << tick;
}

TEST(Plot, PointsThatOneSumsUpAreDrawnBesideIt) {
  const std::vector<Series> series{{"mean", {0}, {{10, 0.5}, {11, 0.4}, {9, 0.6}}, {"all", "first", "second"}}};
  const auto svg = scatter_plot({"t", "x", "y", Unit::length, Unit::share}, series);
  EXPECT_EQ(xml_complaint(svg), "");
  for (const char* tooltip : {"all", "first", "second"}) EXPECT_NE(svg.find(tooltip), std::string::npos);
  EXPECT_EQ(name_heights(svg).size(), 1u);
}

TEST(Units, ReadLikeFigures) {
  EXPECT_EQ(time_text(12.34e-6), "12.3 us");
  EXPECT_EQ(time_text(1.2345e-3), "1.23 ms");
  EXPECT_EQ(time_text(0.9999), "1.00 s");
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(1536), "1.50 KiB");
  EXPECT_EQ(bytes_text(int64_t{3} << 30), "3.00 GiB");
  EXPECT_EQ(error_text(0.1234), "0.123");
  EXPECT_EQ(error_text(2.34e-7), "2.3e-07");
}

}  // namespace
}  // namespace heed::bench::svg_test
