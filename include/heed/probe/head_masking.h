// What a model loses without some of its heads.
#pragma once

#include "heed/probe/head_scores.h"
#include "heed/tasks/metrics.h"

namespace heed::probe {

using Heads = std::vector<std::pair<int64_t, int64_t>>;  ///< (layer, query head)

/// Heads whose score is above the threshold, the largest first.
Heads heads_above(const HeadScore& score, double threshold);

/// The `count` heads of the largest scores, of equals the first; all where there are fewer.
Heads top_heads(const HeadScore& score, int64_t count);

/// zero: their output is 0, in the prompt too. uniform: in decode steps, they average all that they see.
enum class Masking { zero, uniform };
std::string to_string(Masking masking);

struct MaskingOptions {
  std::string task = "niah_single";
  nlohmann::json parameters = nlohmann::json::object();
  int64_t samples = 20;  ///< of the split test
  int64_t draws = 20;    ///< of random heads outside the found ones, as many as those
  bool alone = false;    ///< masks every other head by itself, too
  Heads spared{};        ///< never drawn, beside the found ones
  uint64_t seed = 0;
};

struct MaskingResult {
  Masking masking;
  double unmasked = 0, found = 0;  ///< mean scores of the task: of all heads, without the found ones
  std::vector<double> random;      ///< one a draw
  std::vector<Heads> drawn;        ///< the heads of each
  torch::Tensor alone;             ///< float64 [L, H]: without this head only, where asked for; found heads: NaN

  double random_mean() const;
  /// Heads outside the found ones without which, alone, less than half of the score is left: the answer needs them
  /// although they copy nothing, as heads do that prepare what retrieval heads look for.
  Heads needed() const;
  /// Draws, as indices, that hold none of `needed`.
  std::vector<size_t> clear_draws() const;
};

/// Greedy answers of the model while heads are masked. Throws heed::Error where fewer others than found heads exist.
MaskingResult mask_heads(const checkpoint::LanguageModel& lm, const Heads& found, Masking masking,
                         const MaskingOptions& options, const ProgressFunction& progress = {});

}  // namespace heed::probe
