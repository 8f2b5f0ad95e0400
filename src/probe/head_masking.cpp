#include "heed/probe/head_masking.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "heed/cache/evaluate.h"
#include "heed/error.h"
#include "heed/mixers/taps.h"
#include "heed/tasks/random.h"
#include "heed/tasks/task.h"
#include "probe/greedy.h"
#include "probe/observed_layer.h"

namespace heed::probe {
namespace {

using torch::Tensor;

/// float [L, H]: 0 at the heads, else 1.
Tensor keep_all_but(const Heads& heads, const DecoderConfig& config) {
  auto keep = torch::ones({int64_t(config.layers.size()), config.heads});
  for (const auto& [layer, head] : heads) keep[layer][head] = 0;
  return keep;
}

class ZeroHeads : public Taps {
 public:
  explicit ZeroHeads(const Tensor& keep) : keep_(keep) {}
  void core_output(const LayerContext& layer, Tensor& heads) override {
    heads = heads * keep_[layer.index].to(heads.scalar_type()).view({1, -1, 1, 1});
  }

 private:
  Tensor keep_;
};

/// A query of 0 gives every visible token the same weight.
class UniformHeads : public cache::LayerCache {
 public:
  explicit UniformHeads(const Tensor& keep) : keep_(keep) {}

 protected:
  Tensor attend_step(const Chunk& chunk) override {
    auto masked = chunk;
    masked.q = chunk.q * keep_.to(chunk.q.scalar_type()).view({1, -1, 1, 1});
    return LayerCache::attend_step(masked);
  }

 private:
  Tensor keep_;  // [H]
};

double score_without(const checkpoint::LanguageModel& lm, const Heads& heads, Masking masking,
                     const tasks::TextTask& task, int64_t samples) {
  const auto keep = keep_all_but(heads, lm.model->config());
  ZeroHeads zero(keep);
  const auto full = cache::make_policy("full", {}, cache::shape_of(lm.model->config()));
  double sum = 0;
  for (int64_t i = 0; i < samples; ++i) {
    const auto sample = task.sample(tasks::Split::test, uint64_t(i));
    cache::Session session(lm.model, full);
    if (masking == Masking::zero)
      session.set_taps(&zero);
    else
      replace_caches(session, [&](int64_t layer) { return std::make_unique<UniformHeads>(keep[layer]); });
    sum += task.score(sample, greedy_answer(session, lm, lm.tokenizer.encode(sample.prompt), task.answer_bytes()));
  }
  return sum / double(samples);
}

}  // namespace

std::string to_string(Masking masking) { return masking == Masking::zero ? "zero" : "uniform"; }

double MaskingResult::random_mean() const {
  return random.empty() ? 0 : std::accumulate(random.begin(), random.end(), 0.0) / double(random.size());
}

Heads MaskingResult::needed() const {
  Heads heads;
  if (!alone.defined()) return heads;
  for (int64_t l = 0; l < alone.size(0); ++l)
    for (int64_t h = 0; h < alone.size(1); ++h)
      if (alone[l][h].item<double>() < 0.5 * unmasked) heads.push_back({l, h});
  return heads;
}

std::vector<size_t> MaskingResult::clear_draws() const {
  const auto heads = needed();
  std::vector<size_t> draws;
  for (size_t d = 0; d < drawn.size(); ++d)
    if (std::none_of(heads.begin(), heads.end(), [&](const auto& head) {
          return std::find(drawn[d].begin(), drawn[d].end(), head) != drawn[d].end();
        }))
      draws.push_back(d);
  return draws;
}

Heads heads_above(const HeadScore& score, double threshold) {
  Heads heads;
  const auto value = [&](const std::pair<int64_t, int64_t>& head) {
    return score.values[head.first][head.second].item<double>();
  };
  for (int64_t l = 0; l < score.values.size(0); ++l)
    for (int64_t h = 0; h < score.values.size(1); ++h)
      if (value({l, h}) > threshold) heads.push_back({l, h});
  std::stable_sort(heads.begin(), heads.end(), [&](const auto& a, const auto& b) { return value(a) > value(b); });
  return heads;
}

Heads top_heads(const HeadScore& score, int64_t count) {
  auto heads = heads_above(score, -INFINITY);
  heads.resize(std::min(heads.size(), size_t(std::max<int64_t>(0, count))));
  return heads;
}

MaskingResult mask_heads(const checkpoint::LanguageModel& lm, const Heads& found, Masking masking,
                         const MaskingOptions& options, const ProgressFunction& progress) {
  torch::NoGradGuard no_grad;
  const auto& config = lm.model->config();
  const auto holds = [](const Heads& heads, std::pair<int64_t, int64_t> head) {
    return std::find(heads.begin(), heads.end(), head) != heads.end();
  };
  Heads others;
  for (int64_t l = 0; l < int64_t(config.layers.size()); ++l)
    for (int64_t h = 0; h < config.heads; ++h)
      if (!holds(found, {l, h}) && !holds(options.spared, {l, h})) others.push_back({l, h});
  require(!found.empty(), "no head to mask: none scores above the threshold");
  require(others.size() >= found.size(), "{} heads are found and {} others are left to draw as many from", found.size(),
          others.size());
  require(options.samples >= 1 && options.draws >= 1, "samples and draws of 1 or more are accepted");
  const auto task = tasks::make_text_task(options.task, options.parameters, cache::token_count(lm));
  MaskingResult result{masking};
  int64_t done = 0;
  const auto measure = [&](const Heads& heads) {
    const double score = score_without(lm, heads, masking, *task, options.samples);
    if (progress) progress(++done, options.draws + 2 + (options.alone ? int64_t(others.size()) : 0));
    return score;
  };
  result.unmasked = measure({});
  result.found = measure(found);
  for (int64_t d = 0; d < options.draws; ++d) {
    tasks::Random random(tasks::hash64("heads to mask") + options.seed, uint64_t(d));
    Heads drawn;
    for (const int64_t i : random.distinct(int64_t(found.size()), int64_t(others.size())))
      drawn.push_back(others[size_t(i)]);
    result.random.push_back(measure(drawn));
    result.drawn.push_back(std::move(drawn));
  }
  if (options.alone) {
    result.alone = torch::full({int64_t(config.layers.size()), config.heads}, std::nan(""), torch::kFloat64);
    for (const auto& [layer, head] : others) result.alone[layer][head] = measure({{layer, head}});
  }
  return result;
}

}  // namespace heed::probe
