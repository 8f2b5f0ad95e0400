// Long answers hidden in text, all asked for at the end: what the gates of head-wise policies are trained on.
#pragma once

#include <string>

#include "heed/tasks/task.h"
#include "tasks/niah.h"

namespace heed::tasks {

/// Sentences "the first passkey is <words of the NATO alphabet>." at distinct depths; behind the haystack the same
/// sentences again, one a line, the last of them to be completed (after DuoAttention, arXiv 2410.10819). Everything
/// behind the haystack is counted.
class PasskeysTask final : public TextTask {
 public:
  /// Filler "text" needs a `source`.
  explicit PasskeysTask(const nlohmann::json& parameters, TokenCount tokens = byte_count, TextSource source = {});

  const std::string& name() const override { return name_; }
  double chance() const override;
  TaskSample sample(Split split, uint64_t index) const override;
  int64_t answer_bytes() const override;

  static std::vector<Parameter> parameters();

 private:
  std::string name_ = "passkeys", filler_;
  int64_t min_tokens_, max_tokens_, passkeys_, words_;
  uint64_t seed_;
  TokenCount tokens_;
  TextSource source_;
};

}  // namespace heed::tasks
