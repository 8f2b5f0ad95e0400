// Cache policies side by side on a model and a text: what each holds, reads and loses, and which is the cheapest that a
// person's limits allow.
#pragma once

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "heed/cache/evaluate.h"
#include "heed/cache/layer_fidelity.h"

namespace heed::bench {

struct PolicyLimits {
  std::optional<double> max_kl;                 ///< nats, mean over positions
  std::optional<int64_t> max_bytes;             ///< of the cache at any time, the prompt included
  std::optional<double> min_tokens_per_second;  ///< of decoding
};

struct PolicyCompareOptions {
  std::vector<std::string> policies;                      ///< names or policy files; empty: every one of the registry
  std::vector<double> budgets{0.0625, 0.125, 0.25, 0.5};  ///< shares of the prompt
  int64_t prompt = 1024, steps = 256;                     ///< tokens
  std::string kv;                                         ///< `kv` of all but the reference; empty: as they say
  /// A head table, by which head-wise policies choose the heads that keep everything; empty: induction is measured.
  std::string heads;
  std::string task = "niah_single";  ///< of the text tasks; empty: none
  int64_t task_samples = 20;
  int64_t repeats = 5;  ///< timed runs of the prompt, after one that is not timed
  /// Prompts at which the time of a step is measured beside; empty: a quarter, half and all of `prompt`.
  std::vector<int64_t> lengths;
  double speed_budget = 0.25;  ///< of policies there
  /// Sequences of a step there. All of them are the text, each from a place of its own on.
  std::vector<int64_t> batches{1};
  uint64_t seed = 0;  ///< of the task's samples
  PolicyLimits limits;
};

struct PolicyResult {
  cache::PolicyChoice choice;
  /// Share of the prompt; 1 for the full cache and for policies of a file. Of policies with another dial the share that
  /// they were measured to hold or, of the pairs of the prompt, to visit.
  double budget = 1;
  /// Medians; a step of the whole model. Steps are timed in turns with those of the full cache, and all policies' times
  /// are brought to the same speed of these.
  double prefill_s = 0, decode_ms = 0, tokens_per_second = 0;
  double build_s = 0;  ///< the part of prefill_s that indexes and compresses once the prompt is read
  double ttft_s = 0;   ///< median time until the first token is chosen
  double decode_p95_ms = 0;
  int64_t cache_bytes = 0;   ///< largest after the prompt, everything that is held
  int64_t prompt_bytes = 0;  ///< held when the prompt is read, before policies compress it
  int64_t peak_cache_bytes() const { return std::max(cache_bytes, prompt_bytes); }
  /// Most that tensors and kernels took beside the weights, by the allocator's count: prompt, cache and steps.
  int64_t peak_bytes = 0;
  int64_t kv_bytes_hot = 0, kv_bytes_cold = 0;  ///< keys and values at the end; cold: found by an index
  int64_t kv_bytes_used = 0;                    ///< the formula: slots in use times the size of a pair
  int64_t meta_bytes = 0;                       ///< scores, bounds, lists, graphs at the end
  int64_t slots_min = 0, slots_max = 0;         ///< of a row of a layer at the end
  double slots_mean = 0;
  int64_t read_bytes = 0, scored_bytes = 0;  ///< of `read` and `scored`, a step, layer and KV head
  double prompt_density = 1;                 ///< share of the prompt's visible pairs that were visited
  double full_steps = 0;                     ///< share of steps that attend to everything
  double read = 0, scored = 0;               ///< key and value pairs, and key-sized vectors, a step, layer and KV head
  double attention_ms = 0, policy_ms = 0;  ///< of a step, all layers: in attention, and in storing, selecting, dropping
  cache::Fidelity fidelity;
  std::vector<cache::LayerLoss> layers;
  double mass = 1, attention_kl = 0, recall = 1, out_rel_err = 0;  ///< means over `layers`
  int64_t first_divergence = 0;  ///< greedy tokens until they differ from the full cache's; `steps` where they do not
  std::optional<cache::TaskScore> task;
  bool allowed = true;  ///< within the limits
  bool pareto = false;  ///< no other holds as few bytes at as small a KL, and less of one
};

/// Time of a step at one length, for a batch of sequences.
struct PolicySpeed {
  std::string policy;
  int64_t prompt = 0, batch = 1;
  double decode_ms = 0, attention_ms = 0, policy_ms = 0;
};

struct PolicyComparison {
  nlohmann::ordered_json machine, source;
  PolicyCompareOptions options;
  std::vector<PolicyResult> rows;   ///< the full cache first
  std::vector<PolicySpeed> speeds;  ///< of every policy with a budget, by policy and length
  std::optional<size_t> chosen;  ///< fewest bytes after the prompt within the limits; of equals the fewest pairs read
};

/// `text` is tokenised and its first prompt + steps tokens are used, repeated if it is shorter; the steps are teacher
/// forced. Throws heed::Error for unknown policies and budgets outside (0, 1).
PolicyComparison compare_policies(
    const checkpoint::LanguageModel& lm, const std::string& text, const PolicyCompareOptions& options,
    const std::function<void(int64_t done, int64_t total, const std::string& next)>& progress = {});

/// Which rows the limits allow, which of them are on the Pareto front of bytes and KL, and which is chosen.
void decide(PolicyComparison& comparison);

nlohmann::ordered_json to_json(const PolicyComparison& comparison);
std::string policy_table(const PolicyComparison& comparison);
/// One line: the choice and why, or that nothing fits.
std::string decision(const PolicyComparison& comparison);
std::string policy_html(const PolicyComparison& comparison);

}  // namespace heed::bench
