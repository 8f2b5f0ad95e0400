// A comparison of policies as JSON, as the table of a terminal and as a page.
#include <fmt/format.h>

#include "bench/page.h"
#include "bench/plot.h"
#include "bench/units.h"
#include "heed/bench/compare_policies.h"
#include "heed/bench/measure.h"

namespace heed::bench {
namespace {

std::string settings_text(const nlohmann::json& settings) {
  std::string text;
  for (const auto& [key, value] : settings.items())
    text += fmt::format("{}{}={}", text.empty() ? "" : " ", key,
                        value.is_string() ? value.get<std::string>() : value.dump());
  return text;
}

std::string task_text(const PolicyResult& r) {
  return r.task ? fmt::format("{:.2f} ({:.2f} to {:.2f})", r.task->score, r.task->interval.low, r.task->interval.high)
                : "";
}

std::string source_text(const PolicyComparison& c) {
  return fmt::format(
      "{}prompt of {} tokens, {} steps{}",
      c.source.contains("model") ? c.source["model"].get<std::string>() + ", " : "", c.options.prompt, c.options.steps,
      c.options.task.empty() ? "" : fmt::format(", {} samples of {}", c.options.task_samples, c.options.task));
}

/// Where in the plot: bytes to the right, KL upwards; one series a policy.
std::string pareto(const PolicyComparison& c) {
  // Below it two caches differ by the rounding of float32 only.
  constexpr double kLeast = 1e-7;
  std::vector<Series> all;
  for (const auto& row : c.rows) {
    const auto& name = row.choice.name;
    auto found = std::find_if(all.begin(), all.end(), [&](const Series& s) { return s.name == name; });
    if (found == all.end()) {
      const int index = int(all.size());
      found = all.insert(all.end(), Series{name, {index < kStyles ? index : -1}, {}, {}});
    }
    found->points.emplace_back(double(row.cache_bytes), std::max(row.fidelity.kl, kLeast));
    found->tooltips.push_back(fmt::format("{} {}: {}, KL {:.2g}, {:.0f} tokens/s", name,
                                          settings_text(row.choice.settings), bytes_text(row.cache_bytes),
                                          row.fidelity.kl, row.tokens_per_second));
  }
  PlotAxes axes{"Distance from the full cache against bytes held", "bytes of the cache", "KL(full || policy), nats"};
  axes.x = Unit::bytes;
  axes.y = Unit::error;
  std::vector<double> ticks;
  int64_t most = 1;
  for (const auto& row : c.rows) most = std::max(most, row.cache_bytes);
  for (double tick = 1024; tick <= 2.0 * double(most); tick *= 4)
    if (tick * 256 > double(most)) ticks.push_back(tick);
  return line_plot(axes, all, ticks);
}

}  // namespace

nlohmann::ordered_json to_json(const PolicyComparison& c) {
  nlohmann::ordered_json json{
      {"machine", c.machine}, {"source", c.source}, {"results", nlohmann::ordered_json::array()}};
  for (const auto& r : c.rows) {
    nlohmann::ordered_json row{{"policy", r.choice.name},
                               {"settings", r.choice.settings},
                               {"budget", r.budget},
                               {"prefill_s", r.prefill_s},
                               {"build_s", r.build_s},
                               {"ttft_s", r.ttft_s},
                               {"decode_ms", r.decode_ms},
                               {"decode_p95_ms", r.decode_p95_ms},
                               {"tokens_per_s", r.tokens_per_second},
                               {"attention_ms", r.attention_ms},
                               {"policy_ms", r.policy_ms},
                               {"cache_bytes", r.cache_bytes},
                               {"prompt_bytes", r.prompt_bytes},
                               {"kv_bytes_hot", r.kv_bytes_hot},
                               {"kv_bytes_cold", r.kv_bytes_cold},
                               {"kv_bytes_used", r.kv_bytes_used},
                               {"meta_bytes", r.meta_bytes},
                               {"slots", {{"min", r.slots_min}, {"mean", r.slots_mean}, {"max", r.slots_max}}},
                               {"pairs_read", r.read},
                               {"pairs_read_bytes", r.read_bytes},
                               {"scored", r.scored},
                               {"scored_bytes", r.scored_bytes},
                               {"full_steps", r.full_steps},
                               {"kl", r.fidelity.kl},
                               {"kl_p95", r.fidelity.kl_p95},
                               {"kl_max", r.fidelity.kl_max},
                               {"top1", r.fidelity.top1},
                               {"top5_overlap", r.fidelity.top5_overlap},
                               {"nll_delta", r.fidelity.nll_delta},
                               {"mass", r.mass},
                               {"attention_kl", r.attention_kl},
                               {"recall", r.recall},
                               {"out_rel_err", r.out_rel_err},
                               {"first_divergence", r.first_divergence},
                               {"layers", nlohmann::ordered_json::array()},
                               {"allowed", r.allowed}};
    for (const auto& layer : r.layers)
      row["layers"].push_back({{"layer", layer.layer},
                               {"mass", layer.mass},
                               {"attention_kl", layer.kl},
                               {"recall", layer.recall},
                               {"out_rel_err", layer.out_rel_err}});
    if (r.task)
      row["task"] = {{"name", c.options.task},
                     {"score", r.task->score},
                     {"low", r.task->interval.low},
                     {"high", r.task->interval.high},
                     {"samples", r.task->samples}};
    json["results"].push_back(std::move(row));
  }
  json["chosen"] = c.chosen ? nlohmann::ordered_json{{"policy", c.rows[*c.chosen].choice.name},
                                                     {"settings", c.rows[*c.chosen].choice.settings}}
                            : nlohmann::ordered_json(nullptr);
  json["decision"] = decision(c);
  return json;
}

std::string decision(const PolicyComparison& c) {
  const auto& limits = c.options.limits;
  std::string asked;
  const auto add = [&](const std::string& limit) { asked += (asked.empty() ? "" : ", ") + limit; };
  if (limits.max_kl) add(fmt::format("KL at most {:g}", *limits.max_kl));
  if (limits.max_bytes) add(fmt::format("at most {} bytes", *limits.max_bytes));
  if (limits.min_tokens_per_second) add(fmt::format("at least {:g} tokens/s", *limits.min_tokens_per_second));
  if (asked.empty()) asked = "no limits";
  if (!c.chosen) return fmt::format("no policy fits: {}", asked);
  const auto& r = c.rows[*c.chosen];
  return fmt::format("cheapest within {}: {}{}{} ({}, {:.1f} % of the full cache; KL {:.2g}, {:.0f} tokens/s)", asked,
                     r.choice.name, r.choice.settings.empty() ? "" : " ", settings_text(r.choice.settings),
                     bytes_text(r.cache_bytes), 100.0 * double(r.cache_bytes) / double(c.rows[0].cache_bytes),
                     r.fidelity.kl, r.tokens_per_second);
}

std::string policy_table(const PolicyComparison& c) {
  std::string text = machine_line(c.machine) + "\n" + source_text(c) + "\n";
  text += fmt::format("  {:<18} {:>7} {:>9} {:>9} {:>9} {:>9} {:>10} {:>9} {:>8} {:>9} {:>6}  {}\n", "policy", "budget",
                      "prefill", "tokens/s", "attention", "policy", "cache", "read", "scored", "KL", "top-1",
                      c.options.task);
  for (const auto& r : c.rows)
    text +=
        fmt::format("{} {:<18} {:>7.3g} {:>9} {:>9.1f} {:>9} {:>9} {:>10} {:>9.0f} {:>8.0f} {:>9.2g} {:>6.3f}  {}\n",
                    c.chosen && &r == &c.rows[*c.chosen] ? "*" : " ", r.choice.name, r.budget, time_text(r.prefill_s),
                    r.tokens_per_second, time_text(1e-3 * r.attention_ms), time_text(1e-3 * r.policy_ms),
                    bytes_text(r.cache_bytes), r.read, r.scored, r.fidelity.kl, r.fidelity.top1, task_text(r));
  return text + decision(c) + "\n";
}

std::string policy_html(const PolicyComparison& c) {
  std::string rows;
  for (const auto& r : c.rows)
    rows += fmt::format(
        "<tr{}><td>{}</td><td>{:.3g}</td><td>{}</td><td>{:.1f}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.0f}</"
        "td><td>{:.0f}</"
        "td><td>{:.2g}</td>"
        "<td>{:.3f}</td><td>{}</td><td class=\"word\"><code>{}</code></td></tr>\n",
        c.chosen && &r == &c.rows[*c.chosen] ? " class=\"exact\"" : "", escape_xml(r.choice.name), r.budget,
        time_text(r.prefill_s), r.tokens_per_second, time_text(1e-3 * r.attention_ms), time_text(1e-3 * r.policy_ms),
        bytes_text(r.cache_bytes), r.read, r.scored, r.fidelity.kl, r.fidelity.top1, task_text(r),
        escape_xml(settings_text(r.choice.settings)));
  const auto body = fmt::format(
      "<p class=\"finding\">{}</p>\n<figure>{}</figure>\n<h2>Figures</h2>\n<div class=\"scroll\"><table>\n<tr>"
      "<th>policy</th><th>budget</th><th>prefill</th><th>tokens/s</th><th>attention</th><th>policy</th><th>cache</"
      "th><th>read</th><th>scored</"
      "th><th>KL</th>"
      "<th>top-1</th><th>{}</th><th>settings</th></tr>\n{}</table></div>\n"
      "<h2>How it was measured</h2>\n<p>The prompt goes through the model in chunks, then the text's own next tokens "
      "are "
      "fed one at a time under each policy. <b>KL</b> is the mean over these positions of KL(full cache || policy) in "
      "nats, "
      "<b>top-1</b> the share of positions with the same likeliest token. <b>Cache</b> is the most that is held after "
      "the "
      "prompt, scores and summaries included. <b>Attention</b> and <b>policy</b> split the time of a step's layers: "
      "reading the cache, and storing, selecting and dropping. <b>Read</b> counts the pairs of key and value that a "
      "step attends to, "
      "<b>scored</b> the key-sized vectors touched only to select, both per layer and KV head. Task answers are "
      "greedy, "
      "with 95 % Wilson intervals.</p>\n",
      escape_xml(decision(c)), pareto(c), escape_xml(c.options.task), rows);
  return page("heed compare --policies", "Cache policies side by side", source_text(c), body, machine_line(c.machine));
}

}  // namespace heed::bench
