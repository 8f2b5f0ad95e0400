// Random tokens that stand several times one after the other: what repeats can be known from nothing else.
#pragma once

#include "heed/probe/head_scores.h"

namespace heed::probe {

struct RepeatedTokens {
  std::vector<int64_t> ids;  ///< `copies` times the same `period` distinct tokens, behind `first` others
  int64_t first = 0, period = 0;
};

/// Sequence s. Throws heed::Error where vocabulary or context leave no room for two tokens.
RepeatedTokens repeated_tokens(const checkpoint::LanguageModel& lm, const HeadScoreOptions& options, int64_t s);

}  // namespace heed::probe
