#include "heed/tasks/metrics.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "heed/error.h"

namespace heed::tasks {
namespace {

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\n\r");
  return begin == text.npos ? std::string_view() : text.substr(begin);
}

int64_t found(std::string_view output, std::span<const std::string> references) {
  require(!references.empty(), "an answer cannot be judged without references");
  const std::string text = lower(output);
  return std::count_if(references.begin(), references.end(),
                       [&](const std::string& reference) { return text.find(lower(reference)) != text.npos; });
}

}  // namespace

double match_all(std::string_view output, std::span<const std::string> references) {
  return static_cast<double>(found(output, references)) / static_cast<double>(references.size());
}

double match_any(std::string_view output, std::span<const std::string> references) {
  return found(output, references) > 0 ? 1 : 0;
}

double exact(std::string_view output, std::string_view reference) {
  return trimmed(output).starts_with(trimmed(reference)) ? 1 : 0;
}

Interval wilson(int64_t right, int64_t count) {
  require(count > 0 && right >= 0 && right <= count, "{} right answers of {}", right, count);
  constexpr double kZ = 1.959963984540054;
  const double n = static_cast<double>(count), p = static_cast<double>(right) / n, z2 = kZ * kZ;
  const double middle = (p + z2 / (2 * n)) / (1 + z2 / n);
  const double half = kZ * std::sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n);
  return {std::max(0.0, middle - half), std::min(1.0, middle + half)};
}

int64_t edit_distance(std::span<const int64_t> a, std::span<const int64_t> b) {
  std::vector<int64_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), int64_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    int64_t diagonal = row[0]++;
    for (size_t j = 0; j < b.size(); ++j) {
      const int64_t exchanged = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({exchanged, diagonal + 1, row[j] + 1});
    }
  }
  return row.back();
}

int64_t effective_context(std::span<const int64_t> sizes, std::span<const double> accuracy, double threshold) {
  require(sizes.size() == accuracy.size(), "{} sizes and {} accuracies", sizes.size(), accuracy.size());
  int64_t largest = 0;
  for (size_t i = 0; i < sizes.size(); ++i)
    if (accuracy[i] >= threshold) largest = std::max(largest, sizes[i]);
  return largest;
}

}  // namespace heed::tasks
