#include "heed/assets.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "heed/error.h"

namespace heed::assets_test {
namespace {

TEST(Assets, AreFoundWhereTheEnvironmentSays) {
  const auto folder = std::filesystem::temp_directory_path() / ("heed-assets-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder / "model");
  ::setenv("HEED_ASSETS", folder.c_str(), 1);
  EXPECT_EQ(find_asset("model"), folder / "model");
  try {
    find_asset("other");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find((folder / "other").string()), std::string::npos);
  }
  ::unsetenv("HEED_ASSETS");
  std::filesystem::remove_all(folder);
}

TEST(Assets, AMissingOneNamesThePlacesAndTheVariable) {
  ::unsetenv("HEED_ASSETS");
  try {
    find_asset("no-such-asset");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("assets/no-such-asset"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("HEED_ASSETS"), std::string::npos);
  }
}

}  // namespace
}  // namespace heed::assets_test
