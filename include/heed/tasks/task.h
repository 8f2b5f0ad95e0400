// A task: a generator of samples, a metric, and answers that are known.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "heed/registry.h"
#include "heed/tasks/face.h"
#include "heed/tasks/random.h"

namespace heed::tasks {

/// Bytes [begin, end) of a text.
struct TextSpan {
  int64_t begin = 0, end = 0;

  std::string_view of(std::string_view text) const {
    return text.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  }
};

/// A sample in text. A model is given `prompt` and should go on with `continuation`.
struct TaskSample {
  std::string prompt;
  std::string continuation;            ///< a right answer; never empty
  std::vector<std::string> answers;    ///< references of the metric
  std::vector<TextSpan> answer_spans;  ///< of prompt: where answers[i] is to be found
  std::vector<TextSpan> scored;        ///< of prompt + continuation: the bytes that training counts, in order, disjoint
  nlohmann::json meta;                 ///< what the generator drew: keys, depths, positions

  std::string text() const { return prompt + continuation; }
};

/// Sample i of split s is a pure function of (task, its parameters, s, i): a counter-based generator, no shared stream.
class Task {
 public:
  virtual ~Task() = default;

  virtual const std::string& name() const = 0;
  virtual Face face() const = 0;
  /// The score of a model that knows the task's form and guesses: by the face's metric or, of a task in text, the share
  /// of right answers.
  virtual double chance() const = 0;
  /// The same by the face's metric, which counts tokens.
  virtual double metric_chance() const { return chance(); }
  /// The best score there can be, where it is known.
  virtual std::optional<double> ideal() const { return {}; }
  virtual Example example(Split split, uint64_t index) const = 0;
  /// Different samples of a split; 0: without end.
  virtual int64_t size(Split) const { return 0; }
};

/// How many tokens a text is. Tasks with `max_tokens` fit their samples by it.
using TokenCount = std::function<int64_t(std::string_view)>;
/// A token is a byte.
int64_t byte_count(std::string_view text);

/// A task in text; its examples are of bytes.
class TextTask : public Task {
 public:
  virtual TaskSample sample(Split split, uint64_t index) const = 0;
  /// Score in [0, 1] of what a model wrote after the prompt.
  virtual double score(const TaskSample& sample, std::string_view output) const;
  /// How many bytes a model is to write.
  virtual int64_t answer_bytes() const = 0;

  Face face() const override { return Face::next_token(256); }
  /// Of a token, where each of an answer's is equally hard to guess.
  double metric_chance() const override;
  Example example(Split split, uint64_t index) const override;
};

/// A task from the registry; every parameter is optional. Throws heed::Error for an unknown name, parameter or value.
std::unique_ptr<Task> make_task(std::string_view name, const nlohmann::json& parameters = {});
/// The same for a task in text. `tokens`: of the model that will read the samples.
std::unique_ptr<TextTask> make_text_task(std::string_view name, const nlohmann::json& parameters = {},
                                         const TokenCount& tokens = byte_count);

/// The tasks there are, with their parameters.
std::span<const RegistryRow> task_rows();

/// Bytes and labels of a text: labels only where `scored` says.
Example byte_example(const TaskSample& sample);

}  // namespace heed::tasks
