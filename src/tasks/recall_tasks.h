// Pairs of keys and values, some asked for.
#pragma once

#include "heed/tasks/task.h"

namespace heed::tasks {

/// Lines "key: value" up to the limit, the last line asks for one (after LongEval).
class KvLookupTask final : public TextTask {
 public:
  KvLookupTask(const nlohmann::json& parameters, TokenCount tokens);
  const std::string& name() const override { return name_; }
  /// One line of those of the first test sample.
  double chance() const override;
  TaskSample sample(Split split, uint64_t index) const override;
  int64_t answer_bytes() const override { return value_length_; }
  static std::vector<Parameter> parameters();

 private:
  std::string name_ = "kv_lookup";
  TokenCount tokens_;
  int64_t max_tokens_, key_length_, value_length_;
  uint64_t seed_;
};

/// Multi-query associative recall over bytes: "ab=37 cd=12 | cd=12 ab=37 ", every value behind the bar counted.
class AssocRecallTask final : public TextTask {
 public:
  explicit AssocRecallTask(const nlohmann::json& parameters);
  const std::string& name() const override { return name_; }
  double chance() const override { return 1.0 / static_cast<double>(pairs_); }
  TaskSample sample(Split split, uint64_t index) const override;
  int64_t answer_bytes() const override { return value_length_; }
  static std::vector<Parameter> parameters();

 private:
  std::string name_ = "assoc_recall";
  int64_t pairs_, queries_, key_length_, value_length_;
  uint64_t seed_;
};

/// Multi-query associative recall over tokens, exactly the generator of Zoology (Arora et al., 2023) where nothing is
/// overwritten.
class MqarTask final : public Task {
 public:
  explicit MqarTask(const nlohmann::json& parameters);
  const std::string& name() const override { return name_; }
  Face face() const override { return Face::next_token(vocabulary_); }
  /// Of naming any value that was shown.
  double chance() const override { return 1.0 / static_cast<double>(pairs_ + overwrite_); }
  Example example(Split split, uint64_t index) const override;
  static std::vector<Parameter> parameters();

 private:
  std::string name_ = "mqar";
  int64_t vocabulary_, length_, pairs_, overwrite_;
  double power_;
  uint64_t seed_;
};

}  // namespace heed::tasks
