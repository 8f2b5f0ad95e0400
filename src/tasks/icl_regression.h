// Linear regression in context (Garg et al., arXiv 2208.01066): a new linear function in every sample.
#pragma once

#include "tasks/learned_task.h"

namespace heed::tasks {

/// w and x_i ~ N(0, I_d), y_i = w . x_i + noise. Vectors x_1 y_1 x_2 y_2 ..., x in the first d channels and y in the
/// last; y_i is asked for where x_i stands. Errors are in units of sqrt(d), the deviation of y, so that they fall from
/// 1 to, without noise, 0 behind d pairs.
class IclRegressionTask final : public LearnedTask {
 public:
  explicit IclRegressionTask(const nlohmann::json& parameters);
  Face face() const override;
  double chance() const override;
  /// Of least squares, without noise: the mean over positions of 1 - k / d behind k < d pairs, of 0 behind more.
  std::optional<double> ideal() const override;
  Example example(Split split, uint64_t index) const override;
  static std::vector<Parameter> parameters();

 private:
  int64_t dim_, points_;
  double noise_;
  bool last_;
};

}  // namespace heed::tasks
