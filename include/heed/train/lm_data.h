// What a language model is trained on and measured by: batches and bits per byte.
#pragma once

#include "heed/formats/tokenizer.h"
#include "heed/tasks/corpus.h"
#include "heed/tasks/mixture.h"
#include "heed/tasks/task.h"
#include "heed/train/lm_trainer.h"

namespace heed::train {

/// Batch `step` of `size` windows of a mixture, each of `context` targets: a pure function of the step.
LmBatch mixture_batch(const tasks::Mixture& mixture, int64_t step, int64_t size, int64_t context);

/// Contexts in turn, each for an equal share of the steps, with about as many tokens a batch as the last one has. Tasks
/// that a context is too short for are left out of it.
class Curriculum {
 public:
  /// `size`: windows a batch of the last context. Throws heed::Error for a mixture that Mixture refuses.
  Curriculum(std::string_view mixture, const tasks::Corpus* corpus, const std::vector<int64_t>& contexts, int64_t size,
             int64_t steps, uint64_t seed = 0);

  /// A pure function of the step.
  LmBatch batch(int64_t step) const;

 private:
  struct Stage {
    tasks::Mixture mixture;
    int64_t context, size;
  };
  std::vector<Stage> stages_;
  int64_t steps_;
};

/// Batch `step` of `size` windows of `context` targets of a corpus in the tokens of any tokenizer: a pure function of
/// the arguments. Throws heed::Error where the split is too short.
LmBatch text_batch(const formats::Tokenizer& tokenizer, const tasks::Corpus& corpus, tasks::Split split, int64_t step,
                   int64_t size, int64_t context, uint64_t seed = 0);

/// Bits per byte of `model` over non-overlapping windows of `context` bytes of a split, at most `most_windows` of them
/// spread evenly.
double bits_per_byte(DecoderLm& model, const tasks::Corpus& corpus, tasks::Split split, int64_t context,
                     int64_t most_windows);

}  // namespace heed::train
