// A page of results: the findings of experiments, kept in a file between runs, and told in Markdown.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "heed/results/experiment.h"

namespace heed::results {

/// A finding and what it was found with.
struct Entry {
  Finding finding;
  std::string commit;
  int threads = 0;
  double seconds = 0;
};

/// The findings of a page, by experiment.
class ResultsPage {
 public:
  /// `name`: of a page that there is.
  explicit ResultsPage(std::string name);

  /// Reads DIRECTORY/NAME.json where there is one. Throws heed::Error for a file that is none of save()'s.
  void load(const std::filesystem::path& directory);
  /// Writes DIRECTORY/NAME.json, and DIRECTORY/NAME.md for a reader.
  void save(const std::filesystem::path& directory) const;

  /// Runs an experiment and keeps what it found.
  const Entry& run(const Experiment& experiment, const Report& report);

  /// What is known of an experiment; null: nothing.
  const Entry* find(const std::string& experiment) const;

  nlohmann::ordered_json to_json() const;
  std::string markdown() const;

 private:
  std::string name_;
  std::map<std::string, Entry> entries_;
};

}  // namespace heed::results
