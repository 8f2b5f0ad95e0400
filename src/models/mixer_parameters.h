// What the configuration of a mixer may hold.
#pragma once

#include <string_view>

namespace heed {

/// Whether the row of `mixer` names a parameter `key`, which models then fill in from their own configuration.
bool has_parameter(std::string_view mixer, std::string_view key);

}  // namespace heed
