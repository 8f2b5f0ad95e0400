#include "bench/policy_steps.h"

#include <algorithm>
#include <cmath>

#include "heed/bench/measure.h"

namespace heed::bench {
namespace {

constexpr int64_t kWarmUp = 8;

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

StepTimer::StepTimer(cache::Session& session, int64_t rows, torch::Tensor tokens)
    : session_(session), rows_(rows), tokens_(std::move(tokens)) {
  for (int64_t i = 0; i < kWarmUp; ++i) step();
  times_.clear();
  begin_ = last_ = session_.reads();
}

void StepTimer::step() { repeatable_step(session_, tokens_.select(1, next_++ % tokens_.size(1)), times_); }

void StepTimer::run(int64_t steps) {
  for (int64_t i = 0; i < steps; ++i) {
    step();
    const auto reads = session_.reads();
    attention_.push_back(reads.attention_seconds - last_.attention_seconds);
    policy_.push_back(reads.policy_seconds - last_.policy_seconds);
    last_ = reads;
  }
}

PolicySteps StepTimer::result() const {
  PolicySteps steps;
  steps.decode_ms = 1e3 * median(times_);
  steps.attention_ms = 1e3 * median(attention_);
  steps.policy_ms = 1e3 * median(policy_);
  auto sorted = times_;
  std::sort(sorted.begin(), sorted.end());
  steps.decode_p95_ms = 1e3 * sorted[size_t(std::ceil(0.95 * double(sorted.size()))) - 1];
  const double layer_steps = double(last_.steps - begin_.steps);
  if (layer_steps > 0) {
    steps.read = double(last_.attended - begin_.attended) / layer_steps / double(rows_);
    steps.scored = double(last_.scored - begin_.scored) / layer_steps / double(rows_);
    steps.full_steps = double(last_.full_steps - begin_.full_steps) / layer_steps;
  }
  return steps;
}

}  // namespace heed::bench
