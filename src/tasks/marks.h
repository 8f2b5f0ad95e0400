// Marks on an empty image, far from each other: what is asked for is in no place alone.
#pragma once

#include "tasks/learned_task.h"

namespace heed::tasks {

/// Cells of one pixel, all but the marks noise; a mark of colour c is 1 in channel c. `same`: two marks, `distance` or
/// more cells apart along rows or columns, of one colour in half of the samples; asked for is, at both, whether they
/// are. `copy`: one mark, of whose colour every cell is asked.
class MarksTask final : public LearnedTask {
 public:
  enum class Answer { same, copy };
  explicit MarksTask(const nlohmann::json& parameters);
  Face face() const override;
  double chance() const override;
  Example example(Split split, uint64_t index) const override;
  static std::vector<Parameter> parameters();

 private:
  Answer answer_;
  int64_t side_, colours_, distance_;
  double noise_;
};

}  // namespace heed::tasks
