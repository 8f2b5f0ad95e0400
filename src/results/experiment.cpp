#include "heed/results/experiment.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace heed::results {

double Figure::mean() const {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double Figure::least() const { return *std::min_element(values.begin(), values.end()); }

double Figure::most() const { return *std::max_element(values.begin(), values.end()); }

std::string Figure::text() const {
  if (values.size() == 1) return fmt::format("{:.3g}", mean());
  return fmt::format("{:.3g} ({:.3g} to {:.3g})", mean(), least(), most());
}

const char* to_string(Outcome outcome) {
  switch (outcome) {
    case Outcome::came_out:
      return "came out";
    case Outcome::on_the_mean:
      return "on the mean only";
    case Outcome::did_not:
      return "did not come out";
  }
  return "";
}

Claim exceeds(const Figure& more, const Figure& less, double factor) {
  const bool always = more.least() > factor * less.most(), mean = more.mean() > factor * less.mean();
  return {factor == 1 ? fmt::format("{} above {}", more.name, less.name)
                      : fmt::format("{} at least {:g} times {}", more.name, factor, less.name),
          always ? Outcome::came_out : (mean ? Outcome::on_the_mean : Outcome::did_not),
          fmt::format("{} against {}", more.text(), less.text())};
}

Claim reaches(const Figure& close, const Figure& other, double margin) {
  const bool always = close.least() >= other.most() - margin, mean = close.mean() >= other.mean() - margin;
  return {fmt::format("{} within {:g} of {} or above", close.name, margin, other.name),
          always ? Outcome::came_out : (mean ? Outcome::on_the_mean : Outcome::did_not),
          fmt::format("{} against {}", close.text(), other.text())};
}

Claim holds(std::string text, bool outcome, std::string figures) {
  return {std::move(text), outcome ? Outcome::came_out : Outcome::did_not, std::move(figures)};
}

}  // namespace heed::results
