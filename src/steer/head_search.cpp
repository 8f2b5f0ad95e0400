#include "heed/steer/head_search.h"

#include "heed/error.h"

namespace heed::steer {

HeadSearch search_heads(const checkpoint::LanguageModel& lm, const std::string& intervention,
                        const nlohmann::json& settings, const tasks::TextTask& task, int64_t samples,
                        const cache::ProgressFunction& progress) {
  require(samples >= 1, "{} samples: 1 or more are accepted", samples);
  require(!settings.contains("heads"), "intervention {}: heads are what is searched for", intervention);
  const auto shape = cache::shape_of(lm.model->config());
  int64_t done = 0;
  const int64_t total = shape.layers * shape.heads + 3;
  const auto score = [&](const nlohmann::json& heads, tasks::Split split) {
    auto own = settings;
    own["heads"] = heads;
    const auto policy = make_intervention(intervention, own, shape);
    const double result = score_task(lm, policy, task, split, samples).score;
    if (progress) progress(++done, total);
    return result;
  };
  using checkpoint::HeadTable;
  HeadSearch search{score(nlohmann::json::array(), tasks::Split::valid),
                    HeadTable("gain under " + intervention, HeadTable::Axis::query, shape.layers, shape.heads)};
  auto found = nlohmann::json::array();
  for (int64_t l = 0; l < shape.layers; ++l)
    for (int64_t h = 0; h < shape.heads; ++h) {
      const double gain =
          score(nlohmann::json::array({nlohmann::json::array({l, h})}), tasks::Split::valid) - search.unmodified;
      search.gains.set(l, h, gain);
      if (gain > 0) found.push_back({l, h});
    }
  search.found = score(found, tasks::Split::test);
  search.all = score("all", tasks::Split::test);
  return search;
}

}  // namespace heed::steer
