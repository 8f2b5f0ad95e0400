#include "heed/bench/depth_map.h"

#include <fmt/format.h>

#include <cmath>

#include "bench/page.h"
#include "bench/svg.h"

namespace heed::bench {
namespace {

std::string setting_of(const DepthMap& map) {
  return fmt::format("{}, {} under {}{}, {} samples a cell", map.model, map.task, map.choice.name,
                     map.choice.settings.empty() ? "" : " " + map.choice.settings.dump(),
                     map.cells.empty() ? 0 : map.cells[0][0].samples);
}

}  // namespace

DepthMap depth_map(const checkpoint::LanguageModel& lm, const cache::PolicyChoice& choice, const std::string& task,
                   const nlohmann::json& parameters, const std::vector<int64_t>& lengths, int64_t depths,
                   int64_t samples, const cache::ProgressFunction& progress) {
  DepthMap map{"", task, choice, lengths, {}, {}};
  for (int64_t d = 0; d < depths; ++d) map.depths.push_back(std::llround(100.0 * double(d) / double(depths - 1)));
  const auto policy = choice.make(cache::shape_of(lm.model->config()));
  const int64_t cells = int64_t(lengths.size()) * depths;
  for (const auto length : lengths) {
    map.cells.emplace_back();
    for (const auto depth : map.depths) {
      auto settings = parameters;
      settings["max_tokens"] = length;
      settings["depth"] = depth;
      const auto made = tasks::make_text_task(task, settings);
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
  constexpr double kCellWidth = 56, kCellHeight = 34, kLeft = 90, kTop = 46;
  Svg svg(kLeft + kCellWidth * double(map.depths.size()) + 10, kTop + kCellHeight * double(map.lengths.size()) + 10,
          "score by length and depth");
  svg.text({kLeft, 16}, "depth of the needle", "label");
  svg.text({kLeft - 10, kTop - 8}, "tokens", "label", Anchor::end);
  for (size_t d = 0; d < map.depths.size(); ++d)
    svg.text({kLeft + kCellWidth * (double(d) + 0.5), kTop - 8}, fmt::format("{} %", map.depths[d]), "tick",
             Anchor::middle);
  for (size_t l = 0; l < map.lengths.size(); ++l) {
    const double y = kTop + kCellHeight * double(l);
    svg.text({kLeft - 10, y + kCellHeight / 2 + 4}, std::to_string(map.lengths[l]), "tick", Anchor::end);
    for (size_t d = 0; d < map.depths.size(); ++d) {
      const double x = kLeft + kCellWidth * double(d), score = map.cells[l][d].score;
      svg.rectangle({x + 1, y + 1}, kCellWidth - 2, kCellHeight - 2, fmt::format("heat h{}", std::lround(10 * score)));
      svg.text({x + kCellWidth / 2, y + kCellHeight / 2 + 4}, fmt::format("{:.2f}", score),
               score > 0.55 ? "name on" : "name", Anchor::middle);
    }
  }
  return page("heed eval niah", "Retrieval by length and depth", setting_of(map),
              fmt::format("<figure>{}</figure>\n<p class=\"soft\">Every cell is the mean score of greedy answers; 95 % "
                          "intervals are in the JSON output.</p>\n",
                          svg.str()),
              "");
}

}  // namespace heed::bench
