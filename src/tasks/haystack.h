// A haystack: filler in sentences, and needles at given depths of it.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "heed/nn/config.h"
#include "heed/tasks/task.h"
#include "tasks/filler.h"
#include "tasks/ids.h"
#include "tasks/wording.h"

namespace heed::tasks {

/// About `bytes` bytes of somebody's text, for the filler "text".
using TextSource = std::function<std::string(Random&, size_t bytes)>;

/// A sentence to hide, and the bytes of it that are asked for.
struct Needle {
  std::string line;  ///< with what separates it from the next
  TextSpan value;    ///< of line
  int64_t depth;     ///< percent
};

/// RULER's grid of depths: 40 points from 0 to 100 %.
inline constexpr int kDepths = 40;
int64_t grid_depth(int64_t point);

/// The largest count from `least` on for which `tokens(count)` is at most `limit`; `tokens` should not fall with the
/// count. `owner` begins the message of a heed::Error for a limit that `least` does not fit.
int64_t largest_fit(const std::string& owner, int64_t least, int64_t limit,
                    const std::function<int64_t(int64_t count)>& tokens);

/// A random id that `taken` lacks and `text` does not hold; it joins `taken`. `owner` begins the message of a
/// heed::Error when there is hardly one left.
std::string fresh_id(const std::string& owner, Random& random, const std::function<std::string(Random&)>& draw,
                     std::set<std::string>& taken, std::string_view text = {});

/// `items` as a person lists them in a question or an answer: "a, b, c".
std::string listed(const std::vector<std::string>& items);

/// A task that hides needles in filler and asks for some of their values behind it.
class HaystackTask : public TextTask {
 public:
  const std::string& name() const override { return name_; }
  TaskSample sample(Split split, uint64_t index) const final;
  int64_t answer_bytes() const final { return longest_answer() + (wording_ ? 1 : 0); }

  static std::vector<Parameter> parameters(const char* filler);

 protected:
  HaystackTask(std::string name, TokenCount tokens, TextSource source);

  /// Reads the parameters that all haystacks share; the caller finishes the reader.
  void read(ConfigReader& reader, const std::string& filler, bool may_be_needles);

  /// What one sample hides and asks.
  struct Hidden {
    std::vector<Needle> needles;
    std::vector<size_t> asked;                  ///< the needles whose values are the answers, in their order
    std::string question;                       ///< ends with what introduces the answer
    std::map<std::string, std::string> fields;  ///< for a template
    nlohmann::json meta = nlohmann::json::object();
  };
  virtual int64_t longest_answer() const = 0;
  /// `filler`: a text that contains the sample's, so that nothing is hidden that already stands there.
  virtual Hidden draw(Random& random, std::string_view filler) const = 0;
  /// A line of the filler "needle"; `taken` are the keys of the lines before it.
  virtual std::string distractor(Random& random, std::set<std::string>& taken) const;

  std::string name_, filler_;
  int64_t min_tokens_ = 0, max_tokens_ = 0;
  uint64_t seed_ = 0;

 private:
  Filler gather(Random& random, const std::string& kind, size_t bytes) const;

  TokenCount tokens_;
  TextSource source_;
  std::optional<Wording> wording_;
};

}  // namespace heed::tasks
