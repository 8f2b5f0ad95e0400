#include "heed/names.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

namespace heed {
namespace {

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t up = row[j];
      row[j] = std::min({up + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = up;
    }
  }
  return row[b.size()];
}

}  // namespace

std::vector<std::string> nearest_names(std::string_view name, const std::vector<std::string>& known, size_t most,
                                       double within) {
  std::vector<std::pair<size_t, std::string>> ranked;
  for (const auto& candidate : known) {
    const bool part = name.size() >= 3 && candidate.find(name) != std::string::npos;
    // A typo in the beginning of a long name counts as one more.
    const size_t beginning = name.size() < 4 ? candidate.size() : std::min(name.size() + 1, candidate.size());
    const size_t distance = part ? 1
                                 : std::min(edit_distance(name, candidate),
                                            edit_distance(name, std::string_view(candidate).substr(0, beginning)) + 1);
    const double limit = std::max(2.0, within * double(std::max(name.size(), candidate.size())));
    if (double(distance) <= limit) ranked.emplace_back(distance, candidate);
  }
  std::stable_sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> result;
  for (const auto& [distance, candidate] : ranked)
    if (result.size() < most) result.push_back(candidate);
  return result;
}

std::string suggest(std::string_view name, const std::vector<std::string>& known) {
  constexpr size_t kShortList = 32;
  const auto near = nearest_names(name, known);
  if (!near.empty()) return fmt::format("did you mean {}?", fmt::join(near, ", "));
  if (known.size() <= kShortList) return fmt::format("known are {}", fmt::join(known, ", "));
  return fmt::format("of {} known names the nearest are {}", known.size(),
                     fmt::join(nearest_names(name, known, 5, 1), ", "));
}

}  // namespace heed
