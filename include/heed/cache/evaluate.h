// What a cache policy costs in quality: likelihood of a text, distance from the full cache, answers to tasks.
#pragma once

#include <functional>

#include "heed/cache/session.h"
#include "heed/checkpoint/language_model.h"
#include "heed/tasks/corpus.h"
#include "heed/tasks/metrics.h"
#include "heed/tasks/task.h"

namespace heed::cache {

using ProgressFunction = std::function<void(int64_t done, int64_t total)>;

struct TextScore {
  int64_t windows = 0, tokens = 0;  ///< tokens that were scored
  double nats = 0;                  ///< a token, mean
  double perplexity = 0;
  double bits_per_byte = 0;  ///< over the bytes of the scored tokens
};

/// Windows of `context` tokens of a split. Without a policy every token is scored; with one the first half of a window
/// is the prompt, and the second is fed as decode steps and scored.
TextScore score_text(const checkpoint::LanguageModel& lm, const Policy* policy, const tasks::Corpus& corpus,
                     tasks::Split split, int64_t context, int64_t most_windows, const ProgressFunction& progress = {});

/// How far a policy's next-token distributions lie from those of the full cache, on the same tokens.
struct Fidelity {
  int64_t positions = 0;
  double kl = 0, kl_p95 = 0, kl_max = 0;  ///< KL(full || policy) in nats
  double top1 = 0;                        ///< share of equal most likely tokens
  double top5_overlap = 0;                ///< share of the five most likely tokens that are among the other five
  double nll_delta = 0;                   ///< nats a token that the text costs more
};

/// Logits [T, vocab] of both, and the tokens int64 [T] that followed.
Fidelity fidelity(const torch::Tensor& full, const torch::Tensor& policy, const torch::Tensor& next);

/// Tokens of a text as the model reads it: what tasks fit their samples by.
tasks::TokenCount token_count(const checkpoint::LanguageModel& lm);

struct Answer {
  std::string text;     ///< at most as many bytes as were asked for
  bool forced = false;  ///< every token of the sample's continuation was the likeliest after those before it
};
/// Greedy answer to a task's sample. Where the tokenizer joins the prompt's last blank to the answer's first word, the
/// prompt ends before the blank.
Answer answer(const checkpoint::LanguageModel& lm, const Policy& policy, const tasks::TaskSample& sample, int64_t bytes,
              int64_t chunk = 512);

/// Means over samples, 0 to 1.
struct TaskScore {
  int64_t samples = 0;
  double score = 0;  ///< by the task's own metric
  tasks::Interval interval;
  double match_all = 0, match_any = 0;  ///< references in the answer (metrics.h)
  double exact = 0;                     ///< the answer is the whole continuation
  double forced = 0;
};
TaskScore score_task(const checkpoint::LanguageModel& lm, const Policy& policy, const tasks::TextTask& task,
                     tasks::Split split, int64_t samples, const ProgressFunction& progress = {});

}  // namespace heed::cache
