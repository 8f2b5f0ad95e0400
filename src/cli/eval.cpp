#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "heed/checkpoint/decoder_checkpoint.h"
#include "heed/error.h"
#include "heed/tasks/metrics.h"
#include "heed/train/lm_data.h"

namespace heed::cli {
namespace {

struct EvalOptions {
  Common common;
  std::string model, task, split = "test";
  std::vector<std::string> text, set;
  int64_t context = 0, windows = 1 << 30, samples = 200;
};

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

void run_text(EvalOptions& o) {
  apply(o.common);
  const auto split = parse_split(o.split);
  const auto corpus = tasks::Corpus::read({o.text.begin(), o.text.end()});
  auto model = checkpoint::load_decoder(o.model);
  if (!o.context) o.context = model->config().max_length;
  const auto windows = std::min(o.windows, corpus.evaluation_windows(split, o.context));
  print(o, {{"model", o.model},
            {"split", o.split},
            {"context", o.context},
            {"windows", windows},
            {"bits_per_byte", train::bits_per_byte(model, corpus, split, o.context, windows)}});
}

void run_task(EvalOptions& o) {
  apply(o.common);
  auto model = checkpoint::load_decoder(o.model);
  auto parameters = parse_settings(o.set);
  for (const auto& row : tasks::task_rows())
    for (const auto& parameter : row.parameters)
      if (row.name == o.task && parameter.name == "max_tokens" && !parameters.contains("max_tokens"))
        parameters["max_tokens"] = o.context ? o.context : model->config().max_length;
  const auto task = tasks::make_text_task(o.task, parameters);
  const double score = train::greedy_score(model, *task, parse_split(o.split), o.samples);
  const auto [low, high] = tasks::wilson(std::llround(score * double(o.samples)), o.samples);
  print(o, {{"model", o.model},
            {"task", o.task},
            {"parameters", parameters},
            {"samples", o.samples},
            {"score", score},
            {"low", low},
            {"high", high},
            {"chance", task->chance()}});
}

}  // namespace

void add_eval(CLI::App& app) {
  auto* command = app.add_subcommand("eval", "measure a checkpoint: bits per byte of a text, scores of tasks");
  command->require_subcommand(1);
  auto o = std::make_shared<EvalOptions>();
  auto shared = [&](CLI::App* sub) {
    sub->add_option("--model", o->model, "folder of the checkpoint")->required();
    sub->add_option("--split", o->split, "train, valid or test (default test)");
    sub->add_option("--context", o->context, "tokens a window (default: the model's)")->check(CLI::Range(8, 1 << 24));
    add_threads(*sub, o->common);
    add_json(*sub, o->common);
  };
  auto* text = command->add_subcommand(
      "text",
      "bits per byte over windows of a text\nexample: heed eval text --model assets/tiny-lm --text /usr/share/doc");
  text->add_option("--text", o->text, "files and folders of text")->required();
  text->add_option("--windows", o->windows, "at most this many windows, spread evenly (default: all)")
      ->check(CLI::PositiveNumber);
  shared(text);
  text->callback([o] { run_text(*o); });

  auto* task = command->add_subcommand(
      "task",
      "greedy answers to a task's samples\nexample: heed eval task niah_single --model assets/tiny-lm --context 1024");
  task->add_option("name", o->task, "a task of `heed list --kind task`")->required();
  task->add_option("--set", o->set, "parameters of the task, key=value");
  task->add_option("--samples", o->samples, "samples (default 200)")->check(CLI::Range(1, 1 << 24));
  shared(task);
  task->callback([o] { run_task(*o); });
}

}  // namespace heed::cli
