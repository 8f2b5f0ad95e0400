// Needles in a haystack: sentences "the <type> of <key> is <value>." hidden in filler, one of them asked for.
#pragma once

#include <functional>
#include <string>

#include "heed/tasks/task.h"
#include "tasks/ids.h"

namespace heed::tasks {

/// About `bytes` bytes of somebody's text, for the filler "text".
using TextSource = std::function<std::string(Random&, size_t bytes)>;

class NiahTask final : public TextTask {
 public:
  /// `name` is niah_single or niah_multikey. Filler "text" needs a `source`; "mixed" uses it where there is one.
  NiahTask(std::string name, const nlohmann::json& parameters, TextSource source = {});

  const std::string& name() const override { return name_; }
  double chance() const override;
  TaskSample sample(Split split, uint64_t index) const override;
  int64_t answer_bytes() const override;

  static std::vector<Parameter> parameters(bool multikey);

 private:
  struct Needle {
    std::string key, value;
    int64_t depth;  // percent
  };
  struct Haystack {
    std::string text;
    std::vector<TextSpan> values;  // one a needle
  };

  std::string statement(const std::string& key) const;
  Haystack hide(const std::vector<std::string>& sentences, const std::vector<Needle>& needles) const;
  std::vector<std::string> distractors(Random& random, size_t bytes) const;
  std::vector<Needle> draw_needles(Random& random, std::string_view filler) const;

  std::string name_, filler_;
  IdKind key_kind_, value_kind_;
  bool tiny_;
  int64_t min_tokens_, max_tokens_, keys_, depth_;
  uint64_t seed_;
  TextSource source_;
};

}  // namespace heed::tasks
