// A comparison on a task as JSON and as a table.
#include <fmt/format.h>

#include <cmath>

#include "bench/task_words.h"
#include "bench/units.h"
#include "heed/bench/compare_tasks.h"

namespace heed::bench {
namespace {

nlohmann::ordered_json number(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json();
}

}  // namespace

nlohmann::ordered_json to_json(const train::TaskRun& run) {
  const auto& score = run.score;
  nlohmann::ordered_json json{{"score", score.score}, {"loss", score.loss}};
  for (const auto& [name, value] : score.details) json[name] = value;
  if (score.places.size() > 1) json["places"] = score.places;
  json["beyond"] = nlohmann::ordered_json::array();
  for (const double other : run.beyond) json["beyond"].push_back(number(other));
  json["losses"] = run.losses;
  json["tokens_per_second"] = run.tokens_per_second;
  return json;
}

nlohmann::ordered_json to_json(const TaskComparison& c) {
  const auto& o = c.options;
  auto results = nlohmann::ordered_json::array();
  for (const auto& r : c.rows) {
    nlohmann::ordered_json row{{"mixer", r.mixer}};
    if (!r.skipped.empty()) {
      row["skipped"] = r.skipped;
    } else {
      auto beyond = nlohmann::ordered_json::array(), runs = nlohmann::ordered_json::array();
      for (size_t i = 0; i < o.beyond.size(); ++i)
        beyond.push_back({{"parameters", o.beyond[i]}, {"score", number(r.mean_beyond(i))}});
      for (size_t s = 0; s < r.runs.size(); ++s) {
        nlohmann::ordered_json run{{"seed", o.seeds[s]}};
        run.update(to_json(r.runs[s]));
        runs.push_back(run);
      }
      row.update({{"score", r.mean()},
                  {"spread", r.spread()},
                  {"beyond", beyond},
                  {"parameters", r.parameters},
                  {"causal", r.causal},
                  {"state_bytes", r.state_bytes ? nlohmann::ordered_json(*r.state_bytes) : nlohmann::ordered_json()},
                  {"tokens_per_second", r.tokens_per_second()},
                  {"seeds", runs}});
    }
    results.push_back(row);
  }
  return {{"task", o.task},
          {"task_parameters", o.task_parameters},
          {"metric", name_of(c.metric)},
          {"chance", number(c.chance)},
          {"ideal", c.ideal ? number(*c.ideal) : nlohmann::ordered_json()},
          {"length", c.length},
          {"steps", o.training.steps},
          {"batch", o.training.batch},
          {"learning_rate", o.training.learning_rate},
          {"layers", o.model.layers},
          {"dim", o.model.dim},
          {"heads", o.model.heads},
          {"block", o.model.block},
          {"bare", o.model.bare},
          {"backbone", o.model.backbone},
          {"backbone_settings", o.model.backbone_settings},
          {"channel_mixer", o.model.channel_mixer},
          {"results", results}};
}

std::string task_table(const TaskComparison& c) {
  const auto& o = c.options;
  std::string text = task_line(c) + "\n\n";
  const bool whole = std::any_of(c.rows.begin(), c.rows.end(), [](const TaskRow& r) {
    return !r.runs.empty() && !std::isnan(r.runs[0].score.detail("samples"));
  });
  text += fmt::format("  {:<32} {:>8} {:>7}", "mixer", "score", "spread");
  if (whole) text += fmt::format(" {:>7}", "whole");
  for (const auto& change : o.beyond) text += fmt::format(" {:>14}", change_text(change));
  text += fmt::format(" {:>11} {:>10} {:>10}\n", "parameters", "state", "tokens/s");
  for (const auto& r : c.rows) {
    if (!r.skipped.empty()) {
      text += fmt::format("  {:<32} skipped: {}\n", r.mixer, r.skipped);
      continue;
    }
    text += fmt::format("  {:<32} {:>8} {:>7}", r.mixer, score_text(r.mean()), score_text(r.spread()));
    if (whole) {
      double sum = 0;
      for (const auto& run : r.runs) sum += run.score.detail("samples") / double(r.runs.size());
      text += fmt::format(" {:>7.3f}", sum);
    }
    for (size_t i = 0; i < o.beyond.size(); ++i) text += fmt::format(" {:>14}", score_text(r.mean_beyond(i)));
    text += fmt::format(" {:>11} {:>10} {:>10.0f}\n", r.parameters, state_text(r), r.tokens_per_second());
  }
  text += fmt::format("\nscore: {}, on the test split. spread: over seeds.", metric_text(c.metric));
  if (whole) text += " whole: samples without an error.";
  if (!o.beyond.empty()) text += fmt::format(" {}: of the same models there.", change_text(o.beyond[0]));
  return text + "\nstate: memory of one sequence behind a sample.\n";
}

}  // namespace heed::bench
