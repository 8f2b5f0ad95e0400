#include "heed/results/experiment.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace heed::results {

double Figure::mean() const {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double Figure::least() const { return *std::min_element(values.begin(), values.end()); }

double Figure::most() const { return *std::max_element(values.begin(), values.end()); }

double Figure::resolution(const Figure& other) const {
  const double range = std::max(most() - least(), other.most() - other.least());
  const bool single = values.size() == 1 || other.values.size() == 1;
  const double noise = single ? 2 * std::hypot(error, other.error) : 0;
  return std::max({range / 2, 0.005 * std::min(std::abs(mean()), std::abs(other.mean())), noise});
}

std::string Figure::text() const {
  if (values.size() == 1) return fmt::format("{:.3g}", mean());
  return fmt::format("{:.3g} ({:.3g} to {:.3g})", mean(), least(), most());
}

Figure share(std::string name, double value, double samples) {
  return {std::move(name), {value}, std::sqrt(value * (1 - value) / samples)};
}

const char* to_string(Outcome outcome) {
  switch (outcome) {
    case Outcome::came_out:
      return "came out";
    case Outcome::on_the_mean:
      return "on the mean only";
    case Outcome::undecided:
      return "not decided";
    case Outcome::did_not:
      return "did not come out";
  }
  return "";
}

namespace {

/// `above`: by how much one mean lies above where it must.
Outcome outcome_of(bool always, double above, double resolution) {
  if (std::abs(above) <= resolution) return Outcome::undecided;
  return always ? Outcome::came_out : (above > 0 ? Outcome::on_the_mean : Outcome::did_not);
}

}  // namespace

Claim exceeds(const Figure& more, const Figure& less, double factor) {
  auto least = less;
  for (auto& value : least.values) value *= factor;
  least.error *= factor;
  const bool always = more.least() > least.most();
  return {factor == 1 ? fmt::format("{} above {}", more.name, less.name)
                      : fmt::format("{} at least {:g} times {}", more.name, factor, less.name),
          outcome_of(always, more.mean() - least.mean(), more.resolution(least)),
          fmt::format("{} against {}", more.text(), less.text())};
}

Claim reaches(const Figure& close, const Figure& other, double margin) {
  const bool always = close.least() >= other.most() - margin;
  const double above = close.mean() - (other.mean() - margin);
  return {fmt::format("{} within {:g} of {} or above", close.name, margin, other.name),
          // A bound that every seed keeps is kept, however closely; one that is missed by chance is not missed.
          always ? Outcome::came_out : outcome_of(false, above, close.resolution(other)),
          fmt::format("{} against {}", close.text(), other.text())};
}

Claim holds(std::string text, bool outcome, std::string figures) {
  return {std::move(text), outcome ? Outcome::came_out : Outcome::did_not, std::move(figures)};
}

}  // namespace heed::results
