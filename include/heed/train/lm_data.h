// Batches for a byte language model: windows of text mixed with task sequences.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "heed/tasks/corpus.h"
#include "heed/tasks/task.h"
#include "heed/train/lm_trainer.h"

namespace heed::train {

/// One part of a mixture: `text`, or a task in text by name with its parameters.
struct MixturePart {
  std::string name;
  double share = 1;
  nlohmann::json parameters = nlohmann::json::object();
};

/// `NAME=SHARE` or `NAME=SHARE:{json}`, as niah_single=0.2:{"filler":"mixed"}. Throws heed::Error that names the part.
MixturePart parse_mixture_part(const std::string& text);

struct LmDataOptions {
  std::vector<MixturePart> mixture;  ///< shares are normalised; empty: text
  int64_t batch = 8;
  int64_t context = 1024;
  double answer_weight = 4;   ///< of the bytes a task scores
  double filler_weight = 0.2; ///< of a task's other bytes; text has 1
  uint64_t seed = 0;
};

class LmData {
 public:
  /// `corpus` may be null when the mixture has no text. A task that has `max_tokens` gets the context, unless its parameters say otherwise.
  /// Throws heed::Error for an unknown task.
  LmData(std::shared_ptr<const tasks::Corpus> corpus, LmDataOptions options);

  /// Batch of a training step: a pure function of the step and the options.
  LmBatch batch(int64_t step) const;

 private:
  struct Part {
    double share;
    std::unique_ptr<tasks::TextTask> task;  ///< null: text
  };
  void fill(const Part& part, uint64_t index, int64_t* tokens, float* weights) const;

  std::shared_ptr<const tasks::Corpus> corpus_;
  LmDataOptions options_;
  std::vector<Part> parts_;
};

/// Bits per byte of `model` over non-overlapping windows of `context` bytes of a split, at most `most_windows` of them spread evenly.
double bits_per_byte(DecoderLm& model, const tasks::Corpus& corpus, tasks::Split split, int64_t context, int64_t most_windows);

/// Score of greedy answers to `samples` samples of a task's split: mean of the task's metric.
double greedy_score(DecoderLm& model, const tasks::TextTask& task, tasks::Split split, int64_t samples);

}  // namespace heed::train
