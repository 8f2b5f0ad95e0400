// Which KV heads of a checkpoint need the whole text: gates trained on passkeys, and what a choice of heads costs.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "heed/checkpoint/head_table.h"
#include "heed/checkpoint/language_model.h"
#include "heed/tasks/corpus.h"
#include "heed/tasks/task.h"
#include "heed/train/duo_gates.h"

namespace heed::probe {

/// Passkeys as DuoAttention trains on (arXiv 2410.10819: 10 of 32 words in 1000 to 32000 tokens), shrunk to a context:
/// words in proportion to it, lengths from the smallest that holds them. In `text` where one is given.
std::unique_ptr<tasks::TextTask> passkeys_for(int64_t context, uint64_t seed, const tasks::Corpus* text = nullptr);

/// A sample as tokens; labelled is everything from the first scored byte on.
train::LabelledTokens labelled_tokens(const formats::Tokenizer& tokenizer, const tasks::TaskSample& sample);

/// Gates by KV head, trained on samples 0, 1, ... of a task's split train. `distance`: what they cost at the end.
checkpoint::HeadTable duo_gates(const checkpoint::LanguageModel& lm, const tasks::TextTask& task,
                                const train::DuoOptions& options, double* distance = nullptr,
                                const std::function<void(int64_t step, double distance)>& report = {});

struct ChoiceOptions {
  std::vector<std::string> tasks{"niah_single"};
  int64_t context = 1024;  ///< tokens of a prompt
  std::vector<double> sparsities{0.25, 0.5, 0.75};
  int64_t samples = 50, draws = 5;   ///< of a task's split test; of random heads
  int64_t sinks = 64, recent = 256;  ///< of streaming heads
  uint64_t seed = 0;
};

/// What one way to choose the streaming heads keeps of a task.
struct ChoiceScore {
  std::string task, choice;    ///< full, gates, entropy, random, streaming (all heads), window (all, without sinks)
  double sparsity = 0;         ///< share of KV heads that stream
  std::vector<double> scores;  ///< one a draw

  double mean() const;
};

/// The tasks under duo_attention with the heads of smallest gate, of smallest attention entropy, and drawn at random
/// streaming.
std::vector<ChoiceScore> compare_choices(const checkpoint::LanguageModel& lm, const checkpoint::HeadTable& gates,
                                         const ChoiceOptions& options,
                                         const std::function<void(int64_t done, int64_t total)>& progress = {});

}  // namespace heed::probe
