// A stream of events in continuous time, each with a mark, in which events call forth others (Hawkes, 1971).
#pragma once

#include "tasks/learned_task.h"

namespace heed::tasks {

/// Mark m occurs at rate base + sum over the events before of a * decay * exp(-decay * age), with a = repeat after
/// events of the same mark and a = next after those of mark m - 1 (mod marks). Vectors: the logarithm of the time since
/// the event before (since 0 for the first), that time, and the mark, one-hot. At each event the time to the next and
/// its mark are asked for. Sequences begin with nothing before them, so the true law is known at every event.
class HawkesTask final : public LearnedTask {
 public:
  explicit HawkesTask(const nlohmann::json& parameters);
  Face face() const override;
  /// Of events that come at their mean rate whatever happened, with marks as frequent as they are.
  double chance() const override;
  /// Of the law the events are drawn from.
  std::optional<double> ideal() const override;
  Example example(Split split, uint64_t index) const override;
  static std::vector<Parameter> parameters();

  struct Event {
    double gap;  ///< since the event before
    int64_t mark;
    double nats;  ///< negative log-likelihood under the true law
  };
  /// The events of a sample.
  std::vector<Event> events(Split split, uint64_t index) const;

 private:
  int64_t count_, marks_;
  double base_, repeat_, next_, decay_;
};

}  // namespace heed::tasks
