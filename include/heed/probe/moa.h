// MoA (arXiv 2406.14909): which window each KV head needs, by what a loss would change without single weights.
#pragma once

#include <functional>
#include <vector>

#include "heed/cache/moa_rule.h"
#include "heed/cache/policy.h"
#include "heed/checkpoint/head_table.h"
#include "heed/checkpoint/language_model.h"
#include "heed/tasks/metrics.h"
#include "heed/tasks/task.h"

namespace heed::probe {

/// First-order changes of the cross-entropy of the last `labelled` tokens of tokens int64 [1, N] when a weight is
/// masked and its row renormalised: their magnitudes summed over blocks, the largest of each group of query heads.
/// Double [L, Hkv, blocks, blocks]; zeros in layers without plain attention. One forward and one backward.
torch::Tensor influence_of_blocks(DecoderLm model, const torch::Tensor& tokens, int64_t labelled,
                                  int64_t block = cache::MoaRule::kBlock);

/// What a band of blocks costs each head at one length.
struct MoaProfile {
  int64_t length = 0;         ///< tokens
  torch::Tensor by_distance;  ///< double [L, Hkv, blocks]: influence at a distance of so many blocks, block 0 apart

  /// Of influence [L, Hkv, blocks, blocks].
  MoaProfile(int64_t length, const torch::Tensor& influence);
  int64_t blocks() const { return by_distance.size(2); }
};

struct MoaProfileOptions {
  std::string task = "kv_lookup";  ///< a text task, whose prompts are answered by the model itself
  nlohmann::json parameters = nlohmann::json::object();
  int64_t samples = 8;  ///< of its split train
};

/// The mean over samples of about `length` tokens. The loss is that of the answers which the model gives greedily, not
/// of the right ones.
MoaProfile moa_profile(const checkpoint::LanguageModel& lm, int64_t length, const MoaProfileOptions& options,
                       const std::function<void(int64_t done, int64_t total)>& progress = {});

struct MoaOptions {
  double density = 0.5;  ///< most of the causal half that heads read, in the mean over heads, at every length
  double least = 0.9;    ///< share of it that is used at least, at the length whose loss is minimised
  int64_t step = 1024;   ///< between the a of candidates
  int64_t levels = 5;    ///< bounds of the loss at each other length
  int64_t target = 0;    ///< longest text that rules are for; 0: the longest that is profiled
  int64_t rounds = 40;   ///< of the multipliers of bounds
};

/// All a + b N with a on a grid and b in eighths whose window is positive at the shortest profiled length and no longer
/// than the text at the longest and at the target; of those with equal bands at all lengths, one. Dense is among them.
std::vector<cache::MoaRule> moa_candidates(const std::vector<MoaProfile>& profiles, const MoaOptions& options);

struct MoaPlan {
  std::vector<std::vector<cache::MoaRule>> rules;  ///< [layer][KV head], at most two distinct ones a layer
  std::vector<double> loss, density;               ///< at the profiles' lengths

  checkpoint::HeadTable to_table() const;
  /// As settings of the policy moa_sparse.
  nlohmann::json settings() const;
};

/// Loss and density of rules at the lengths of profiles.
MoaPlan moa_plan_of(std::vector<std::vector<cache::MoaRule>> rules, const std::vector<MoaProfile>& profiles);

/// Plans of which none is better at every length: the loss at the longest length is minimised while those at the others
/// are bounded at `levels` values between their own minimum and what the first plan costs there. Bounds enter by
/// Lagrange multipliers around an exact knapsack; where these find no plan that keeps the density at all lengths and
/// the table is small, the knapsack itself has a bound a length. Throws heed::Error where no plan fits the density.
std::vector<MoaPlan> moa_pareto(const std::vector<MoaProfile>& profiles, const MoaOptions& options);

/// The plan with the least loss at a length that the search has not seen.
size_t best_at(const std::vector<MoaPlan>& plans, const MoaProfile& unseen);

/// One way to spend the bytes of a plan, and what it answers.
struct WindowScore {
  std::string choice;    ///< full, moa, uniform (one window for all heads), duo (whole heads and short ones)
  int64_t length = 0;    ///< tokens of the prompts, at most
  int64_t kv_bytes = 0;  ///< of keys and values behind a prompt of that length
  tasks::Interval score;
  double mean = 0;  ///< the task's own score
};

struct WindowCompareOptions {
  std::string task = "kv_lookup";
  nlohmann::json parameters = nlohmann::json::object();
  int64_t samples = 50;  ///< of its split test
};

/// The plan, one window of as many tokens for all heads, and DuoAttention with the first heads of `ranking` whole, each
/// holding as many bytes as the plan does at the length; the full cache for comparison.
std::vector<WindowScore> compare_windows(const checkpoint::LanguageModel& lm, const MoaPlan& plan,
                                         const std::vector<int64_t>& lengths, const cache::HeadRanking& ranking,
                                         const WindowCompareOptions& options,
                                         const std::function<void(int64_t done, int64_t total)>& progress = {});

}  // namespace heed::probe
