// The language model that comes with heed, with other mixers in its layers: it can find what a text hides, which small
// models learn late.
#pragma once

#include "heed/models/decoder_lm.h"
#include "results/learning.h"

namespace heed::results::sparse {

DecoderLm shipped_model();

/// `source` with `plan` in every layer and its weights.
DecoderLm with_mixer(DecoderLm& source, const LayerPlan& plan);

/// The shipped model goes on to learn a task with each learner's mixer.
Lesson shipped_lesson(const std::string& task, const nlohmann::json& parameters, int64_t steps);

/// A needle in `tokens` bytes of filler, and in each of `beyond`.
Lesson needle_lesson(int64_t tokens, const std::vector<int64_t>& beyond, int64_t steps);

}  // namespace heed::results::sparse
