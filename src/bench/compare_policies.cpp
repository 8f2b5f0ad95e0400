#include "heed/bench/compare_policies.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "bench/memory_meter.h"
#include "bench/policy_steps.h"
#include "heed/bench/measure.h"
#include "heed/error.h"
#include "heed/probe/head_scores.h"

namespace heed::bench {
namespace {

using cache::PolicyChoice;
using torch::Tensor;

struct Contestant {
  PolicyChoice choice;
  double budget;
};

/// The KV heads of a model by a table, or by how much they do induction.
cache::HeadRanking ranking_of(const checkpoint::LanguageModel& lm, const PolicyCompareOptions& o) {
  const auto table =
      o.heads.empty() ? probe::to_table(probe::induction_scores(lm)) : checkpoint::HeadTable::load(o.heads);
  return cache::rank_heads(table, cache::shape_of(lm.model->config()));
}

/// Budget of a policy with another dial, until it is measured.
constexpr double kMeasured = 0;

bool has_budget(const cache::PolicyRow& policy) { return policy.at_budget || policy.at_mean_budget; }

PolicyChoice at_budget(const cache::PolicyRow& policy, double budget, int64_t prompt,
                       const cache::HeadRanking& ranking) {
  const auto tokens = std::max<int64_t>(2, std::llround(budget * double(prompt)));
  return {policy.row.name,
          policy.at_budget ? policy.at_budget(tokens) : policy.at_mean_budget(tokens, prompt, ranking)};
}

std::vector<Contestant> contestants(const checkpoint::LanguageModel& lm, const PolicyCompareOptions& o) {
  std::vector<Contestant> all{{PolicyChoice{}, 1}};
  const auto wanted = [&](const std::string& name) {
    return o.policies.empty() || std::find(o.policies.begin(), o.policies.end(), name) != o.policies.end();
  };
  cache::HeadRanking ranking;
  for (const auto& policy : cache::policies()) {
    if (!wanted(policy.row.name)) continue;
    if (policy.variants)
      for (const auto& settings : policy.variants(o.prompt)) all.push_back({{policy.row.name, settings}, kMeasured});
    if (!has_budget(policy)) continue;
    if (policy.at_mean_budget && ranking.empty()) ranking = ranking_of(lm, o);
    for (const double budget : o.budgets) all.push_back({at_budget(policy, budget, o.prompt, ranking), budget});
  }
  for (const auto& name : o.policies) {
    const auto known = [&](const cache::PolicyRow& policy) { return policy.row.name == name; };
    const auto row = std::find_if(cache::policies().begin(), cache::policies().end(), known);
    // A file, a policy without a budget, or a name that make_policy refuses.
    if (name != "full" && (row == cache::policies().end() || (!has_budget(*row) && !row->variants)))
      all.push_back({PolicyChoice::parse(name), 1});
  }
  if (o.kv.empty()) return all;
  all.push_back({PolicyChoice{}, 1});
  std::erase_if(all, [](const Contestant& c) { return c.choice.settings.contains("kv"); });
  for (size_t i = 1; i < all.size(); ++i) all[i].choice.settings["kv"] = o.kv;
  return all;
}

Tensor tokens_of(const checkpoint::LanguageModel& lm, const std::string& text, int64_t count) {
  auto ids = lm.tokenizer.encode(text);
  require(ids.size() > 1, "the text has {} tokens: two or more are accepted", ids.size());
  const size_t own = ids.size();
  while (int64_t(ids.size()) < count) ids.push_back(ids[ids.size() - own]);
  return torch::tensor(at::ArrayRef<int64_t>(ids.data(), size_t(count))).unsqueeze(0);
}

constexpr int64_t kRecallKeys = 16;

/// What the caches hold once the last step is done.
void count_slots(cache::Session& session, PolicyResult& result) {
  int64_t rows = 0, slots = 0;
  result.slots_min = INT64_MAX;
  cache::each_cache(session.state(), [&](cache::LayerCache& layer) {
    const auto& kv = layer.kv();
    for (int64_t r = 0; r < kv.rows(); ++r, ++rows) {
      slots += kv.length(r);
      result.slots_min = std::min(result.slots_min, kv.length(r));
      result.slots_max = std::max(result.slots_max, kv.length(r));
    }
    result.kv_bytes_cold += layer.cold_bytes();
    result.kv_bytes_hot += kv.bytes() - layer.cold_bytes();
    result.kv_bytes_used += kv.used_bytes();
    result.meta_bytes += layer.policy_bytes();
  });
  if (rows == 0) {
    result.slots_min = 0;
    return;
  }
  result.slots_mean = double(slots) / double(rows);
  const double pair = double(result.kv_bytes_used) / double(std::max<int64_t>(slots, 1));
  result.read_bytes = std::llround(result.read * pair);
  result.scored_bytes = std::llround(result.scored * pair / 2);  // a key is half of a pair
}

/// Steps of the full cache that take turns with those of every policy, so that a change of the machine's speed meets
/// both.
class Reference {
 public:
  Reference(const checkpoint::LanguageModel& lm, const cache::Policy& full, const Tensor& tokens,
            const PolicyCompareOptions& o)
      : session_(lm.model, full) {
    session_.prefill(tokens.narrow(1, 0, o.prompt), o.prompt + o.steps);
    session_.finish_prompt();
  }

