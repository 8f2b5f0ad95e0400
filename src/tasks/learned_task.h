// What tasks that are learned from examples alone have in common.
#pragma once

#include <string>

#include "heed/nn/config.h"
#include "heed/tasks/task.h"

namespace heed::tasks {

/// A name, and a family of samples that the parameter `seed` chooses.
class LearnedTask : public Task {
 public:
  const std::string& name() const final { return name_; }

 protected:
  explicit LearnedTask(std::string name) : name_(std::move(name)) {}

  /// Reads `seed` and refuses what is left; to be called last.
  void finish(ConfigReader& reader) {
    seed_ = static_cast<uint64_t>(reader.integer("seed", 0, 0));
    reader.finish();
  }
  Random random_of(Split split, uint64_t index) const { return Random(stream_key(name_, split, seed_), index); }

  const std::string name_;
  uint64_t seed_ = 0;
};

}  // namespace heed::tasks
