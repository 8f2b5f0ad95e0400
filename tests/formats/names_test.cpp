// Suggestions for mistyped names.
#include "heed/names.h"

#include <gtest/gtest.h>

namespace heed::names_test {
namespace {

TEST(Names, ATypoFindsItsName) {
  EXPECT_EQ(suggest("flahs", {"flash", "decode", "select"}), "did you mean flash?");
  EXPECT_EQ(suggest("attn", {"attn_stats", "flash"}), "did you mean attn_stats?");
  EXPECT_EQ(suggest("streming", {"full", "streaming_llm"}), "did you mean streaming_llm?");
}

TEST(Names, AShortListIsShownWhole) { EXPECT_EQ(suggest("nothing", {"a", "b"}), "known are a, b"); }

TEST(Names, OfALongListTheNearestAreShown) {
  std::vector<std::string> known;
  for (int i = 0; i < 100; ++i) known.push_back("mechanism_" + std::to_string(i));
  known.push_back("nopales");
  EXPECT_EQ(suggest("nox", known).substr(0, 47), "of 101 known names the nearest are nopales, mec");
}

}  // namespace
}  // namespace heed::names_test
