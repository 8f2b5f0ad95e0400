// ListOps (Nangia and Bowman, 2018), as Long Range Arena draws it: the value of a nested list expression.
#pragma once

#include "tasks/learned_task.h"

namespace heed::tasks {

/// A node is an operator with probability 1/4 where the depth allows it, else a digit. Operators are MIN, MAX, MED (the
/// median, its fraction cut off) and SM (the sum modulo 10) of 2 to max_args nodes.
class ListOpsTask final : public LearnedTask {
 public:
  /// Tokens: 0 fills up, 1 to 10 are the digits 0 to 9, then [MIN, [MAX, [MED, [SM and ].
  static constexpr int64_t kDigit = 1, kOperator = 11, kClose = 15, kVocabulary = 16;

  explicit ListOpsTask(const nlohmann::json& parameters);
  Face face() const override;
  /// The commonest answer's share of the first 1000 validation samples.
  double chance() const override;
  Example example(Split split, uint64_t index) const override;
  static std::vector<Parameter> parameters();

 private:
  int64_t node(Random& random, int64_t depth, std::vector<int64_t>& tokens) const;

  int64_t max_depth_, max_args_, min_length_, max_length_;
};

}  // namespace heed::tasks
