#include <algorithm>
#include <cmath>

#include "heed/cache/evaluate.h"
#include "heed/error.h"
#include "heed/probe/moa.h"

namespace heed::probe {
namespace {

using cache::PolicyChoice;

/// Bytes of keys and values behind a prompt of `length` tokens; whose they are does not matter.
int64_t held_bytes(const checkpoint::LanguageModel& lm, const PolicyChoice& choice, int64_t length) {
  cache::Session session(lm.model, choice.make(cache::shape_of(lm.model->config())));
  session.prefill(torch::zeros({1, length}, torch::kInt64));
  session.finish_prompt();
  int64_t bytes = 0;
  cache::each_cache(session.state(), [&](cache::LayerCache& layer) { bytes += layer.kv().used_bytes(); });
  return bytes;
}

/// Settings of `name` with which it holds as near to `bytes` as its dial gives: more tokens hold no fewer bytes.
PolicyChoice at_bytes(const checkpoint::LanguageModel& lm, const std::string& name, int64_t bytes, int64_t length,
                      const cache::HeadRanking& ranking) {
  const auto known = [&](const cache::PolicyRow& row) { return row.row.name == name; };
  const auto& row = *std::find_if(cache::policies().begin(), cache::policies().end(), known);
  const auto with = [&](int64_t tokens) -> PolicyChoice {
    return {name, row.at_budget ? row.at_budget(tokens) : row.at_mean_budget(tokens, length, ranking)};
  };
  // Every look is a whole prompt. Bytes grow nearly evenly with the dial, so a look goes where they should be reached;
  // one in three halves what is left, whatever their shape.
  int64_t low = 2, high = length, below = held_bytes(lm, with(low), length), above = held_bytes(lm, with(high), length);
  if (below >= bytes) return with(low);
  if (above <= bytes) return with(high);
  for (int64_t look = 1; high - low > 1; ++look) {
    const double share = look % 3 == 0 ? 0.5 : double(bytes - below) / double(above - below);
    const int64_t at = std::clamp<int64_t>(low + std::llround(share * double(high - low)), low + 1, high - 1);
    const int64_t held = held_bytes(lm, with(at), length);
    if (held == bytes) return with(at);
    (held < bytes ? low : high) = at;
    (held < bytes ? below : above) = held;
  }
  return with(bytes - below < above - bytes ? low : high);
}

}  // namespace

std::vector<WindowScore> compare_windows(const checkpoint::LanguageModel& lm, const MoaPlan& plan,
                                         const std::vector<int64_t>& lengths, const cache::HeadRanking& ranking,
                                         const WindowCompareOptions& o,
                                         const std::function<void(int64_t done, int64_t total)>& progress) {
  require(o.samples >= 1, "samples {}: 1 or more is accepted", o.samples);
  const auto shape = cache::shape_of(lm.model->config());
  std::vector<WindowScore> scores;
  const auto total = int64_t(lengths.size()) * 4;
  for (const int64_t length : lengths) {
    auto parameters = o.parameters;
    parameters["max_tokens"] = length;
    const auto task = tasks::make_text_task(o.task, parameters, cache::token_count(lm));
    const auto add = [&](const std::string& name, const PolicyChoice& choice) {
      const auto score = cache::score_task(lm, choice.make(shape), *task, tasks::Split::test, o.samples);
      scores.push_back({name, length, held_bytes(lm, choice, length), score.interval, score.score});
      if (progress) progress(int64_t(scores.size()), total);
    };
    const PolicyChoice moa{"moa_sparse", plan.settings()};
    const int64_t bytes = held_bytes(lm, moa, length);
    add("full", {});
    add("moa", moa);
    add("uniform", at_bytes(lm, "moa_sparse", bytes, length, ranking));
    add("duo", at_bytes(lm, "duo_attention", bytes, length, ranking));
  }
  return scores;
}

}  // namespace heed::probe
