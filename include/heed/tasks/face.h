// What a task gives a model and asks of it: one description for all samples of a task.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace heed::tasks {

/// How answers are judged.
enum class Metric {
  accuracy,       ///< share of the asked classes that are predicted
  bits,           ///< cross-entropy of the asked classes, in bits
  squared_error,  ///< mean squared error of the asked values, in squares of the task's unit
  nats            ///< negative log-likelihood of an event, its time and its mark
};
inline constexpr std::array<std::string_view, 4> kMetricNames = {"accuracy", "bits", "squared_error", "nats"};
constexpr std::string_view name_of(Metric metric) { return kMetricNames[static_cast<size_t>(metric)]; }
/// Whether a larger score is the better one.
constexpr bool more_is_better(Metric metric) { return metric == Metric::accuracy; }

/// The shapes of a task's samples. N counts the positions of a sample: its tokens, vectors or patches.
struct Face {
  enum class Input {
    tokens,   ///< int64 [N], each below `vocabulary`
    vectors,  ///< float [N, channels]
    image     ///< float [channels, height, width], cut into patches of patch x patch
  };
  enum class Answer {
    classes,  ///< one of `outputs` classes
    values,   ///< `outputs` numbers
    events    ///< when the next event comes, and its mark: one of `outputs`
  };
  /// What the model may see of a sample when it answers at a position.
  enum class Sight {
    past,    ///< what stands up to there: the rest would give the answer away
    either,  ///< everything, or only the past where a mechanism can't look ahead
    all      ///< everything: without the rest there is no answer
  };

  Input input = Input::tokens;
  Answer answer = Answer::classes;
  Sight sight = Sight::past;
  Metric metric = Metric::accuracy;
  int64_t vocabulary = 0;
  int64_t channels = 0, height = 0, width = 0, patch = 0;
  int64_t outputs = 0;
  bool whole = false;  ///< one answer a sample; else one a position
  double unit = 1;     ///< of values: what errors are measured in
  double huber = 0;    ///< of values: above 0, training minimises errors below it squared and others as they are
  int64_t length = 0;  ///< most positions of a sample; 0: known of its samples alone

  /// Tokens in, the next token out.
  static Face next_token(int64_t vocabulary) {
    Face face;
    face.vocabulary = face.outputs = vocabulary;
    return face;
  }
};

/// A sample as a model takes it. Its task's face says which lists are filled.
struct Example {
  static constexpr int64_t kNoLabel = -100;  ///< no answer is asked here

  std::vector<int64_t> tokens;
  std::vector<float> values;
  /// Classes and marks, one a position or one: what the output there is to be.
  std::vector<int64_t> labels;
  /// Values, `outputs` a position or once; of events the time to the next, one a position. NaN: none is asked.
  std::vector<float> targets;
};

}  // namespace heed::tasks
