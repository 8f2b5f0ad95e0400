// Words that are counted: RULER's aggregation tasks.
#pragma once

#include "heed/tasks/task.h"
#include "tasks/wording.h"

namespace heed::tasks {

/// Common words: a numbered list in which ten words stand much more often than the others; asked for are the ten.
class CommonWordsTask final : public TextTask {
 public:
  CommonWordsTask(const nlohmann::json& parameters, TokenCount tokens);
  const std::string& name() const override { return name_; }
  /// The share of the common words among the different words of the first test sample.
  double chance() const override;
  TaskSample sample(Split split, uint64_t index) const override;
  int64_t answer_bytes() const override;
  static std::vector<Parameter> parameters();

 private:
  std::string name_ = "cwe";
  TokenCount tokens_;
  std::optional<Wording> wording_;
  bool tiny_;
  int64_t max_tokens_, common_, common_times_, other_times_;
  uint64_t seed_;
};

/// Frequent words: coded words whose counts fall as a power of their rank, the first rank blotted out by "..."; asked
/// for are ranks 2 to 4.
class FrequentWordsTask final : public TextTask {
 public:
  FrequentWordsTask(const nlohmann::json& parameters, TokenCount tokens);
  const std::string& name() const override { return name_; }
  /// Three among the different words of the first test sample.
  double chance() const override;
  TaskSample sample(Split split, uint64_t index) const override;
  int64_t answer_bytes() const override { return 3 * (word_length_ + 2) - 2 + (wording_ ? 1 : 0); }
  static std::vector<Parameter> parameters();

 private:
  std::string name_ = "fwe";
  TokenCount tokens_;
  std::optional<Wording> wording_;
  double power_;
  int64_t max_tokens_, word_length_;
  uint64_t seed_;
};

}  // namespace heed::tasks
