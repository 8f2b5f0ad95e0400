// Samba-ASR learns to write down spoken symbols.
#pragma once

#include <functional>

#include "heed/models/samba_asr.h"
#include "heed/tasks/spoken_symbols.h"

namespace heed::train {

struct SpeechBatch {
  torch::Tensor frames;   ///< float [B, T, bands], 0 behind an utterance's end
  torch::Tensor lengths;  ///< int64 [B] frames
  torch::Tensor text;     ///< int64 [B, U], 0 behind an utterance's last symbol
};
/// Utterances [first, first + size) of a split.
SpeechBatch speech_batch(const tasks::SpokenSymbols& speech, tasks::Split split, int64_t first, int64_t size);

/// A model of the task's bands and symbols; `like` has the rest.
SambaAsr speech_model(const tasks::SpokenSymbols& speech, SambaAsrConfig like, uint64_t seed);

/// Mean cross-entropy of symbols and ends, in nats, plus `ctc_weight` times the mean CTC loss of a symbol.
torch::Tensor speech_loss(SambaAsr& model, const SpeechBatch& batch, double ctc_weight = 0);

struct SpeechOptions {
  int64_t steps = 600, batch = 32;
  double learning_rate = 4e-3;  ///< peak: a tenth of the steps up, then down a cosine to a tenth
  double weight_decay = 0.01;
  double ctc_weight = 0.3;  ///< of models with a CTC head
};

/// AdamW from the utterances of the training split. Returns the mean loss of the last tenth of the steps; throws
/// heed::Error where it is not finite.
double train_speech(SambaAsr& model, const tasks::SpokenSymbols& speech, const SpeechOptions& options,
                    const std::function<void(int64_t step, double loss)>& report = {});

/// Edits between what the model writes for `count` utterances of a split and what was said, per symbol said.
double token_error_rate(SambaAsr& model, const tasks::SpokenSymbols& speech, tasks::Split split, int64_t count);

}  // namespace heed::train
