// Help for a mistyped name: the nearest known ones.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace heed {

/// Up to `most` of `known` nearest to `name` by edit distance, best first; only those within a share of the length, by
/// default what a typo could explain.
std::vector<std::string> nearest_names(std::string_view name, const std::vector<std::string>& known, size_t most = 3,
                                       double within = 1.0 / 3);

/// "did you mean a, b?" or, with nothing near, "known are a, b, c", or the nearest of a long list.
std::string suggest(std::string_view name, const std::vector<std::string>& known);

}  // namespace heed
