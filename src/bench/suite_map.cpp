#include "heed/bench/suite_map.h"

#include <fmt/format.h>

#include "bench/heat_map.h"
#include "bench/page.h"
#include "bench/svg.h"
#include "heed/error.h"

namespace heed::bench {
namespace {

/// Null where the least sample is longer than `length`.
std::unique_ptr<tasks::TextTask> fitting_task(const std::string& name, nlohmann::json parameters, int64_t length,
                                              const tasks::TokenCount& tokens) {
  parameters["max_tokens"] = length;
  auto task = tasks::make_text_task(name, parameters, tokens);
  try {
    task->sample(tasks::Split::test, 0);
  } catch (const Error&) {
    return nullptr;
  }
  return task;
}

std::string setting_of(const SuiteMap& map) {
  int64_t samples = 0;
  for (const auto& row : map.rows)
    for (const auto& cell : row.cells)
      if (cell) samples = cell->samples;
  return fmt::format("{}, {} under {}{}, {} samples a cell", map.model, map.suite, map.choice.name,
                     map.choice.settings.empty() ? std::string() : fmt::format(" {}", map.choice.settings.dump()),
                     samples);
}

}  // namespace

SuiteMap suite_map(const checkpoint::LanguageModel& lm, const cache::PolicyChoice& choice, const tasks::Suite& suite,
                   const nlohmann::json& settings, const std::vector<int64_t>& lengths, int64_t samples,
                   double threshold, const cache::ProgressFunction& progress) {
  SuiteMap map{"", suite.row.name, choice, lengths, threshold, {}};
  const auto policy = choice.make(cache::shape_of(lm.model->config()));
  const auto tokens = cache::token_count(lm);
  const auto parameters = tasks::settings_of(suite, settings);
  const auto cells = int64_t(lengths.size() * suite.members.size());
  int64_t before = 0;
  bool any = false;
  for (size_t m = 0; m < suite.members.size(); ++m) {
    SuiteMap::Row row{suite.members[m].label, suite.members[m].task, parameters[m], 0, {}, 0};
    std::vector<double> scores;
    for (const auto length : lengths) {
      const auto task = fitting_task(row.task, parameters[m], length, tokens);
      row.cells.emplace_back();
      if (task) {
        row.cells.back() =
            cache::score_task(lm, policy, *task, tasks::Split::test, samples, [&](int64_t done, int64_t total) {
              if (progress) progress(before * total + done, cells * total);
            });
        row.chance = task->chance();
        any = true;
      }
      scores.push_back(task ? row.cells.back()->score : 0);
      ++before;
    }
    row.effective_context = tasks::effective_context(lengths, scores, threshold);
    map.rows.push_back(std::move(row));
  }
  require(any, "suite {}: no task of it fits {} tokens", suite.row.name, lengths.empty() ? 0 : lengths.back());
  return map;
}

nlohmann::ordered_json to_json(const SuiteMap& map) {
  nlohmann::ordered_json json{{"model", map.model},
                              {"suite", map.suite},
                              {"policy", map.choice.name},
                              {"settings", map.choice.settings},
                              {"lengths", map.lengths},
                              {"threshold", map.threshold},
                              {"tasks", nlohmann::ordered_json::array()}};
  for (const auto& row : map.rows) {
    nlohmann::ordered_json entry{{"label", row.label},
                                 {"task", row.task},
                                 {"parameters", row.parameters},
                                 {"chance", row.chance},
                                 {"effective_context", row.effective_context},
                                 {"results", nlohmann::ordered_json::array()}};
    for (size_t l = 0; l < map.lengths.size(); ++l) {
      if (!row.cells[l]) continue;
      const auto& cell = *row.cells[l];
      entry["results"].push_back({{"length", map.lengths[l]},
                                  {"score", cell.score},
                                  {"low", cell.interval.low},
                                  {"high", cell.interval.high},
                                  {"match_all", cell.match_all},
                                  {"match_any", cell.match_any},
                                  {"exact", cell.exact},
                                  {"forced", cell.forced},
                                  {"samples", cell.samples}});
    }
    json["tasks"].push_back(std::move(entry));
  }
  return json;
}

std::string suite_table(const SuiteMap& map) {
  std::string text = setting_of(map) + fmt::format("\n  {:<24}{:>8}", "task", "chance");
  for (const auto length : map.lengths) text += fmt::format("{:>8}", length);
  text += fmt::format("{:>11}\n", "effective");
  for (const auto& row : map.rows) {
    text += fmt::format("  {:<24}{:>8.2g}", row.label, row.chance);
    for (const auto& cell : row.cells) text += fmt::format("{:>8}", cell ? fmt::format("{:.2f}", cell->score) : "-");
    text += fmt::format("{:>11}\n", row.effective_context);
  }
  return text;
}

std::string suite_html(const SuiteMap& map) {
  HeatMap picture{"score by task and length", "task", "tokens", {}, {}, {}};
  std::string rows;
  for (const auto& row : map.rows) {
    picture.rows.push_back(row.label);
    rows += fmt::format("<tr><td>{}</td><td>{:.2g}</td><td>{}</td></tr>\n", escape_xml(row.label), row.chance,
                        row.effective_context);
  }
  for (const auto length : map.lengths) picture.columns.push_back(std::to_string(length));
  picture.score = [&](size_t row, size_t column) -> std::optional<double> {
    const auto& cell = map.rows[row].cells[column];
    return cell ? std::optional(cell->score) : std::nullopt;
  };
  const auto body = fmt::format(
      "<figure>{}</figure>\n<div class=\"scroll\"><table>\n<tr><th>task</th><th>chance</th><th>effective context</th>"
      "</tr>\n{}</table></div>\n<p class=\"soft\">Every cell is the mean score of greedy answers; 95 % intervals are "
      "in "
      "the JSON output. The effective context is the longest length with a score of at least {:g}. Empty places: no "
      "sample fits.</p>\n",
      heat_map(picture), rows, map.threshold);
  return page("heed eval suite", fmt::format("{} by length", map.suite), setting_of(map), body, "");
}

}  // namespace heed::bench
