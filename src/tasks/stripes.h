// Textures of fine stripes, to be told apart.
#pragma once

#include "tasks/learned_task.h"

namespace heed::tasks {

/// A canvas of waves in one of 4 directions and one of `periods` lengths, which together are the class that is asked
/// for. Every patch has a phase of its own.
class StripesTask final : public LearnedTask {
 public:
  static constexpr int64_t kDirections = 4;

  explicit StripesTask(const nlohmann::json& parameters);
  Face face() const override;
  double chance() const override { return 1 / double(kDirections * periods_); }
  Example example(Split split, uint64_t index) const override;
  static std::vector<Parameter> parameters();

 private:
  int64_t side_, patch_, periods_;
  double noise_;
};

}  // namespace heed::tasks
