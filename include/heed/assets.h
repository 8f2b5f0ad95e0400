// Files that come with heed: the tiny model that examples and comparisons use when no other is named.
#pragma once

#include <filesystem>
#include <string_view>

namespace heed {

/// The file or folder `name` of the assets. Looked for in the folder HEED_ASSETS names when that is set; else in
/// share/heed beside the program's own bin, else in the source tree the build was made from. Throws heed::Error that
/// lists the places when it is in none.
std::filesystem::path find_asset(std::string_view name);

}  // namespace heed
