// The next byte of a real text.
#pragma once

#include "heed/tasks/corpus.h"
#include "tasks/learned_task.h"

namespace heed::tasks {

/// Windows of a corpus (heed/tasks/corpus.h), each byte asked for. Training windows stand anywhere in their split;
/// those of the other splits do not overlap, and there are only so many.
class ByteLmTask final : public LearnedTask {
 public:
  explicit ByteLmTask(const nlohmann::json& parameters);
  Face face() const override;
  /// Bits a byte of a model that knows how frequent each byte is in the training split, on the test split.
  double chance() const override;
  Example example(Split split, uint64_t index) const override;
  int64_t size(Split split) const override;
  static std::vector<Parameter> parameters();

 private:
  Corpus corpus_;
  int64_t context_;
};

}  // namespace heed::tasks