  /// Times the steps of a policy; returns how long those of the full cache took meanwhile.
  double beside(StepTimer& policy, int64_t rows, const Tensor& tokens) {
    StepTimer full(session_, rows, tokens);
    for (int64_t round = 0; round < StepTimer::kRounds; ++round) {
      full.run(StepTimer::kSteps / StepTimer::kRounds);
      policy.run(StepTimer::kSteps / StepTimer::kRounds);
    }
    return full.result().decode_ms;
  }

 private:
  cache::Session session_;
};

/// One pass over prompt and steps. Returns the logits [steps, vocab] before each stepped token.
Tensor pass(const checkpoint::LanguageModel& lm, const cache::Policy& policy, const Tensor& tokens,
            const PolicyCompareOptions& o, Reference& reference, double& reference_ms, PolicyResult& result) {
  std::vector<double> prefill, build, first;
  std::optional<cache::Session> session;
  Tensor last;
  for (int64_t run = 0; run <= o.repeats; ++run) {  // the first one is not timed
    session.emplace(lm.model, policy);
    const double start = now();
    last = session->prefill(tokens.narrow(1, 0, o.prompt), o.prompt + o.steps)[0];
    (void)last.argmax().item<int64_t>();
    const double chosen = now();
    result.prompt_bytes = session->cache_bytes();
    session->finish_prompt();
    if (run == 0) {
      const auto kv_heads = lm.model->config().kv_heads;
      StepTimer timer(*session, kv_heads, tokens.slice(1, o.prompt));
      reference_ms = reference.beside(timer, kv_heads, tokens.slice(1, o.prompt));
      const auto steps = timer.result();
      result.decode_ms = steps.decode_ms;
      result.decode_p95_ms = steps.decode_p95_ms;
      result.attention_ms = steps.attention_ms;
      result.policy_ms = steps.policy_ms;
      result.read = steps.read;
      result.scored = steps.scored;
      result.full_steps = steps.full_steps;
      continue;
    }
    prefill.push_back(now() - start);
    build.push_back(now() - chosen);
    first.push_back(chosen - start);
  }
  result.prefill_s = median(prefill);
  result.build_s = median(build);
  result.ttft_s = median(first);

  std::vector<Tensor> logits{last};
  for (int64_t i = 0; i + 1 < o.steps; ++i) {
    logits.push_back(session->step(tokens[0].narrow(0, o.prompt + i, 1))[0]);
    result.cache_bytes = std::max(result.cache_bytes, session->cache_bytes());
  }
  const auto reads = session->reads();
  if (reads.prompt_visible) result.prompt_density = double(reads.prompt_pairs) / double(reads.prompt_visible);
  count_slots(*session, result);
  return torch::stack(logits);
}

/// Greedy tokens after the prompt, `steps` of them, or up to the first that differs from `expected`.
std::vector<int64_t> greedy(const checkpoint::LanguageModel& lm, const cache::Policy& policy, const Tensor& tokens,
                            const PolicyCompareOptions& o, const std::vector<int64_t>& expected) {
  cache::Session session(lm.model, policy);
  auto logits = session.prefill(tokens.narrow(1, 0, o.prompt), o.prompt + o.steps)[0];
  std::vector<int64_t> ids;
  while (true) {
    ids.push_back(logits.argmax().item<int64_t>());
    if (int64_t(ids.size()) == o.steps) return ids;
    if (!expected.empty() && ids.back() != expected[ids.size() - 1]) return ids;
    logits = session.step(torch::tensor({ids.back()}, torch::kInt64))[0];
  }
}

/// How far the policy follows the full cache's own text, and what it loses in every layer.
void compare_paths(const checkpoint::LanguageModel& lm, const cache::Policy& policy, const Tensor& tokens,
                   const PolicyCompareOptions& o, const std::vector<int64_t>& full, PolicyResult& result) {
  const auto ids = [&] {
    const MemoryMeter meter;
    auto ids = greedy(lm, policy, tokens, o, full);
    result.peak_bytes = meter.peak();
    return ids;
  }();
  result.first_divergence = std::mismatch(ids.begin(), ids.end(), full.begin()).first - ids.begin();
  result.layers =
      cache::layer_losses(lm.model, policy, tokens.narrow(1, 0, o.prompt + o.steps - 1), o.prompt, kRecallKeys);
  if (result.layers.empty()) return;
  result.mass = result.recall = 0;
  for (const auto& layer : result.layers) {
    result.mass += layer.mass;
    result.attention_kl += layer.kl;
    result.recall += layer.recall;
    result.out_rel_err += layer.out_rel_err;
  }
  for (double* mean : {&result.mass, &result.attention_kl, &result.recall, &result.out_rel_err})
    *mean /= double(result.layers.size());
}

/// A hash of the parameters' names, shapes and first bytes, so that a record says which model it is of.
std::string model_hash(const DecoderLm& model) {
  constexpr int64_t kMaxBytes = 1 << 16;
  uint64_t hash = 0;
  for (const auto& entry : model->named_parameters()) {
    const auto& weights = entry.value();
    const auto flat = weights.detach().flatten();
    const auto part = flat.slice(0, 0, std::max<int64_t>(1, kMaxBytes / int64_t(flat.element_size()))).contiguous();
    std::string bytes = fmt::format("{:016x}{}{}", hash, entry.key(), fmt::join(weights.sizes(), ","));
    bytes.append(static_cast<const char*>(part.data_ptr()), size_t(part.nbytes()));
    hash = tasks::hash64(bytes);
  }
  return fmt::format("{:016x}", hash);
}

/// Every policy with a budget, and the full cache, at several lengths.
std::vector<PolicySpeed> speeds_of(const checkpoint::LanguageModel& lm, const std::string& text,
                                   const std::vector<Contestant>& all, const PolicyCompareOptions& o) {
  auto lengths = o.lengths;
  if (lengths.empty()) lengths = {o.prompt / 4, o.prompt / 2, o.prompt};
  std::erase_if(lengths, [](int64_t length) { return length < 2; });
  std::sort(lengths.begin(), lengths.end());
  lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  const auto shape = cache::shape_of(lm.model->config());
  cache::HeadRanking ranking;
  std::vector<PolicySpeed> speeds;
  if (lengths.empty()) return speeds;
  const int64_t most = *std::max_element(o.batches.begin(), o.batches.end());
  const auto tokens = tokens_of(lm, text, lengths.back() + o.steps + most - 1);
  const auto measure = [&](const PolicyChoice& choice, int64_t prompt) {
    for (const int64_t batch : o.batches) {
      const auto texts = tokens[0].unfold(0, prompt + o.steps, 1).narrow(0, 0, batch);
      cache::Session session(lm.model, choice.make(shape), batch);
      session.prefill(texts.narrow(1, 0, prompt), prompt + o.steps);
      session.finish_prompt();
      StepTimer timer(session, batch * shape.kv_heads, texts.narrow(1, prompt, o.steps));
      timer.run(StepTimer::kSteps);
      const auto steps = timer.result();
      speeds.push_back({choice.name, prompt, batch, steps.decode_ms, steps.attention_ms, steps.policy_ms});
    }
  };
  for (const int64_t prompt : lengths) measure({}, prompt);
  for (const auto& policy : cache::policies()) {
    const auto takes_part = [&](const Contestant& c) { return c.choice.name == policy.row.name; };
    if (!has_budget(policy) || std::none_of(all.begin(), all.end(), takes_part)) continue;
    if (policy.at_mean_budget && ranking.empty()) ranking = ranking_of(lm, o);
    for (const int64_t prompt : lengths) {
      auto choice = at_budget(policy, o.speed_budget, prompt, ranking);
      if (!o.kv.empty()) choice.settings["kv"] = o.kv;
      measure(choice, prompt);
    }
  }
  return speeds;
}

bool within(const PolicyResult& r, const PolicyLimits& limits) {
  return (!limits.max_kl || r.fidelity.kl <= *limits.max_kl) &&
         (!limits.max_bytes || r.peak_cache_bytes() <= *limits.max_bytes) &&
         (!limits.min_tokens_per_second || r.tokens_per_second >= *limits.min_tokens_per_second);
}

/// What was timed at another moment, at the speed that the machine has in the median.
void bring_to_one_speed(std::vector<PolicyResult>& rows, const std::vector<double>& reference_ms) {
  const double usual = median(reference_ms);
  for (size_t i = 0; i < rows.size(); ++i) {
    auto& r = rows[i];
    for (double* time : {&r.decode_ms, &r.decode_p95_ms, &r.attention_ms, &r.policy_ms})
      *time *= usual / reference_ms[i];
    r.tokens_per_second = 1e3 / r.decode_ms;
  }
}

/// Whether `a` is no worse than `b` in bytes and in KL, and better in one of them.
bool dominates(const PolicyResult& a, const PolicyResult& b) {
  const auto cost = [](const PolicyResult& r) {
    return std::pair(double(r.cache_bytes), std::max(r.fidelity.kl, 0.0));
  };
  const auto [bytes, kl] = cost(a);
  const auto [other_bytes, other_kl] = cost(b);
  return bytes <= other_bytes && kl <= other_kl && (bytes < other_bytes || kl < other_kl);
}

}  // namespace

void decide(PolicyComparison& c) {
  c.chosen.reset();
  for (size_t i = 0; i < c.rows.size(); ++i) {
    auto& row = c.rows[i];
    row.allowed = within(row, c.options.limits);
    row.pareto = std::none_of(c.rows.begin(), c.rows.end(), [&](const auto& other) { return dominates(other, row); });
    const auto cost = [](const PolicyResult& r) { return std::pair(r.cache_bytes, r.read + r.scored); };
    if (row.allowed && (!c.chosen || cost(row) < cost(c.rows[*c.chosen]))) c.chosen = i;
  }
}

PolicyComparison compare_policies(
    const checkpoint::LanguageModel& lm, const std::string& text, const PolicyCompareOptions& options,
    const std::function<void(int64_t done, int64_t total, const std::string& next)>& progress) {
  for (const double budget : options.budgets)
    require(budget > 0 && budget < 1, "budget {}: a share of the prompt above 0 and below 1 is accepted", budget);
  for (const int64_t length : options.lengths)
    require(length >= 2, "length {}: a prompt of 2 or more tokens is accepted", length);
  require(options.speed_budget > 0 && options.speed_budget < 1,
          "speed budget {}: a share of the prompt above 0 and below 1 is accepted", options.speed_budget);
  require(!options.batches.empty(), "a batch of 1 or more sequences is needed");
  for (const int64_t batch : options.batches)
    require(batch >= 1 && batch <= 4096, "batch {}: 1 to 4096 sequences are accepted", batch);
  require(options.repeats >= 1, "repeats {}: 1 or more is accepted", options.repeats);
  require(options.prompt >= 2 && options.steps >= 2, "prompt {} and steps {}: 2 or more tokens each are accepted",
          options.prompt, options.steps);
  const auto all = contestants(lm, options);
  const auto shape = cache::shape_of(lm.model->config());
  std::vector<cache::Policy> policies;
  for (const auto& contestant : all) policies.push_back(contestant.choice.make(shape));
  const auto task =
      options.task.empty()
          ? nullptr
          : tasks::make_text_task(options.task, {{"max_tokens", options.prompt}, {"seed", int64_t(options.seed)}},
                                  cache::token_count(lm));

  PolicyComparison c;
  c.options = options;
  c.machine = measured_machine_json();
  c.source = {{"prompt", options.prompt},
              {"steps", options.steps},
              {"layers", shape.layers},
              {"kv_heads", shape.kv_heads},
              {"trained_length", shape.max_length},
              {"model_hash", model_hash(lm.model)},
              {"dtype", c10::toString(lm.model->parameters().front().scalar_type())},
              {"repeats", options.repeats},
              {"recall_keys", kRecallKeys},
              {"seed", options.seed},
              {"task", options.task},
              {"task_samples", options.task_samples}};
  const auto tokens = tokens_of(lm, text, options.prompt + options.steps);
  const auto next = tokens[0].slice(0, options.prompt);
  Tensor full;
  std::vector<int64_t> full_text;
  Reference reference(lm, policies[0], tokens, options);
  std::vector<double> reference_ms;
  for (size_t i = 0; i < all.size(); ++i) {
    if (progress) progress(int64_t(i), int64_t(all.size()), all[i].choice.name);
    PolicyResult result{all[i].choice, all[i].budget};
    const auto logits = pass(lm, policies[i], tokens, options, reference, reference_ms.emplace_back(), result);
    if (i == 0) {
      full = logits;
      full_text = greedy(lm, policies[0], tokens, options, {});
    }
    compare_paths(lm, policies[i], tokens, options, full_text, result);
    result.fidelity = cache::fidelity(full, logits, next);
    if (all[i].budget == kMeasured)
      result.budget = std::min(result.prompt_density, double(result.cache_bytes) / double(c.rows.front().cache_bytes));
    if (task) result.task = cache::score_task(lm, policies[i], *task, tasks::Split::test, options.task_samples);
    c.rows.push_back(std::move(result));
  }
  bring_to_one_speed(c.rows, reference_ms);
  c.speeds = speeds_of(lm, text, all, options);
  decide(c);
  return c;
}

}  // namespace heed::bench
