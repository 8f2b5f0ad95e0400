#include "heed/assets.h"

#include <fmt/format.h>

#include <cstdlib>
#include <vector>

#include "heed/error.h"

namespace heed {

std::filesystem::path find_asset(std::string_view name) {
  std::vector<std::filesystem::path> places;
  if (const char* folder = std::getenv("HEED_ASSETS"); folder != nullptr && *folder != '\0') {
    places.emplace_back(folder);
  } else {
    std::error_code error;
    const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
    if (!error) places.push_back(program.parent_path().parent_path() / HEED_INSTALL_ASSETS);
    places.emplace_back(HEED_SOURCE_ASSETS);
  }
  std::string tried;
  for (const auto& place : places) {
    if (std::filesystem::exists(place / name)) return place / name;
    tried += (tried.empty() ? "" : ", ") + (place / name).string();
  }
  fail("{} is not there: looked for {}; HEED_ASSETS names the folder that holds it", name, tried);
}

}  // namespace heed
