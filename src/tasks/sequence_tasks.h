// Sequences of random symbols to be copied, picked or continued.
#pragma once

#include "heed/tasks/task.h"

namespace heed::tasks {

/// What these tasks share: a length, an alphabet, and an answer that must be exact.
class SequenceTask : public TextTask {
 public:
  enum class Kind { copy, selective_copy, induction, repeat };

  SequenceTask(Kind kind, const nlohmann::json& parameters);
  const std::string& name() const override { return name_; }
  double chance() const override;
  double metric_chance() const override { return 1.0 / static_cast<double>(alphabet_.size()); }
  TaskSample sample(Split split, uint64_t index) const override;
  double score(const TaskSample& sample, std::string_view output) const override;
  int64_t answer_bytes() const override;
  static std::vector<Parameter> parameters(Kind kind);

 private:
  void copy(Random& random, TaskSample& sample) const;
  void selective_copy(Random& random, TaskSample& sample) const;
  void induction(Random& random, TaskSample& sample) const;
  void repeat(Random& random, TaskSample& sample) const;

  Kind kind_;
  std::string name_;
  std::string_view alphabet_;
  int64_t length_, min_length_ = 0, delay_ = 0, marked_ = 0, cue_ = 0;
  uint64_t seed_;
};

}  // namespace heed::tasks
