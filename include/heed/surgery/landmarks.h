// A decoder with softmax attention becomes one with landmark attention (arXiv 2305.16300), to be fine-tuned.
#pragma once

#include <nlohmann/json.hpp>

#include "heed/models/decoder_lm.h"
#include "heed/train/lm_trainer.h"

namespace heed::surgery {

/// Every dense layer becomes landmark_attention with `mixer` as its further keys ("block", "retrieve", ...). Weights
/// are copied; the landmark's embedding is the mean of all. The model inserts it, in training as in use, unless `mixer`
/// says
/// {"landmarks": "given"}: then it is one token more of the vocabulary, and texts are to have it. Throws heed::Error
/// for layers that are no dense attention.
DecoderLm add_landmarks(DecoderLm& model, const nlohmann::json& mixer);

/// A batch of the model before, for one whose landmarks are given. A target that is a landmark counts where
/// `landmark_targets`.
train::LmBatch with_landmarks(const train::LmBatch& batch, int64_t block, int64_t id, bool landmark_targets = false);

}  // namespace heed::surgery
