// The frame of every page heed writes: one self-contained file, no script, nothing to download, light and dark.
#pragma once

#include <string>
#include <string_view>

namespace heed::bench {

/// `subtitle` and `footer` are text, `body` is HTML.
std::string page(std::string_view title, std::string_view heading, std::string_view subtitle, std::string_view body,
                 std::string_view footer);

}  // namespace heed::bench
