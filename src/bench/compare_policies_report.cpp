// A comparison of policies as JSON, as the table of a terminal and as a page.
#include <fmt/format.h>

#include "bench/page.h"
#include "bench/policy_plots.h"
#include "bench/svg.h"
#include "bench/units.h"
#include "heed/bench/compare_policies.h"
#include "heed/bench/measure.h"

namespace heed::bench {
namespace {

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

constexpr const char* kProtocol =
    "<p>The prompt goes through the model in chunks, then the text's own next tokens are fed one at a time under each "
    "policy. <b>KL</b> is the mean over these positions of KL(full cache || policy) in nats, <b>top-1</b> the share of "
    "positions with the same likeliest token. Times are those of 64 steps at the length of the prompt, after 8, in "
    "turns with steps of the full cache, whose speed all are brought to: the cache forgets the token of every step; "
    "medians. <b>Attention</b> and <b>policy</b> split the time of a step's "
    "layers: reading the cache, and storing, selecting and dropping. <b>Cache</b> is the most that is held after the "
    "prompt, scores and summaries included, <b>in prompt</b> what is held when it is read, before it is compressed, "
    "<b>peak</b> the most that the allocator gave out for prompt and steps beside the weights. A limit on bytes is one "
    "on both of the first two. <b>Read</b> counts the pairs of key and value that a step attends to, <b>scored</b> the "
    "key-sized vectors touched only to select, both per layer and KV head. <b>Budget</b> is the share of the prompt "
    "that a policy was given, sinks, windows and what it observes inside it; of policies with another dial, the share "
    "that was measured. Task answers are greedy, with 95 % Wilson intervals.</p>\n";

/// Steps at other lengths and of batches, where they were asked for.
std::string speed_table(const PolicyComparison& c) {
  const auto& o = c.options;
  if (o.lengths.empty() && o.batches == std::vector<int64_t>{1}) return "";
  auto text = fmt::format("steps at a budget of {:g}\n  {:<19} {:>7} {:>6} {:>9} {:>9} {:>9}\n", o.speed_budget,
                          "policy", "prompt", "batch", "step", "attention", "policy");
  for (const auto& s : c.speeds)
    text += fmt::format("  {:<19} {:>7} {:>6} {:>9} {:>9} {:>9}\n", s.policy, s.prompt, s.batch,
                        time_text(1e-3 * s.decode_ms), time_text(1e-3 * s.attention_ms), time_text(1e-3 * s.policy_ms));
  return text;
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
                               {"peak_cache_bytes", r.peak_cache_bytes()},
                               {"peak_bytes", r.peak_bytes},
                               {"kv_bytes_hot", r.kv_bytes_hot},
                               {"kv_bytes_cold", r.kv_bytes_cold},
                               {"kv_bytes_used", r.kv_bytes_used},
                               {"meta_bytes", r.meta_bytes},
                               {"slots", {{"min", r.slots_min}, {"mean", r.slots_mean}, {"max", r.slots_max}}},
                               {"pairs_read", r.read},
                               {"pairs_read_bytes", r.read_bytes},
                               {"scored", r.scored},
                               {"scored_bytes", r.scored_bytes},
                               {"prompt_density", r.prompt_density},
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
                               {"allowed", r.allowed},
                               {"pareto", r.pareto}};
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
  for (const auto& s : c.speeds)
    json["speeds"].push_back({{"policy", s.policy},
                              {"budget", s.policy == "full" ? 1 : c.options.speed_budget},
                              {"prompt", s.prompt},
                              {"batch", s.batch},
                              {"decode_ms", s.decode_ms},
                              {"attention_ms", s.attention_ms},
                              {"policy_ms", s.policy_ms}});
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
  const auto after = [](const std::string& last) { return last.empty() ? "" : "  " + last; };
  text += fmt::format("  {:<19} {:>7} {:>9} {:>9} {:>9} {:>9} {:>10} {:>10} {:>10} {:>9} {:>8} {:>9} {:>6}{}\n",
                      "policy", "budget", "prefill", "tokens/s", "attention", "policy", "cache", "in prompt", "peak",
                      "read", "scored", "KL", "top-1", after(c.options.task));
  for (const auto& r : c.rows)
    text += fmt::format(
        "{} {:<19} {:>7.3g} {:>9} {:>9.1f} {:>9} {:>9} {:>10} {:>10} {:>10} {:>9.0f} {:>8.0f} {:>9.2g} {:>6.3f}{}\n",
        c.chosen && &r == &c.rows[*c.chosen] ? "*" : " ", r.choice.name, r.budget, time_text(r.prefill_s),
        r.tokens_per_second, time_text(1e-3 * r.attention_ms), time_text(1e-3 * r.policy_ms), bytes_text(r.cache_bytes),
        bytes_text(r.prompt_bytes), bytes_text(r.peak_bytes), r.read, r.scored, r.fidelity.kl, r.fidelity.top1,
        after(task_text(r)));
  return text + decision(c) + "\n" + speed_table(c);
}

std::string policy_html(const PolicyComparison& c) {
  std::string rows, formats;
  for (const auto& r : c.rows) {
    rows += fmt::format(
        "<tr{}><td>{}</td><td>{:.3g}</td><td>{}</td><td>{:.1f}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</"
        "td>"
        "<td>{:.0f}</td><td>{:.0f}</td><td>{:.2g}</td><td>{:.3f}</td><td>{}</td><td class=\"word\"><code>{}</code></td>"
        "</tr>\n",
        c.chosen && &r == &c.rows[*c.chosen] ? " class=\"exact\"" : "", escape_xml(r.choice.name), r.budget,
        time_text(r.prefill_s), r.tokens_per_second, time_text(1e-3 * r.attention_ms), time_text(1e-3 * r.policy_ms),
        bytes_text(r.cache_bytes), bytes_text(r.prompt_bytes), bytes_text(r.peak_bytes), r.read, r.scored,
        r.fidelity.kl, r.fidelity.top1, task_text(r), escape_xml(settings_text(r.choice.settings)));
    if (r.choice.settings.contains("kv") || r.choice.name == "full")
      formats += fmt::format(
          "<tr><td>{}</td><td><code>{}</code></td><td>{}</td><td>{:.1f} %</td><td>{:.2g}</td><td>{:.3f}</td><td>{}</td>"
          "</tr>\n",
          escape_xml(r.choice.name), escape_xml(r.choice.settings.value("kv", "exact")), bytes_text(r.kv_bytes_used),
          100.0 * double(r.kv_bytes_used) / double(std::max<int64_t>(1, c.rows[0].kv_bytes_used)), r.fidelity.kl,
          r.fidelity.top1, task_text(r));
  }
  std::string figures;
  for (const auto& plot : policy_plots(c)) figures += "<figure>" + plot + "</figure>\n";
  const auto body = fmt::format(
      "<p class=\"finding\">{0}</p>\n{1}<h2>Figures</h2>\n<div class=\"scroll\"><table>\n<tr><th>policy</th>"
      "<th>budget</th><th>prefill</th><th>tokens/s</th><th>attention</th><th>policy</th><th>cache</th>"
      "<th>in prompt</th><th>peak</th>"
      "<th>read</th><th>scored</th><th>KL</th><th>top-1</th><th>{2}</th><th>settings</th></tr>\n{3}</table></div>\n"
      "<h2>Few bits</h2>\n<p>Keys and values stored as codes, against the bytes that they take.</p>\n<div "
      "class=\"scroll\">"
      "<table>\n<tr><th>policy</th><th>format</th><th>bytes</th><th>of the full cache</th><th>KL</th><th>top-1</th>"
      "<th>{2}</th></tr>\n{4}</table></div>\n<h2>How it was measured</h2>\n{5}",
      escape_xml(decision(c)), figures, escape_xml(c.options.task), rows, formats, kProtocol);
  return page("heed compare --policies", "Cache policies side by side", source_text(c), body, machine_line(c.machine));
}

}  // namespace heed::bench
