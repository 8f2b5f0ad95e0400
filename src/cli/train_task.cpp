#include <fmt/format.h>

#include <cmath>

#include "cli/task_options.h"
#include "heed/bench/compare_tasks.h"
#include "heed/error.h"
#include "heed/progress.h"

namespace heed::cli {
namespace {

constexpr int64_t kValidSamples = 64;

struct TaskOptions {
  Common common;
  std::string task, out, from;
  std::vector<std::string> task_settings, settings, beyond, backbone_settings;
  train::TaskModelOptions model;
  train::TaskTrainOptions training;
  int64_t samples = 256, eval_every = 0;
};

/// Settings without a name are the one mixer's.
std::map<std::string, nlohmann::json> settings_of(const TaskOptions& o) {
  auto pairs = o.settings;
  const auto mixers = train::mixers_of(o.model.mixer);
  for (auto& pair : pairs) {
    if (pair.find('.') < pair.find('=')) continue;
    require(mixers.size() == 1, "--set {}: of {}, NAME.key=value is accepted", pair, o.model.mixer);
    pair = mixers[0] + "." + pair;
  }
  auto settings = settings_by_name(pairs);
  check_settings(settings, {o.model.mixer});
  return settings;
}

nlohmann::ordered_json to_json(const TaskOptions& o, const nlohmann::json& parameters, const tasks::Task& task,
                               train::TaskModel& model, const train::TaskRun& run) {
  const auto ideal = task.ideal();
  const bool image = task.face().input == tasks::Face::Input::image;
  nlohmann::ordered_json json{{"task", o.task},
                              {"task_parameters", parameters},
                              {"metric", name_of(task.face().metric)},
                              {"chance", task.metric_chance()},
                              {"ideal", ideal ? nlohmann::ordered_json(*ideal) : nlohmann::ordered_json()},
                              {"parameters", model.parameters()},
                              {"causal", model.causal()},
                              {"steps", o.training.steps},
                              {"batch", o.training.batch},
                              {"learning_rate", o.training.learning_rate},
                              {"seed", o.training.seed}};
  if (!o.from.empty())
    json["from"] = o.from;
  else
    json.update({{"mixer", o.model.mixer},
                 {"settings", o.model.settings},
                 {"layers", o.model.layers},
                 {"dim", o.model.dim},
                 {"heads", o.model.heads},
                 {"block", image ? nlohmann::ordered_json() : nlohmann::ordered_json(o.model.block)},
                 {"bare", o.model.bare},
                 {"backbone", image ? nlohmann::ordered_json(o.model.backbone) : nlohmann::ordered_json()},
                 {"channel_mixer", image ? nlohmann::ordered_json(o.model.channel_mixer) : nlohmann::ordered_json()}});
  json.update(bench::to_json(run));
  return json;
}

void print(const TaskOptions& o, tasks::Metric metric, const train::TaskRun& run) {
  fmt::print("score {}: {}, on the test split\n", bench::score_text(run.score.score), bench::metric_text(metric));
  for (const auto& [name, value] : run.score.details) fmt::print("  {:<24} {}\n", name, bench::score_text(value));
  for (size_t i = 0; i < o.beyond.size(); ++i)
    fmt::print("  with {:<19} {}\n", o.beyond[i], bench::score_text(run.beyond[i]));
  fmt::print("{:.0f} tokens/s\n", run.tokens_per_second);
}

void run(TaskOptions& o) {
  apply(o.common);
  const auto parameters = parse_settings(o.task_settings);
  const auto task = tasks::make_task(o.task, parameters);
  const auto beyond = train::tasks_beyond(o.task, parameters, parse_changes(o.beyond));
  o.model.settings = settings_of(o);
  o.model.backbone_settings = parse_settings(o.backbone_settings);
  o.model.seed = o.training.seed = o.common.seed;
  const auto model = o.from.empty() ? train::make_task_model(*task, o.model) : train::load_task_model(o.from, *task);
  const bool quiet = o.common.json_given && o.common.json == "-";
  const auto metric = task->face().metric;
  const auto what =
      o.from.empty() ? fmt::format("{}: {} layers of {} channels", o.model.mixer, o.model.layers, o.model.dim) : o.from;
  if (!quiet)
    fmt::print("{}: chance {}\n{}, {} parameters, {}\n", o.task, bench::score_text(task->metric_chance()), what,
               model->parameters(), model->causal() ? "causal" : "not causal");

  if (o.eval_every == 0) o.eval_every = std::max<int64_t>(1, o.training.steps / 10);
  auto bar = std::make_unique<Progress>(o.task, o.training.steps);
  double losses = 0;
  int64_t count = 0;
  const auto result = train::run_task(*model, *task, o.training, o.samples, beyond, [&](const train::TaskStep& at) {
    losses += at.loss, ++count;
    bar->update(at.step + 1, fmt::format("loss {:.4f}, {:.0f} tokens/s", at.loss, at.tokens_per_second));
    if ((at.step + 1) % o.eval_every != 0 || quiet) return true;
    const auto valid = train::score_task(*model, *task, tasks::Split::valid, kValidSamples);
    fmt::print("step {:>7}  loss {:.4f}  valid {}  {:.0f} tokens/s\n", at.step + 1, losses / double(count),
               bench::score_text(valid.score), at.tokens_per_second);
    std::fflush(stdout);
    losses = 0, count = 0;
    return true;
  });
  bar.reset();
  if (!o.out.empty()) model->save(o.out, {{"task", {{"name", o.task}, {"parameters", parameters}}}});
  if (!write_json(o.common, to_json(o, parameters, *task, *model, result).dump(1))) print(o, metric, result);
}

}  // namespace

void add_train_task(CLI::App& train) {
  auto o = std::make_shared<TaskOptions>();
  auto* task = train.add_option("--task", o->task, "a task of `heed list --kind task`");
  const auto option = [&](const char* name, auto& value, const char* meaning) {
    return train.add_option(name, value, meaning)->needs(task)->group("with --task");
  };
  option("--mixer", o->model.mixer,
         "a mixer of `heed list --kind mixer`, or several in layers in turn, as "
         "deltanet+sliding_window (default dense)");
  option("--task-set", o->task_settings, "parameters of the task, key=value");
  option("--set", o->settings,
         "parameters of the mixer, key=value; of several, NAME.key=value, or NAME#2.key=value of the second of a name");
  option("--beyond", o->beyond, "test on the task under other parameters, too, as length=128 or scale=2,length=16");
  option("--steps", o->training.steps, "steps (default 1000)")->check(CLI::Range(1, 1 << 30));
  option("--batch", o->training.batch, "samples a step (default 32)")->check(CLI::Range(1, 1 << 20));
  option("--lr", o->training.learning_rate, "peak learning rate (default 1e-3)")->check(positive());
  option("--layers", o->model.layers, "layers (default 2)")->check(CLI::Range(1, 256));
  option("--dim", o->model.dim, "channels (default 64)")->check(CLI::Range(1, 1 << 16));
  option("--heads", o->model.heads, "heads (default 4)")->check(CLI::Range(1, 1 << 12));
  option("--hidden", o->model.hidden, "width of the channel mixer (default 128)")->check(CLI::Range(1, 1 << 20));
  option("--parameters", o->model.parameters, "of the model, in place of --hidden")->check(whole(1));
  train.add_flag("--bare", o->model.bare, "blocks without norms and residuals, whose answers scale with their inputs")
      ->needs(task)
      ->group("with --task");
  add_block(train, o->model.block)->needs(task)->group("with --task");
  add_backbone(train, o->model, o->backbone_settings, task, "with --task");
  option("--test-samples", o->samples, "of the test split (default 256)")->check(CLI::Range(1, 1 << 24));
  option("--eval-every", o->eval_every, "steps between reports (default: a tenth of them)")->check(whole(1));
  option("--out", o->out, "write the model into this folder")->check(writable_folder());
  auto* from = option("--from", o->from, "go on with the model of this folder, which says what it is made of");
  for (const char* name : {"--mixer", "--set", "--layers", "--dim", "--heads", "--hidden", "--parameters", "--bare",
                           "--block", "--backbone", "--backbone-set", "--channel-mixer"})
    from->excludes(train.get_option(name));
  add_seed(train, o->common);
  add_threads(train, o->common);
  add_json(train, o->common);
  train.callback([o, &train] {
    if (!train.get_subcommands().empty()) return;
    require(!o->task.empty(), "train: lm, ruler_tiny, or --task and --mixer are accepted");
    run(*o);
  });
}

}  // namespace heed::cli
