// Needles in a haystack: sentences "the <type> of <key> is <value>." hidden in filler, some of them asked for.
#pragma once

#include "tasks/haystack.h"

namespace heed::tasks {

/// Defaults of one of RULER's needle tasks.
struct NiahForm {
  const char* name;
  const char* filler;
  const char* key;
  const char* value;
  int keys, values, queries;
};

class NiahTask final : public HaystackTask {
 public:
  /// Filler "text" needs a `source`; "mixed" uses it where there is one.
  NiahTask(const NiahForm& form, const nlohmann::json& parameters, TokenCount tokens, TextSource source = {});

  double chance() const override;

  static const NiahForm& form(std::string_view name);
  static std::vector<Parameter> parameters(const NiahForm& form);

 private:
  int64_t longest_answer() const override;
  std::string question(const std::vector<std::string>& keys) const;
  Hidden draw(Random& random, std::string_view filler) const override;
  std::string distractor(Random& random, std::set<std::string>& taken) const override;
  Needle needle(const std::string& key, const std::string& value, int64_t depth) const;

  IdKind key_kind_, value_kind_;
  bool tiny_;
  int64_t keys_, values_, queries_, depth_;
};

/// A number of five digits that is stated once and asked for.
class PasskeyTask final : public HaystackTask {
 public:
  PasskeyTask(const nlohmann::json& parameters, TokenCount tokens);
  double chance() const override { return 1e-5; }
  static std::vector<Parameter> parameters();

 private:
  static constexpr int64_t kDigitsOfKey = 5;
  int64_t longest_answer() const override { return kDigitsOfKey; }
  Hidden draw(Random& random, std::string_view filler) const override;
  int64_t depth_;
};

/// Variable tracking: chains VAR A = 12345, VAR B = VAR A, ..., scattered in their order; asked for are all names that
/// hold the first chain's value.
class VariableTrackingTask final : public HaystackTask {
 public:
  VariableTrackingTask(const nlohmann::json& parameters, TokenCount tokens);
  double chance() const override;
  static std::vector<Parameter> parameters();

 private:
  int64_t longest_answer() const override { return (hops_ + 1) * (name_length_ + 2) - 2; }
  Hidden draw(Random& random, std::string_view filler) const override;
  int64_t hops_, chains_, name_length_;
};

}  // namespace heed::tasks
