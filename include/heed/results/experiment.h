// What a paper claims, tried at small scale: an experiment runs, shows its figures, and says whether the direction of
// the claim came out.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace heed::results {

/// Figures of one experiment, as a reader sees them: every row has an entry a column.
struct Table {
  std::string title;  ///< empty: the experiment's own title is enough
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows;
};

/// A quantity, measured once a seed.
struct Figure {
  std::string name;
  std::vector<double> values;
  double error = 0;  ///< of a value: the standard error that its test samples leave; 0: not known

  double mean() const;
  double least() const;
  double most() const;
  /// The least difference of means that is told from chance: the wider of both ranges, halved, and at least half a
  /// percent of the smaller mean; of one seed at least two standard errors of the difference.
  double resolution(const Figure& other) const;
  /// "0.982", or "0.982 (0.975 to 0.990)" of several.
  std::string text() const;
};

/// The share of `samples` answers that are right, of one seed.
Figure share(std::string name, double value, double samples);

enum class Outcome {
  came_out,     ///< for every seed against every other
  on_the_mean,  ///< on the mean of the seeds, whose ranges overlap
  undecided,    ///< the means are closer than Figure::resolution
  did_not
};

const char* to_string(Outcome outcome);

/// One direction that the paper's claim implies, and what was measured of it.
struct Claim {
  std::string text;
  Outcome outcome = Outcome::did_not;
  std::string figures;
};

/// Whether `more` exceeds `less` (by a factor, where one is given), seed against seed. Means too close to be told apart
/// decide nothing.
Claim exceeds(const Figure& more, const Figure& less, double factor = 1);
/// Whether `close` is no more than `margin` below `other`, seed against seed.
Claim reaches(const Figure& close, const Figure& other, double margin);
/// Whether a statement that has no two sides holds.
Claim holds(std::string text, bool outcome, std::string figures);

struct Finding {
  std::string setup;  ///< what was run: sizes, steps, seeds, learning rate
  std::vector<Table> tables;
  std::vector<Claim> claims;
};

/// How far an experiment is, from 0 to 1, and what it does next.
using Report = std::function<void(double share, const std::string& next)>;

struct Experiment {
  std::string name;                     ///< of the command line
  std::string title;                    ///< of the page
  std::vector<std::string> mechanisms;  ///< the mechanisms it is about, by their names in the registry
  std::string claim;                    ///< the paper's, in a sentence
  std::function<Finding(const Report&)> run;
  bool timed = false;  ///< compares times, so nothing runs beside it
};

/// The pages there are: "linear", "sparse", "vision".
std::vector<std::string> pages();
/// The experiments of a page, in its order; throws heed::Error for a page that there is not.
std::span<const Experiment> experiments(std::string_view page);

}  // namespace heed::results
