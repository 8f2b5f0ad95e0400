#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/intervention.h"
#include "cli/policy.h"
#include "cli/task_lengths.h"
#include "heed/assets.h"
#include "heed/bench/depth_map.h"
#include "heed/bench/suite_map.h"
#include "heed/cache/evaluate.h"
#include "heed/error.h"
#include "heed/formats/atomic_file.h"
#include "heed/progress.h"

namespace heed::cli {
namespace {

struct EvalOptions {
  Common common;
  std::string model, task = "niah_single", suite, split = "test", policy, kv, html;
  std::vector<std::string> text, set, policy_set;
  InterventionOptions intervention;
  std::vector<int64_t> lengths;
  int64_t context = 0, windows = 1 << 30, samples = 200, depths = 11;
  double threshold = 0.75;
};

constexpr int64_t kLeastSuiteLength = 64, kSuiteAnswer = 64;

tasks::Split parse_split(const std::string& name) {
  for (auto split : {tasks::Split::train, tasks::Split::valid, tasks::Split::test})
    if (tasks::name_of(split) == name) return split;
  fail("--split {}: train, valid or test is accepted", name);
}

void print(const EvalOptions& o, const nlohmann::ordered_json& result) {
  if (write_json(o.common, result.dump(1))) return;
  for (const auto& [key, value] : result.items())
    fmt::print("{:<16} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
}

checkpoint::LanguageModel load(EvalOptions& o) {
  apply(o.common);
  if (o.model.empty()) o.model = find_asset("tiny-lm").string();
  return checkpoint::load_language_model(o.model);
}

/// `default_name` where none was asked for.
cache::PolicyChoice choice_of(const EvalOptions& o) {
  require(!o.policy.empty() || o.policy_set.empty(), "--policy-set goes with --policy");
  return policy_choice(o.policy.empty() ? "full" : o.policy, o.kv, o.policy_set);
}

void run_text(EvalOptions& o) {
  const auto lm = load(o);
  const auto split = parse_split(o.split);
  const auto choice = choice_of(o);
  const auto policy = caches_of(choice, o.intervention, cache::shape_of(lm.model->config()));
  const auto corpus = tasks::Corpus::read({o.text.begin(), o.text.end()});
  if (!o.context) o.context = lm.model->config().max_length;
  std::unique_ptr<Progress> bar;
  const bool plain = o.policy.empty() && o.kv.empty() && o.intervention.name.empty();
  const auto score = cache::score_text(lm, plain ? nullptr : &policy, corpus, split, o.context, o.windows,
                                       [&](int64_t done, int64_t total) {
                                         if (!bar) bar = std::make_unique<Progress>("text", total);
                                         bar->update(done);
                                       });
  bar.reset();
  require(std::isfinite(score.nats), "{}: the text's likelihood is {}: the model's logits are no finite numbers",
          o.model, score.nats);
  nlohmann::ordered_json result{{"model", o.model}, {"split", o.split}, {"context", o.context}};
  if (!o.intervention.name.empty()) result["intervention"] = o.intervention.name;
  if (!o.policy.empty() || !o.kv.empty()) result["policy"] = choice.name, result["settings"] = choice.settings;
  result.update({{"windows", score.windows},
                 {"tokens", score.tokens},
                 {"perplexity", score.perplexity},
                 {"bits_per_byte", score.bits_per_byte}});
  print(o, result);
}

void run_task(EvalOptions& o) {
  const auto lm = load(o);
  auto parameters = parse_settings(o.set);
  for (const auto& row : tasks::task_rows())
    for (const auto& parameter : row.parameters)
      if (row.name == o.task && parameter.name == "max_tokens" && !parameters.contains("max_tokens"))
        parameters["max_tokens"] = o.context ? o.context : lengths_for(lm, o.task, parameters, 0).front();
  const auto task = tasks::make_text_task(o.task, parameters, cache::token_count(lm));
  const auto choice = choice_of(o);
  const auto policy = caches_of(choice, o.intervention, cache::shape_of(lm.model->config()));
  std::unique_ptr<Progress> bar;
  const auto score =
      cache::score_task(lm, policy, *task, parse_split(o.split), o.samples, [&](int64_t done, int64_t total) {
        if (!bar) bar = std::make_unique<Progress>(o.task, total);
        bar->update(done);
      });
  bar.reset();
  print(o, {{"model", o.model},
            {"task", o.task},
            {"parameters", parameters},
            {"policy", choice.name},
            {"settings", choice.settings},
            {"samples", o.samples},
            {"score", score.score},
            {"low", score.interval.low},
            {"high", score.interval.high},
            {"match_all", score.match_all},
            {"match_any", score.match_any},
            {"exact", score.exact},
            {"forced", score.forced},
            {"chance", task->chance()}});
}

void run_depths(EvalOptions& o) {
  const auto lm = load(o);
  const auto choice = choice_of(o);
  if (o.lengths.empty()) o.lengths = lengths_for(lm, o.task, parse_settings(o.set), 3);
  std::unique_ptr<Progress> bar;
  auto map = bench::depth_map(lm, choice, o.task, parse_settings(o.set), o.lengths, o.depths, o.samples,
                              [&](int64_t done, int64_t total) {
                                if (!bar) bar = std::make_unique<Progress>("depths", total);
                                bar->update(done);
                              });
  bar.reset();
  map.model = o.model;
  if (!o.html.empty()) formats::write_file(o.html, bench::depth_html(map));
  if (!write_json(o.common, bench::to_json(map).dump(1))) fmt::print("{}", bench::depth_table(map));
}

void run_suite(EvalOptions& o) {
  const auto& suite = tasks::suite(o.suite);
  const auto lm = load(o);
  const auto choice = choice_of(o);
  if (o.lengths.empty()) {
    const int64_t longest = std::max<int64_t>(kLeastSuiteLength, longest_prompt(lm, kSuiteAnswer));
    for (int64_t n = std::max(kLeastSuiteLength, longest / 4); n <= longest; n *= 2) o.lengths.push_back(n);
  }
  std::unique_ptr<Progress> bar;
  auto map = bench::suite_map(lm, choice, suite, parse_settings(o.set), o.lengths, o.samples, o.threshold,
                              [&](int64_t done, int64_t total) {
                                if (!bar) bar = std::make_unique<Progress>(o.suite, total);
                                bar->update(done);
                              });
  bar.reset();
  map.model = o.model;
  if (!o.html.empty()) formats::write_file(o.html, bench::suite_html(map));
  if (write_json(o.common, bench::to_json(map).dump(1))) return;
  fmt::print("{}", bench::suite_table(map));
  const bool gaps = std::any_of(map.rows.begin(), map.rows.end(), [](const auto& row) {
    return std::any_of(row.cells.begin(), row.cells.end(), [](const auto& cell) { return !cell; });
  });
  if (gaps) fmt::print("  -: the task's least sample has more tokens\n");
}

}  // namespace

void add_eval(CLI::App& app) {
  auto* command = app.add_subcommand("eval", "measure a checkpoint: likelihood of a text, scores of tasks");
  command->require_subcommand(1);
  auto o = std::make_shared<EvalOptions>();
  auto shared = [&](CLI::App* sub) {
    sub->add_option("--model", o->model, "folder of the checkpoint (default: the shipped one)");
    add_policy(*sub, o->policy, o->kv, o->policy_set, "--policy-set");
    add_threads(*sub, o->common);
    add_json(*sub, o->common);
  };
  auto of_split = [&](CLI::App* sub) {
    sub->add_option("--split", o->split, "train, valid or test (default test)");
    sub->add_option("--context", o->context, "tokens a window (default: the model's)")->check(CLI::Range(8, 1 << 24));
  };
  auto* text = command->add_subcommand(
      "text",
      "perplexity and bits per byte over windows of a text; with a policy the second half of each window is fed token "
      "by token\nexample: heed eval text --text /usr/share/doc --context 1024 --windows 20");
  text->alias("ppl");
  text->add_option("--text", o->text, "files and folders of text")->required();
  text->add_option("--windows", o->windows, "at most this many windows, spread evenly (default: all)")->check(whole(1));
  of_split(text);
  shared(text);
  add_intervention(*text, o->intervention);
  text->callback([o] { run_text(*o); });

  auto* task = command->add_subcommand(
      "task",
      "greedy answers to a task's samples\nexample: heed eval task niah_single --context 1024 --policy snap_kv");
  task->add_option("name", o->task, "a task of `heed list --kind task`")->required();
  task->add_option("--set", o->set, "parameters of the task, key=value");
  task->add_option("--samples", o->samples, "samples (default 200)")->check(CLI::Range(1, 1 << 24));
  of_split(task);
  shared(task);
  add_intervention(*task, o->intervention);
  task->callback([o] { run_task(*o); });

  auto* niah =
      command->add_subcommand("niah",
                              "a needle at every depth of haystacks of several lengths, as a map\n"
                              "example: heed eval niah --lengths 256,512,1024 --samples 10 --html depths.html");
  niah->add_option("--task", o->task, "a task with max_tokens and depth (default niah_single)");
  niah->add_option("--set", o->set, "parameters of the task, key=value");
  niah->add_option("--lengths", o->lengths, "tokens of a prompt (default: the model's length and 1/2, 1/4, 1/8 of it)")
      ->delimiter(',')
      ->check(CLI::Range(64, 1 << 24));
  niah->add_option("--depths", o->depths, "depths from 0 to 100 % (default 11)")->check(CLI::Range(2, 101));
  niah->add_option("--samples", o->samples, "samples a cell (default 200)")->check(CLI::Range(1, 1 << 24));
  niah->add_option("--html", o->html, "write a page with the map to this file")->check(writable_file());
  shared(niah);
  niah->callback([o] { run_depths(*o); });

  auto* suite = command->add_subcommand(
      "suite",
      "all tasks of a suite at several lengths, as a map, and the context that the model effectively uses\n"
      "example: heed eval suite niah_ruler --lengths 512,1024,2048 --samples 20 --html ruler.html");
  suite->add_option("name", o->suite, "niah_ruler or needle_threading")->required();
  suite->add_option("--set", o->set, "parameters, key=value, for every task that has them");
  suite->add_option("--lengths", o->lengths, "tokens of a prompt (default: the model's length and 1/2, 1/4 of it)")
      ->delimiter(',')
      ->check(CLI::Range(64, 1 << 24));
  suite->add_option("--samples", o->samples, "samples a cell (default 200)")->check(CLI::Range(1, 1 << 24));
  suite->add_option("--threshold", o->threshold, "score that counts for the effective context (default 0.75)")
      ->check(number(0, 1));
  suite->add_option("--html", o->html, "write a page with the map to this file")->check(writable_file());
  shared(suite);
  suite->callback([o] { run_suite(*o); });
}

}  // namespace heed::cli
