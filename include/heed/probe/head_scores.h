// What the heads of a decoder do: which copy from far away, which look at what came after the last time, which at the
// first and the last tokens only.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "heed/checkpoint/head_table.h"
#include "heed/checkpoint/language_model.h"

namespace heed::probe {

struct HeadScoreOptions {
  std::string task = "niah_single";  ///< a text task whose samples say where in the prompt the answer stands
  nlohmann::json parameters = nlohmann::json::object();
  int64_t samples = 40;                 ///< of the task, of its split valid
  int64_t repeated = 2500, copies = 4;  ///< random tokens, and how often they stand one after the other
  int64_t sequences = 4;                ///< of such tokens
  int64_t sinks = 4, recent = 64;       ///< what a streaming head sees
  double sink_weight = 0.1;             ///< of a later sink: mean weight from the rows that see it
  uint64_t seed = 0;
};

/// A number for every query head: float64 [L, H], 0 in layers without softmax attention of their own.
struct HeadScore {
  std::string name, meaning;
  torch::Tensor values;
};

struct HeadScores {
  std::vector<HeadScore> scores;
  int64_t samples = 0, answered = 0;  ///< of the task; unanswered ones have no part in the retrieval score
  int64_t repeated = 0;               ///< distinct random tokens, as many as vocabulary and context allow

  /// Throws heed::Error for an unknown name, with the nearest.
  const HeadScore& at(const std::string& name) const;
};

using ProgressFunction = std::function<void(int64_t done, int64_t total)>;

/// retrieval: share of the needle's tokens that a head copies while the model answers greedily, mean over answered
/// samples; a head copies a token when, at the step that emits it, its largest weight lies on that token inside the
/// needle (arXiv 2404.15574). retrieval_events counts steps instead, over the needle's length.
/// induction, echo: mass on the tokens after, or on, the earlier occurrences of the current one, over repeated random
/// tokens (arXiv 2407.15891).
/// previous, streaming, first, later_sinks, entropy, distance: over rows of the second half of the task's prompts; mass
/// on the token before, on sinks and recent tokens, on the first token, on other tokens whose mean weight in this head
/// is above `sink_weight`; nats, tokens. What makes sinks is told by sinks.h.
HeadScores score_heads(const checkpoint::LanguageModel& lm, const HeadScoreOptions& options,
                       const ProgressFunction& progress = {});

/// Names of the scores that `score_heads` gives.
std::vector<std::string> head_score_names();

/// The retrieval score alone, as at other lengths of the task.
HeadScores retrieval_scores(const checkpoint::LanguageModel& lm, const HeadScoreOptions& options,
                            const ProgressFunction& progress = {});

/// Spearman's correlation of two scores over the heads, equals sharing their rank; NaN where all heads score alike.
double rank_correlation(const HeadScore& a, const HeadScore& b);

/// The induction score alone, which needs no task.
HeadScore induction_scores(const checkpoint::LanguageModel& lm, const HeadScoreOptions& options = {});

/// As a file of query heads.
checkpoint::HeadTable to_table(const HeadScore& score);

}  // namespace heed::probe
