#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/dtype.h"
#include "cli/task_options.h"
#include "heed/assets.h"
#include "heed/bench/compare.h"
#include "heed/bench/compare_policies.h"
#include "heed/bench/compare_tasks.h"
#include "heed/bench/measure.h"
#include "heed/error.h"
#include "heed/formats/atomic_file.h"
#include "heed/progress.h"
#include "heed/tasks/corpus.h"

namespace heed::cli {
namespace {

struct Options {
  Common common;
  std::string model, text, qkv, html, dtype = "float32";
  std::vector<int64_t> layers;
  std::vector<std::string> set;
  bench::CompareOptions compare;
  bool policies = false, protocol = false;
  bench::PolicyCompareOptions policy;
  std::string save_policy;
  bench::TaskCompareOptions learned;
  std::vector<std::string> task_settings, beyond, backbone_settings;
  int64_t seeds = 1;
};

std::unique_ptr<bench::QkvSource> source_of(const Options& o) {
  if (!o.qkv.empty()) return bench::file_source(o.qkv);
  return bench::model_source({o.model.empty() ? find_asset("tiny-lm") : std::filesystem::path(o.model), o.text,
                              o.layers, parse_dtype(o.dtype)});
}

void follow_protocol(bench::PolicyCompareOptions& policy) {
  policy.budgets = {1.0 / 32, 1.0 / 16, 1.0 / 8, 1.0 / 4, 1.0 / 2};
  policy.task_samples = std::max<int64_t>(200, policy.task_samples);
  policy.steps = std::max<int64_t>(256, policy.steps);
  auto& names = policy.policies;
  if (!names.empty() && std::find(names.begin(), names.end(), "streaming_llm") == names.end())
    names.insert(names.begin(), "streaming_llm");
}

void run_policies(Options& o) {
  require(o.qkv.empty(), "--policies needs a model and a text, not --qkv");
  const auto model = o.model.empty() ? find_asset("tiny-lm").string() : o.model;
  const auto text = o.text.empty() ? tasks::default_text() : std::filesystem::path(o.text);
  const auto lm = checkpoint::load_language_model(model, parse_dtype(o.dtype));
  o.policy.policies = o.compare.only;
  o.policy.repeats = o.compare.repeats;
  o.policy.seed = o.common.seed;
  if (o.protocol) follow_protocol(o.policy);
  bench::PolicyComparison result;
  {
    std::unique_ptr<Progress> bar;
    result = bench::compare_policies(lm, bench::read_text(text), o.policy,
                                     [&bar](int64_t done, int64_t total, const std::string& next) {
                                       if (!bar) bar = std::make_unique<Progress>("policies", total);
                                       bar->update(done, next);
                                     });
  }
  result.source["model"] = model;
  result.source["text"] = text.string();
  if (!o.html.empty()) formats::write_file(o.html, bench::policy_html(result));
  if (!o.save_policy.empty() && result.chosen) result.rows[*result.chosen].choice.save(o.save_policy);
  if (!write_json(o.common, bench::to_json(result).dump(1))) fmt::print("{}", bench::policy_table(result));
  if (!result.chosen) throw bench::Refused(bench::decision(result));
}

/// Every mixer learns the task of --task.
void run_tasks(Options& o) {
  auto& learned = o.learned;
  learned.task = o.policy.task;
  learned.task_parameters = parse_settings(o.task_settings);
  learned.beyond = parse_changes(o.beyond);
  learned.model.settings = settings_by_name(o.set);
  check_settings(learned.model.settings, learned.mixers);
  learned.model.backbone_settings = parse_settings(o.backbone_settings);
  learned.seeds.clear();
  for (int64_t s = 0; s < o.seeds; ++s) learned.seeds.push_back(o.common.seed + uint64_t(s));
  bench::TaskComparison result;
  {
    std::unique_ptr<Progress> bar;
    result = bench::compare_tasks(learned, [&bar](int64_t done, int64_t total, const std::string& note) {
      if (!bar) bar = std::make_unique<Progress>("training", total);
      bar->update(done, note);
    });
  }
  if (!o.html.empty()) formats::write_file(o.html, bench::task_html(result));
  if (!write_json(o.common, bench::to_json(result).dump(1))) fmt::print("{}", bench::task_table(result));
}

void run(Options& o) {
  apply(o.common);
  if (!o.learned.mixers.empty()) return run_tasks(o);
  if (o.policies) return run_policies(o);
  o.compare.settings = settings_by_name(o.set);
  const auto source = source_of(o);
  bench::Comparison result;
  {
    std::unique_ptr<Progress> bar;
    result = bench::compare(*source, o.compare, [&bar](int64_t done, int64_t total, const std::string& next) {
      if (!bar) bar = std::make_unique<Progress>("compare", total);
      bar->update(done, next);
    });
  }
  if (!o.html.empty()) formats::write_file(o.html, bench::compare_html(result));
  if (!write_json(o.common, bench::to_json(result).dump(1))) fmt::print("{}", bench::compare_table(result));
  if (!result.failed.empty()) throw bench::Refused(result.failed.front());
}

}  // namespace

void add_compare(CLI::App& app) {
  auto o = std::make_shared<Options>();
  auto* command = app.add_subcommand(
      "compare",
      "run mechanisms side by side on the queries, keys and values of a real model: time, memory, fidelity\n"
      "example: heed compare --lengths 256,1024,4096 --html compare.html");
  auto* model =
      command->add_option("--model", o->model, "folder of a checkpoint (default: the tiny model that comes with heed)");
  auto* text =
      command->add_option("--text", o->text, "the text it reads (default: the GPL of Debian's common licenses)");
  auto* layers =
      command->add_option("--layers", o->layers, "layers to take, as 0,5 (default: the first, the middle, the last)")
          ->delimiter(',');
  command->add_option("--qkv", o->qkv, "a safetensors file with q [B, H, N, D], k and v in place of a model")
      ->excludes(model)
      ->excludes(text)
      ->excludes(layers);
  command->add_option("--lengths", o->compare.lengths, "numbers of tokens (default 256,512,1024,2048,4096)")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 24));
  command->add_option("--only", o->compare.only, "only these mechanisms, as dense,sliding_window,op:flash")
      ->delimiter(',');
  command->add_option("--skip", o->compare.skip, "all but these")->delimiter(',');
  command->add_option(
      "--set", o->set,
      "parameters of mechanisms, NAME.key=value, as sliding_window.window=128; NAME#2: of the second of a name in a+b");
  command->add_option("--repeats", o->compare.repeats, "timed runs of every layer, or of a policy's prompt (default 5)")
      ->check(CLI::Range(1, 1000));
  command->add_flag(
      "--far-fidelity", o->compare.far_fidelity,
      "error and mass at lengths beyond the trained one, too, where the model's attention is less its own");
  command->add_option("--dtype", o->dtype,
                      "type of q, k and v taken from a model: float32, bfloat16, float16 (default float32)");
  auto* policies = command->add_flag(
      "--policies", o->policies,
      "compare cache policies instead: prefill, tokens/s, bytes, what is read, distance from the full cache, a task");
  const auto of_policies = [&](const char* name, auto& value, const char* meaning) {
    return command->add_option(name, value, meaning)->needs(policies)->group("with --policies");
  };
  of_policies("--budgets", o->policy.budgets, "shares of the prompt (default 0.0625,0.125,0.25,0.5)")
      ->delimiter(',')
      ->check(positive());
  of_policies("--prompt", o->policy.prompt, "tokens of the prompt (default 1024)")->check(CLI::Range(2, 1 << 24));
  of_policies("--steps", o->policy.steps, "tokens fed one at a time after it (default 256)")
      ->check(CLI::Range(2, 1 << 24));
  of_policies("--heads", o->policy.heads,
              "head table by which head-wise policies keep heads whole (default: induction scores, measured)");
  of_policies("--kv", o->policy.kv,
              "keys and values of all but the exact full cache: int8, int4, kivi2 or kivi2_token");
  auto* task =
      command->add_option("--task", o->policy.task,
                          "with --policies, a text task (default niah_single; '' for none); with --mixers, any task");
  of_policies("--samples", o->policy.task_samples, "samples of the task (default 20)")->check(CLI::Range(1, 1 << 24));
  of_policies("--speed-lengths", o->policy.lengths,
              "prompts at which a step is timed, too (default: a quarter, half and all of --prompt)")
      ->delimiter(',')
      ->check(CLI::Range(2, 1 << 24));
  of_policies("--speed-budget", o->policy.speed_budget, "share of the prompt that policies get there (default 0.25)")
      ->check(positive());
  of_policies("--batches", o->policy.batches, "sequences of those steps, as 1,4 (default 1)")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096));
  command
      ->add_flag("--protocol", o->protocol,
                 "the whole protocol, which takes an hour or more: budgets from 1/32 to 1/2, 200 samples of the task, "
                 "streaming_llm beside whatever --only names")
      ->needs(policies)
      ->group("with --policies");
  of_policies("--max-kl", o->policy.limits.max_kl, "allow at most this mean KL, in nats")->check(number(0));
  of_policies("--max-bytes", o->policy.limits.max_bytes, "allow at most so many bytes of cache")
      ->check(whole(0, INT64_MAX));
  of_policies("--min-tokens-per-second", o->policy.limits.min_tokens_per_second, "allow no slower decoding")
      ->check(number(0));
  of_policies("--save-policy", o->save_policy, "write the cheapest allowed policy here, for --policy of other commands")
      ->check(writable_file());
  auto* mixers = command
                     ->add_option("--mixers", o->learned.mixers,
                                  "train these on --task instead, at equal parameters and steps, as dense,gla,"
                                  "deltanet+sliding_window (in layers in turn)")
                     ->delimiter(',')
                     ->excludes(policies);
  const auto of_mixers = [&](const char* name, auto& value, const char* meaning) {
    return command->add_option(name, value, meaning)->needs(mixers)->group("with --mixers");
  };
  of_mixers("--task-set", o->task_settings, "parameters of the task, key=value");
  of_mixers("--beyond", o->beyond, "test on the task under other parameters, too, as length=128 or scale=2,length=16");
  of_mixers("--train-steps", o->learned.training.steps, "steps of each (default 1000)")->check(CLI::Range(1, 1 << 30));
  of_mixers("--budget", o->learned.budget_minutes, "minutes of all, in place of --train-steps")->check(positive());
  of_mixers("--batch", o->learned.training.batch, "samples a step (default 32)")->check(CLI::Range(1, 1 << 20));
  of_mixers("--lr", o->learned.training.learning_rate, "peak learning rate (default 1e-3)")->check(positive());
  of_mixers("--model-layers", o->learned.model.layers, "layers (default 2)")->check(CLI::Range(1, 256));
  of_mixers("--model-dim", o->learned.model.dim, "channels (default 64)")->check(CLI::Range(1, 1 << 16));
  of_mixers("--model-heads", o->learned.model.heads, "heads (default 4)")->check(CLI::Range(1, 1 << 12));
  command
      ->add_flag("--bare", o->learned.model.bare,
                 "blocks without norms and residuals, whose answers scale with their inputs")
      ->needs(mixers)
      ->group("with --mixers");
  add_block(*command, o->learned.model.block)->needs(mixers)->group("with --mixers");
  add_backbone(*command, o->learned.model, o->backbone_settings, mixers, "with --mixers");
  of_mixers("--seeds", o->seeds, "runs of each, from --seed on (default 1)")->check(CLI::Range(1, 1000));
  of_mixers("--test-samples", o->learned.samples, "of the test split (default 256)")->check(CLI::Range(1, 1 << 24));
  command->add_option("--html", o->html, "write a page with plots to this file")->check(writable_file());
  add_seed(*command, o->common);
  add_threads(*command, o->common);
  add_json(*command, o->common);
  command->callback([o, task] {
    require(task->empty() || o->policies || !o->learned.mixers.empty(),
            "--task {} goes with --mixers, which learn it, or with --policies", o->policy.task);
    run(*o);
  });
}

}  // namespace heed::cli
