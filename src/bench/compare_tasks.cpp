#include "heed/bench/compare_tasks.h"

#include <fmt/format.h>

#include <chrono>

#include "bench/units.h"
#include "heed/error.h"
#include "heed/registry.h"

namespace heed::bench {
namespace {

/// The mixers of "a+b".
std::vector<std::string> parts_of(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const auto end = std::min(text.find('+', begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

DecoderConfig config_of(const TaskCompareOptions& o, const std::string& mixer, int64_t vocabulary, int64_t length) {
  DecoderConfig config;
  config.vocab_size = vocabulary;
  config.dim = o.dim;
  config.heads = config.kv_heads = o.heads;
  config.head_dim = o.dim / o.heads;
  config.hidden = o.hidden;
  config.max_length = length;
  config.positions.kind = "rope";
  const auto names = parts_of(mixer);
  for (int64_t l = 0; l < o.layers; ++l) {
    const auto& name = names[static_cast<size_t>(l) % names.size()];
    const auto found = o.settings.find(name);
    config.layers.push_back({name, found == o.settings.end() ? nlohmann::json::object() : found->second});
  }
  return config;
}

int64_t count_parameters(DecoderLm& model) {
  int64_t count = 0;
  for (const auto& parameter : model->parameters()) count += parameter.numel();
  return count;
}

/// A model of about `target` parameters (0: as configured), by the width of its channel mixers.
DecoderLm model_of(DecoderConfig config, int64_t target, uint64_t seed) {
  torch::manual_seed(static_cast<int64_t>(seed));
  DecoderLm model(config);
  if (target == 0) return model;
  const int64_t unit = 3 * config.dim * static_cast<int64_t>(config.layers.size());
  const double units = double(target - count_parameters(model)) / double(unit);
  config.hidden = std::max<int64_t>(1, config.hidden + static_cast<int64_t>(std::llround(units)));
  torch::manual_seed(static_cast<int64_t>(seed));
  return DecoderLm(config);
}

bool has_step(const std::string& mixer) {
  const auto parts = parts_of(mixer);
  return std::all_of(parts.begin(), parts.end(), [](const auto& name) {
    const auto rows = mixer_rows();
    return std::any_of(rows.begin(), rows.end(), [&](const auto& row) { return row.name == name && row.step; });
  });
}

int64_t state_bytes(DecoderLm& model, const train::TaskBatch& batch) {
  torch::NoGradGuard no_grad;
  auto state = model->make_state(1);
  model->forward(batch.inputs.narrow(0, 0, 1), &state);
  return state.bytes();
}

}  // namespace

double TaskRow::mean() const {
  double sum = 0;
  for (const auto& score : scores) sum += score.tokens;
  return scores.empty() ? 0 : sum / double(scores.size());
}

double TaskRow::spread() const {
  const auto by_tokens = [](const auto& a, const auto& b) { return a.tokens < b.tokens; };
  if (scores.empty()) return 0;
  const auto [low, high] = std::minmax_element(scores.begin(), scores.end(), by_tokens);
  return high->tokens - low->tokens;
}

TaskComparison compare_tasks(const TaskCompareOptions& options,
                             const std::function<void(int64_t, int64_t, const std::string&)>& progress) {
  require(!options.mixers.empty(), "no mixer is named: at least one is accepted");
  require(options.dim % options.heads == 0, "dim = {} is no multiple of heads = {}", options.dim, options.heads);
  TaskComparison result{options, 0, 0, {}};
  auto& o = result.options;
  const auto task = tasks::make_task(o.task, o.task_parameters);
  const auto probe = train::task_batch(*task, tasks::Split::valid, 0, o.training.batch);
  result.chance = task->chance();
  result.length = probe.inputs.size(1);

  int64_t target = 0;
  std::vector<DecoderConfig> configs;
  for (const auto& mixer : o.mixers) {
    auto& row = result.rows.emplace_back();
    row.mixer = mixer;
    configs.push_back(config_of(o, mixer, task->vocabulary(), result.length));
    for (const auto& name : parts_of(mixer)) make_mixer(name, {});  // an unknown name is an error, not a skipped row
    try {
      auto model = model_of(configs.back(), target, 0);
      if (target == 0) target = count_parameters(model);
      row.parameters = count_parameters(model);
      if (has_step(mixer)) row.state_bytes = state_bytes(model, probe);
    } catch (const Error& error) {
      row.skipped = error.what();
    }
  }
  const auto runs =
      std::count_if(result.rows.begin(), result.rows.end(), [](const auto& r) { return r.skipped.empty(); });
  require(runs > 0, "no mixer can learn {}: {}", o.task, result.rows.front().skipped);
  if (o.budget_minutes > 0) {
    double seconds_a_step = 0;
    for (size_t i = 0; i < configs.size(); ++i) {
      if (!result.rows[i].skipped.empty()) continue;
      auto model = model_of(configs[i], target, 0);
      auto few = o.training;
      few.steps = 5;
      const double rate = train::train_task(model, *task, few);
      seconds_a_step += double(few.batch * result.length) / rate;
    }
    const double steps = o.budget_minutes * 60 / (seconds_a_step * double(o.seeds.size()));
    o.training.steps = std::max<int64_t>(10, static_cast<int64_t>(steps));
  }

  int64_t done = 0;
  const int64_t total = runs * static_cast<int64_t>(o.seeds.size()) * o.training.steps;
  for (size_t i = 0; i < configs.size(); ++i) {
    auto& row = result.rows[i];
    if (!row.skipped.empty()) continue;
    for (const auto seed : o.seeds) {
      auto model = model_of(configs[i], target, seed);
      auto training = o.training;
      training.seed = seed;
      row.tokens_per_second +=
          train::train_task(model, *task, training,
                            [&](int64_t, double loss) {
                              if (progress)
                                progress(++done, total, fmt::format("{} seed {} loss {:.3f}", row.mixer, seed, loss));
                              return true;
                            }) /
          double(o.seeds.size());
      row.scores.push_back(train::score_task(model, *task, tasks::Split::test, o.samples));
    }
  }
  std::stable_sort(result.rows.begin(), result.rows.end(), [](const auto& a, const auto& b) {
    return a.scores.empty() != b.scores.empty() ? b.scores.empty() : a.mean() > b.mean();
  });
  return result;
}

nlohmann::ordered_json to_json(const TaskComparison& c) {
  const auto& o = c.options;
  auto results = nlohmann::ordered_json::array();
  for (const auto& r : c.rows) {
    nlohmann::ordered_json row{{"mixer", r.mixer}};
    if (!r.skipped.empty()) {
      row["skipped"] = r.skipped;
    } else {
      auto scores = nlohmann::ordered_json::array();
      for (size_t s = 0; s < r.scores.size(); ++s)
        scores.push_back({{"seed", o.seeds[s]},
                          {"tokens", r.scores[s].tokens},
                          {"samples", r.scores[s].samples},
                          {"loss", r.scores[s].loss}});
      row.update({{"score", r.mean()},
                  {"spread", r.spread()},
                  {"parameters", r.parameters},
                  {"state_bytes", r.state_bytes ? nlohmann::ordered_json(*r.state_bytes) : nlohmann::ordered_json()},
                  {"tokens_per_second", r.tokens_per_second},
                  {"seeds", scores}});
    }
    results.push_back(row);
  }
  return {{"task", o.task},
          {"task_parameters", o.task_parameters},
          {"chance", c.chance},
          {"length", c.length},
          {"steps", o.training.steps},
          {"batch", o.training.batch},
          {"learning_rate", o.training.learning_rate},
          {"layers", o.layers},
          {"dim", o.dim},
          {"results", results}};
}

std::string task_table(const TaskComparison& c) {
  const auto& o = c.options;
  std::string text = fmt::format(
      "{}, {} tokens a sample, chance {:.3f}; {} layers of {} channels, {} steps of {} samples, {} seed{}\n\n", o.task,
      c.length, c.chance, o.layers, o.dim, o.training.steps, o.training.batch, o.seeds.size(),
      o.seeds.size() == 1 ? "" : "s");
  text += fmt::format("  {:<32} {:>7} {:>7} {:>8} {:>11} {:>10} {:>10}\n", "mixer", "score", "spread", "whole",
                      "parameters", "state", "tokens/s");
  for (const auto& r : c.rows) {
    if (!r.skipped.empty()) {
      text += fmt::format("  {:<32} skipped: {}\n", r.mixer, r.skipped);
      continue;
    }
    double whole = 0;
    for (const auto& score : r.scores) whole += score.samples / double(r.scores.size());
    text +=
        fmt::format("  {:<32} {:>7.3f} {:>7.3f} {:>8.3f} {:>11} {:>10} {:>10.0f}\n", r.mixer, r.mean(), r.spread(),
                    whole, r.parameters, r.state_bytes ? bytes_text(*r.state_bytes) : "no step", r.tokens_per_second);
  }
  return text +
         "\nscore: share of the asked tokens that are predicted, on the test split. spread: over seeds. whole: "
         "samples\n"
         "without an error. state: memory of one sequence behind a sample.\n";
}

}  // namespace heed::bench
