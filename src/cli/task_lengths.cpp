#include "cli/task_lengths.h"

#include <algorithm>

#include "heed/cache/evaluate.h"
#include "heed/error.h"
#include "heed/tasks/task.h"

namespace heed::cli {
namespace {

constexpr int64_t kLeastLength = 64;      // that tasks take
constexpr int64_t kMostLength = 1 << 16;  // that is looked at behind the context
constexpr int64_t kLeastAnswer = 16;      // bytes that are left for an answer where the task does not say

std::unique_ptr<tasks::TextTask> task_of(const checkpoint::LanguageModel& lm, const std::string& name,
                                         nlohmann::json settings, int64_t length) {
  settings["max_tokens"] = length;
  return tasks::make_text_task(name, settings, cache::token_count(lm));
}

bool fits(const checkpoint::LanguageModel& lm, const std::string& name, const nlohmann::json& settings,
          int64_t length) {
  try {
    task_of(lm, name, settings, length)->sample(tasks::Split::test, 0);
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// Of a wrong name or setting the error comes later, from whoever makes the task in earnest.
int64_t answer_bytes(const checkpoint::LanguageModel& lm, const std::string& name, const nlohmann::json& settings) {
  try {
    return task_of(lm, name, settings, 1024)->answer_bytes();
  } catch (const Error&) {
    return kLeastAnswer;
  }
}

}  // namespace

int64_t longest_prompt(const checkpoint::LanguageModel& lm, int64_t answer_bytes) {
  const auto& config = lm.model->config();
  return config.learned_positions ? config.learned_positions - answer_bytes - 1 : config.max_length;
}

std::vector<int64_t> lengths_for(const checkpoint::LanguageModel& lm, const std::string& task,
                                 const nlohmann::json& settings, int halvings) {
  const int64_t longest = std::max(kLeastLength, longest_prompt(lm, answer_bytes(lm, task, settings)));
  std::vector<int64_t> lengths;
  for (int h = halvings; h >= 0; --h) {
    const int64_t length = std::max(kLeastLength, longest >> h);
    if ((lengths.empty() || lengths.back() != length) && fits(lm, task, settings, length)) lengths.push_back(length);
  }
  if (!lengths.empty()) return lengths;
  if (!lm.model->config().learned_positions)
    for (int64_t length = kLeastLength; length <= kMostLength; length *= 2)
      if (length > longest && fits(lm, task, settings, length)) return {length};
  return {longest};
}

}  // namespace heed::cli
