// What a byte language model is trained on and measured by: batches and bits per byte.
#pragma once

#include "heed/tasks/corpus.h"
#include "heed/tasks/mixture.h"
#include "heed/tasks/task.h"
#include "heed/train/lm_trainer.h"

namespace heed::train {

/// Batch `step` of `size` windows of a mixture, each of `context` targets: a pure function of the step.
LmBatch mixture_batch(const tasks::Mixture& mixture, int64_t step, int64_t size, int64_t context);

/// Bits per byte of `model` over non-overlapping windows of `context` bytes of a split, at most `most_windows` of them
/// spread evenly.
double bits_per_byte(DecoderLm& model, const tasks::Corpus& corpus, tasks::Split split, int64_t context,
                     int64_t most_windows);

}  // namespace heed::train
