// What heads do, as a table, JSON and a picture of heads by layers.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "heed/probe/head_masking.h"
#include "heed/probe/head_scores.h"

namespace heed::bench {

struct HeadMap {
  std::string model;
  probe::HeadScores scores;
  double threshold = 0.1;                    ///< of a retrieval head
  std::vector<probe::MaskingResult> masked;  ///< empty: not asked for
};

nlohmann::ordered_json to_json(const HeadMap& map);
/// Every head a line, the largest retrieval score first, at most `most` of them.
std::string head_table(const HeadMap& map, int64_t most);
/// A picture of every score.
std::string head_html(const HeadMap& map);

}  // namespace heed::bench
