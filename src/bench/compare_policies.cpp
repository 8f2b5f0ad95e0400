#include "heed/bench/compare_policies.h"

#include "heed/bench/measure.h"
#include "heed/error.h"

namespace heed::bench {
namespace {

using cache::PolicyChoice;
using torch::Tensor;

struct Contestant {
  PolicyChoice choice;
  double budget;
};

std::vector<Contestant> contestants(const PolicyCompareOptions& o) {
  std::vector<Contestant> all{{PolicyChoice{}, 1}};
  const auto wanted = [&](const std::string& name) {
    return o.policies.empty() || std::find(o.policies.begin(), o.policies.end(), name) != o.policies.end();
  };
  for (const auto& policy : cache::policies()) {
    if (!policy.at_budget || !wanted(policy.row.name)) continue;
    for (const double budget : o.budgets)
      all.push_back(
          {{policy.row.name, policy.at_budget(std::max<int64_t>(2, std::llround(budget * double(o.prompt))))}, budget});
  }
  for (const auto& name : o.policies) {
    const auto known = [&](const cache::PolicyRow& policy) { return policy.row.name == name; };
    const auto row = std::find_if(cache::policies().begin(), cache::policies().end(), known);
    // A file, a policy without a budget, or a name that make_policy refuses.
    if (name != "full" && (row == cache::policies().end() || !row->at_budget))
      all.push_back({PolicyChoice::parse(name), 1});
  }
  return all;
}

Tensor tokens_of(const checkpoint::LanguageModel& lm, const std::string& text, int64_t count) {
  auto ids = lm.tokenizer.encode(text);
  require(ids.size() > 1, "the text has {} tokens: two or more are accepted", ids.size());
  const size_t own = ids.size();
  while (int64_t(ids.size()) < count) ids.push_back(ids[ids.size() - own]);
  return torch::tensor(at::ArrayRef<int64_t>(ids.data(), size_t(count))).unsqueeze(0);
}

/// One pass over prompt and steps. Returns the logits [steps, vocab] before each stepped token.
Tensor pass(const checkpoint::LanguageModel& lm, const cache::Policy& policy, const Tensor& tokens,
            const PolicyCompareOptions& o, PolicyResult& result) {
  cache::Session session(lm.model, policy);
  double start = now();
  std::vector<Tensor> logits{session.prefill(tokens.narrow(1, 0, o.prompt), o.prompt + o.steps)[0]};
  result.prompt_bytes = session.cache_bytes();
  session.finish_prompt();
  result.prefill_s = now() - start;
  std::vector<double> times;
  for (int64_t i = 0; i + 1 < o.steps; ++i) {
    start = now();
    logits.push_back(session.step(tokens[0].narrow(0, o.prompt + i, 1))[0]);
    times.push_back(now() - start);
    result.cache_bytes = std::max(result.cache_bytes, session.cache_bytes());
  }
  result.decode_ms = 1e3 * median(times);
  result.tokens_per_second = 1e3 / result.decode_ms;
  const auto reads = session.reads();
  const double rows = double(reads.steps) * double(lm.model->config().kv_heads);
  if (reads.steps) {
    result.read = double(reads.attended) / rows;
    result.scored = double(reads.scored) / rows;
    const double steps = double(times.size());
    result.attention_ms = 1e3 * reads.attention_seconds / steps;
    result.policy_ms = 1e3 * reads.policy_seconds / steps;
  }
  return torch::stack(logits);
}

bool within(const PolicyResult& r, const PolicyLimits& limits) {
  return (!limits.max_kl || r.fidelity.kl <= *limits.max_kl) &&
         (!limits.max_bytes || r.cache_bytes <= *limits.max_bytes) &&
         (!limits.min_tokens_per_second || r.tokens_per_second >= *limits.min_tokens_per_second);
}

}  // namespace

PolicyComparison compare_policies(
    const checkpoint::LanguageModel& lm, const std::string& text, const PolicyCompareOptions& options,
    const std::function<void(int64_t done, int64_t total, const std::string& next)>& progress) {
  for (const double budget : options.budgets)
    require(budget > 0 && budget < 1, "budget {}: a share of the prompt above 0 and below 1 is accepted", budget);
  require(options.prompt >= 2 && options.steps >= 2, "prompt {} and steps {}: 2 or more tokens each are accepted",
          options.prompt, options.steps);
  const auto all = contestants(options);
  const auto shape = cache::shape_of(lm.model->config());
  std::vector<cache::Policy> policies;
  for (const auto& contestant : all) policies.push_back(contestant.choice.make(shape));
  const auto task = options.task.empty()
                        ? nullptr
                        : tasks::make_text_task(options.task, {{"max_tokens", options.prompt}}, cache::token_count(lm));

  PolicyComparison c;
  c.options = options;
  c.machine = measured_machine_json();
  c.source = {{"prompt", options.prompt},
              {"steps", options.steps},
              {"layers", shape.layers},
              {"kv_heads", shape.kv_heads},
              {"trained_length", shape.max_length},
              {"task", options.task},
              {"task_samples", options.task_samples}};
  const auto tokens = tokens_of(lm, text, options.prompt + options.steps);
  const auto next = tokens[0].slice(0, options.prompt);
  {
    // The first pass meets cold caches and fresh memory; it is not reported.
    PolicyResult warm_up;
    pass(lm, policies[0], tokens, options, warm_up);
  }
  Tensor full;
  for (size_t i = 0; i < all.size(); ++i) {
    if (progress) progress(int64_t(i), int64_t(all.size()), all[i].choice.name);
    PolicyResult result{all[i].choice, all[i].budget};
    const auto logits = pass(lm, policies[i], tokens, options, result);
    if (i == 0) full = logits;
    result.fidelity = cache::fidelity(full, logits, next);
    if (task) result.task = cache::score_task(lm, policies[i], *task, tasks::Split::test, options.task_samples);
    result.allowed = within(result, options.limits);
    c.rows.push_back(std::move(result));
  }
  for (size_t i = 0; i < c.rows.size(); ++i) {
    const auto cost = [](const PolicyResult& r) { return std::pair(r.cache_bytes, r.read + r.scored); };
    if (c.rows[i].allowed && (!c.chosen || cost(c.rows[i]) < cost(c.rows[*c.chosen]))) c.chosen = i;
  }
  return c;
}

}  // namespace heed::bench
