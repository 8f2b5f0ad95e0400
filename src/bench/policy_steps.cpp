#include "bench/policy_steps.h"

#include <algorithm>
#include <cmath>

#include "heed/bench/measure.h"

namespace heed::bench {
namespace {

constexpr int64_t kWarmUp = 8, kSteps = 64;

/// A step, and back to the lengths before it.
void repeatable_step(cache::Session& session, const torch::Tensor& token, std::vector<double>& times) {
  std::vector<std::pair<cache::LayerCache*, int64_t>> before;
  cache::each_cache(session.state(),
                    [&](cache::LayerCache& layer) { before.emplace_back(&layer, layer.kv().longest()); });
  const double start = now();
  session.step(token);
  times.push_back(now() - start);
  for (const auto& [layer, slots] : before) layer->hold_at(slots);
}

}  // namespace

PolicySteps time_steps(cache::Session& session, int64_t rows, const torch::Tensor& tokens) {
  std::vector<double> times, attention, policy;
  const auto next = [&](int64_t i) { return tokens.select(1, i % tokens.size(1)); };
  for (int64_t i = 0; i < kWarmUp; ++i) repeatable_step(session, next(i), times);
  times.clear();
  const auto begin = session.reads();
  auto last = begin;
  for (int64_t i = 0; i < kSteps; ++i) {
    repeatable_step(session, next(kWarmUp + i), times);
    const auto reads = session.reads();
    attention.push_back(reads.attention_seconds - last.attention_seconds);
    policy.push_back(reads.policy_seconds - last.policy_seconds);
    last = reads;
  }
  PolicySteps steps;
  steps.decode_ms = 1e3 * median(times);
  steps.attention_ms = 1e3 * median(attention);
  steps.policy_ms = 1e3 * median(policy);
  std::sort(times.begin(), times.end());
  steps.decode_p95_ms = 1e3 * times[size_t(std::ceil(0.95 * double(times.size()))) - 1];
  const double layer_steps = double(last.steps - begin.steps);
  if (layer_steps > 0) {
    steps.read = double(last.attended - begin.attended) / layer_steps / double(rows);
    steps.scored = double(last.scored - begin.scored) / layer_steps / double(rows);
    steps.full_steps = double(last.full_steps - begin.full_steps) / layer_steps;
  }
  return steps;
}

}  // namespace heed::bench
