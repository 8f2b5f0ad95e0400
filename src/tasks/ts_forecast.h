// Forecasts of a series of several channels: trends, seasons, noise with a memory, and channels that follow each other.
#pragma once

#include "tasks/learned_task.h"

namespace heed::tasks {

/// One long series, cut by time into 70 % for training, 10 % for validation and 20 % for the test, standardised with
/// the deviation of the first. Channel c is a trend, three sines, noise that keeps 0.7 of itself from one step to the
/// next, and 0.8 of channel c - 1 some steps before (1 to 24). A sample is a window; at each of its steps, in training,
/// and at the last alone otherwise, the next `horizon` steps of all channels are asked for.
class TsForecastTask final : public LearnedTask {
 public:
  explicit TsForecastTask(const nlohmann::json& parameters);
  Face face() const override;
  /// Of the last value, repeated.
  double chance() const override;
  Example example(Split split, uint64_t index) const override;
  int64_t size(Split split) const override;
  static std::vector<Parameter> parameters();

 private:
  double at(int64_t step, int64_t channel) const { return series_[static_cast<size_t>(step * channels_ + channel)]; }
  /// The first step of window `index` of a split.
  int64_t begin_of(Split split, uint64_t index) const;
  int64_t windows(Split split) const;
  void generate();

  int64_t context_, horizon_, channels_, length_;
  std::vector<double> series_;
};

}  // namespace heed::tasks
