// Pictures from strangers' files, and PNGs of heed's own.
#include "heed/formats/picture.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "heed/error.h"

namespace heed::formats::picture_test {
namespace {

std::filesystem::path fixture(const char* name) {
  return std::filesystem::path(HEED_TEST_SOURCE_DIR) / "formats/fixtures" / name;
}

std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

Picture parse(const std::string& bytes) { return parse_picture(std::as_bytes(std::span(bytes)), "here.png"); }

void expect_colour(const uint8_t* pixel, int red, int green, int blue, int tolerance) {
  EXPECT_NEAR(pixel[0], red, tolerance);
  EXPECT_NEAR(pixel[1], green, tolerance);
  EXPECT_NEAR(pixel[2], blue, tolerance);
}

TEST(Picture, PngsComeBackAsTheyWere) {
  Picture picture{5, 7, {}};
  for (int i = 0; i < 105; ++i) picture.rgb.push_back(static_cast<uint8_t>(37 * i));
  const auto again = parse(png_of(picture));
  EXPECT_EQ(again.height, 5);
  EXPECT_EQ(again.width, 7);
  EXPECT_EQ(again.rgb, picture.rgb);
  const auto path = std::filesystem::temp_directory_path() / "heed_picture_test.png";
  write_png(path, picture);
  EXPECT_EQ(read_picture(path).rgb, picture.rgb);
  std::filesystem::remove(path);
}

TEST(Picture, JpegsHaveTheirColours) {
  const auto halves = read_picture(fixture("halves.jpg"));
  ASSERT_EQ(halves.height, 16);
  ASSERT_EQ(halves.width, 32);
  expect_colour(halves.at(8, 2), 220, 40, 10, 6);
  expect_colour(halves.at(15, 29), 10, 60, 200, 6);
  const auto grey = read_picture(fixture("grey.jpg"));
  ASSERT_EQ(grey.width, 16);
  expect_colour(grey.at(4, 1), 50, 50, 50, 6);
  expect_colour(grey.at(4, 14), 200, 200, 200, 6);
}

TEST(Picture, TransparentPixelsLieOnWhite) {
  const auto picture = read_picture(fixture("transparent16.png"));
  ASSERT_EQ(picture.width, 2);
  expect_colour(picture.at(0, 0), 255, 0, 0, 0);
  expect_colour(picture.at(0, 1), 255, 255, 255, 0);
}

TEST(Picture, BrokenFilesAreNamed) {
  for (const char* name : {"halves.jpg", "transparent16.png"}) {
    const auto whole = bytes_of(fixture(name));
    for (const double share : {0.02, 0.5, 0.9}) {
      const auto cut = whole.substr(0, static_cast<size_t>(share * double(whole.size())));
      try {
        parse(cut);
        FAIL() << name << " cut to " << cut.size();
      } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("here.png"), std::string::npos) << error.what();
      }
    }
  }
  EXPECT_THROW(parse(""), Error);
  EXPECT_THROW(parse("GIF89a"), Error);
  EXPECT_THROW(read_picture("/nowhere/none.png"), Error);
  EXPECT_THROW(png_of({2, 2, {0, 0, 0}}), Error);
}

}  // namespace
}  // namespace heed::formats::picture_test
