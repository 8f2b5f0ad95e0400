// A retrieval task at every depth of prompts of several lengths: the needle-in-a-haystack map.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "heed/cache/evaluate.h"

namespace heed::bench {

struct DepthMap {
  std::string model, task;
  cache::PolicyChoice choice;
  std::vector<int64_t> lengths, depths;              ///< tokens, percent
  std::vector<std::vector<cache::TaskScore>> cells;  ///< [length][depth]
};

/// `samples` answers a cell. The task must have the parameters max_tokens and depth; `depths` points from 0 to 100 %.
DepthMap depth_map(const checkpoint::LanguageModel& lm, const cache::PolicyChoice& choice, const std::string& task,
                   const nlohmann::json& parameters, const std::vector<int64_t>& lengths, int64_t depths,
                   int64_t samples, const cache::ProgressFunction& progress = {});

nlohmann::ordered_json to_json(const DepthMap& map);
std::string depth_table(const DepthMap& map);
std::string depth_html(const DepthMap& map);

}  // namespace heed::bench
