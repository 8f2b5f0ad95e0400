// Algorithms over short lists of numbers (Positional Attention, arXiv 2410.01686): what is learned of them on small
// numbers should hold for large ones.
#pragma once

#include "tasks/learned_task.h"

namespace heed::tasks {

/// Numbers x_1..x_n, and an empty position behind them. At position j the answer is the sum, the least, the largest,
/// the median (the mean of the middle two) or the largest sum of a run of neighbours of x_1..x_j, or the j-th smallest
/// of all. A sample's numbers lie in a range of its own, whose ends are uniform in (-2 scale, 2 scale); beyond scale 1
/// it reaches out of (-2, 2). Errors are in units of scale.
class AlgoTask final : public LearnedTask {
 public:
  enum class Function { sum, min, max, median, sort, maxsub };

  explicit AlgoTask(const nlohmann::json& parameters);
  Face face() const override;
  /// Of the mean answer at each position, over the first 1000 validation samples.
  double chance() const override;
  Example example(Split split, uint64_t index) const override;
  static std::vector<Parameter> parameters();

 private:
  Function function_;
  int64_t numbers_;
  double scale_, step_;
};

}  // namespace heed::tasks
