// Sums that begin again: what came before a reset has to be forgotten at once.
#pragma once

#include "tasks/learned_task.h"

namespace heed::tasks {

/// Tokens 0 .. digits - 1 are numbers, token `digits` is a reset, which stands first and then at each place with a
/// chance of `resets`. The answer at every position is the sum of the numbers since the last reset; errors are in units
/// of the largest number.
class ResetSumTask final : public LearnedTask {
 public:
  explicit ResetSumTask(const nlohmann::json& parameters);
  Face face() const override;
  /// Of the mean answer at each position, over the first 1000 validation samples.
  double chance() const override;
  std::optional<double> ideal() const override { return 0.0; }
  Example example(Split split, uint64_t index) const override;
  static std::vector<Parameter> parameters();

 private:
  int64_t length_, digits_;
  double resets_;
};

}  // namespace heed::tasks
