#include "heed/bench/depth_map.h"

#include <fmt/format.h>

#include <cmath>

#include "bench/heat_map.h"
#include "bench/page.h"

namespace heed::bench {
namespace {

std::string setting_of(const DepthMap& map) {
  return fmt::format("{}, {} under {}{}, {} samples a cell", map.model, map.task, map.choice.name,
                     map.choice.settings.empty() ? std::string() : fmt::format(" {}", map.choice.settings.dump()),
                     map.cells.empty() ? 0 : map.cells[0][0].samples);
}

}  // namespace

DepthMap depth_map(const checkpoint::LanguageModel& lm, const cache::PolicyChoice& choice, const std::string& task,
                   const nlohmann::json& parameters, const std::vector<int64_t>& lengths, int64_t depths,
                   int64_t samples, const cache::ProgressFunction& progress) {
  DepthMap map{"", task, choice, lengths, {}, {}};
  for (int64_t d = 0; d < depths; ++d) map.depths.push_back(std::llround(100.0 * double(d) / double(depths - 1)));
  const auto policy = choice.make(cache::shape_of(lm.model->config()));
  const auto tokens = cache::token_count(lm);
  const int64_t cells = int64_t(lengths.size()) * depths;
  for (const auto length : lengths) {
    map.cells.emplace_back();
    for (const auto depth : map.depths) {
      auto settings = parameters;
      settings["max_tokens"] = length;
      settings["depth"] = depth;
      const auto made = tasks::make_text_task(task, settings, tokens);
      const int64_t before = (int64_t(map.cells.size()) - 1) * depths + int64_t(map.cells.back().size());
      map.cells.back().push_back(
          cache::score_task(lm, policy, *made, tasks::Split::test, samples, [&](int64_t done, int64_t total) {
            if (progress) progress(before * total + done, cells * total);
          }));
    }
  }
  return map;
}

nlohmann::ordered_json to_json(const DepthMap& map) {
  nlohmann::ordered_json json{{"model", map.model},
                              {"task", map.task},
                              {"policy", map.choice.name},
                              {"settings", map.choice.settings},
                              {"lengths", map.lengths},
                              {"depths", map.depths},
                              {"results", nlohmann::ordered_json::array()}};
  for (size_t l = 0; l < map.lengths.size(); ++l)
    for (size_t d = 0; d < map.depths.size(); ++d) {
      const auto& cell = map.cells[l][d];
      json["results"].push_back({{"length", map.lengths[l]},
                                 {"depth", map.depths[d]},
                                 {"score", cell.score},
                                 {"low", cell.interval.low},
                                 {"high", cell.interval.high},
                                 {"samples", cell.samples}});
    }
  return json;
}

std::string depth_table(const DepthMap& map) {
  std::string text = setting_of(map) + "\n  length   depth";
  for (const auto depth : map.depths) text += fmt::format("{:>6}%", depth);
  text += "\n";
  for (size_t l = 0; l < map.lengths.size(); ++l) {
    text += fmt::format("{:>8}        ", map.lengths[l]);
    for (const auto& cell : map.cells[l]) text += fmt::format("{:>7.2f}", cell.score);
    text += "\n";
  }
  return text;
}

std::string depth_html(const DepthMap& map) {
  HeatMap picture{"score by length and depth", "tokens", "depth of the needle", {}, {}, {}};
  for (const auto length : map.lengths) picture.rows.push_back(std::to_string(length));
  for (const auto depth : map.depths) picture.columns.push_back(fmt::format("{} %", depth));
  picture.score = [&](size_t row, size_t column) { return map.cells[row][column].score; };
  return page("heed eval niah", "Retrieval by length and depth", setting_of(map),
              fmt::format("<figure>{}</figure>\n<p class=\"soft\">Every cell is the mean score of greedy answers; 95 % "
                          "intervals are in the JSON output.</p>\n",
                          heat_map(picture)),
              "");
}

}  // namespace heed::bench
