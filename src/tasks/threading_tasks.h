// Needle threading: values looked up in one flat JSON object of ids, alone, in lists and along threads of keys.
#pragma once

#include <set>

#include "heed/tasks/task.h"

namespace heed::tasks {

/// What is asked of the haystack {"key": "value", ...}, all ids different:
///   single, multi   the values of one or several keys
///   conditional     the values of all keys that contain a '*'
///   thread          k1's value is the key k2, and so on; the value of the last key
///   multi_thread    the same for several threads at once
///   branched        values of a thread list several candidate keys, of which one goes on; the others end in a value
enum class ThreadingForm { single, multi, conditional, thread, multi_thread, branched };

class ThreadingTask final : public TextTask {
 public:
  ThreadingTask(ThreadingForm form, const nlohmann::json& parameters, TokenCount tokens);

  const std::string& name() const override { return name_; }
  /// One value among those of the first test sample.
  double chance() const override;
  TaskSample sample(Split split, uint64_t index) const override;
  /// The share of values at their places of the list.
  double score(const TaskSample& sample, std::string_view output) const override;
  int64_t answer_bytes() const override;

  static std::vector<Parameter> parameters(ThreadingForm form);

 private:
  struct Pair {
    std::string key, value;
  };
  /// The pairs that the question is about: of thread t and step s at t * steps + s, then those of branches.
  std::vector<Pair> draw(Random& random, std::set<std::string>& taken) const;
  /// Places of those pairs among `count`.
  std::vector<int64_t> places(Random& random, int64_t pairs, int64_t count) const;
  std::string question(const std::vector<Pair>& pairs) const;
  std::string id(Random& random, std::set<std::string>& taken) const;

  ThreadingForm form_;
  std::string name_;
  TokenCount tokens_;
  bool tiny_;
  std::string direction_ = "forward", placement_ = "random";
  int64_t max_tokens_, max_characters_, threads_ = 1, steps_ = 1, branches_ = 1, depth_ = -1;
  uint64_t seed_;
};

}  // namespace heed::tasks
