// How an answer in text is judged.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace heed::tasks {

/// Share of the references that occur in the output, letter case aside (RULER's string_match_all).
double match_all(std::string_view output, std::span<const std::string> references);
/// 1 if any reference occurs in the output, letter case aside, else 0.
double match_any(std::string_view output, std::span<const std::string> references);
/// 1 if the output is the reference followed by anything, else 0. Leading blanks of both are ignored.
double exact(std::string_view output, std::string_view reference);

/// 95 % confidence interval of a share of `right` in `count` trials (Wilson, 1927).
struct Interval {
  double low = 0, high = 1;
};
Interval wilson(int64_t right, int64_t count);

/// The fewest insertions, deletions and exchanges that turn one list into the other.
int64_t edit_distance(std::span<const int64_t> a, std::span<const int64_t> b);

/// Needle Threading's measure: the largest of `sizes` at which the accuracy is at least `threshold`; 0 where it is at
/// none. Throws heed::Error for lists of different lengths.
int64_t effective_context(std::span<const int64_t> sizes, std::span<const double> accuracy, double threshold = 0.75);

}  // namespace heed::tasks
