#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/probe.h"
#include "heed/assets.h"
#include "heed/steer/captions.h"
#include "heed/steer/head_search.h"

namespace heed::cli {
namespace {

struct SteerSearch {
  Common common;
  std::string model, intervention = "act_calibration", task = "niah_single", save;
  std::vector<std::string> set, task_set;
  int64_t context = 512, samples = 50;
};

void run(SteerSearch& o) {
  apply(o.common);
  if (o.model.empty()) o.model = find_asset("tiny-lm").string();
  const auto lm = checkpoint::load_language_model(o.model);
  auto parameters = parse_settings(o.task_set);
  if (!parameters.contains("max_tokens")) parameters["max_tokens"] = o.context;
  const auto task = tasks::make_text_task(o.task, parameters, cache::token_count(lm));
  std::unique_ptr<Progress> bar;
  const auto search =
      steer::search_heads(lm, o.intervention, parse_settings(o.set), *task, o.samples, progress_bar(bar, "heads"));
  bar.reset();
  if (!o.save.empty()) search.gains.save(o.save);
  const nlohmann::ordered_json json{{"model", o.model},
                                    {"intervention", o.intervention},
                                    {"task", o.task},
                                    {"unmodified", search.unmodified},
                                    {"found_heads", search.found},
                                    {"all_heads", search.all},
                                    {"gains", search.gains.to_json()["values"]}};
  if (write_json(o.common, json.dump(1))) return;
  fmt::print("score without {}: {:.3f}; gain of each head, split valid\n", o.intervention, search.unmodified);
  for (int64_t l = 0; l < search.gains.layers(); ++l) {
    fmt::print("{:>5} ", l);
    for (int64_t h = 0; h < search.gains.heads(); ++h) fmt::print(" {:+.3f}", search.gains.number(l, h));
    fmt::print("\n");
  }
  fmt::print("split test: in the heads that gain {:.3f}, in all heads {:.3f}\n", search.found, search.all);
}

struct SteerPairWorld {
  Common common;
  train::PairWorldOptions training;
  steer::CaptionOptions captions;
};

void run_pair_world(SteerPairWorld& o) {
  apply(o.common);
  o.training.seed = o.captions.seed = o.common.seed;
  o.captions.sink = o.training.sink;
  const tasks::PairWorld world(o.common.seed);
  auto model = train::pair_world_model(o.common.seed);
  auto bar = std::make_unique<Progress>("train", o.training.steps);
  const double loss = train::train_pair_world(model, world, o.training, [&](int64_t step, double value) {
    bar->update(step + 1, fmt::format("loss {:.3f}", value));
  });
  const auto rows = steer::compare_captions(model, world, o.captions, progress_bar(bar, "captions"));
  bar.reset();
  nlohmann::ordered_json json{{"steps", o.training.steps}, {"loss", loss}};
  for (const auto& row : rows)
    json["rows"].push_back({{"what", row.what},
                            {"split", row.conflict ? "conflict" : "normal"},
                            {"chair_i", row.score.chair_i()},
                            {"chair_s", row.score.chair_s()},
                            {"recall", row.score.recall()},
                            {"length", row.score.length()}});
  if (write_json(o.common, json.dump(1))) return;
  fmt::print("pairworld: {} steps of {}, loss {:.3f}; captions of {} images\n{:<10} {:<28} {:>8} {:>8} {:>7} {:>7}\n",
             o.training.steps, o.training.batch, loss, o.captions.images, "split", "", "CHAIR_I", "CHAIR_S", "recall",
             "length");
  for (const auto& row : rows)
    fmt::print("{:<10} {:<28} {:>8.3f} {:>8.3f} {:>7.3f} {:>7.2f}\n", row.conflict ? "conflict" : "normal", row.what,
               row.score.chair_i(), row.score.chair_s(), row.score.recall(), row.score.length());
}

}  // namespace

void add_steer(CLI::App& app) {
  auto* command = app.add_subcommand("steer", "change what a checkpoint attends to while it runs");
  command->require_subcommand(1);
  auto o = std::make_shared<SteerSearch>();
  auto* search = command->add_subcommand(
      "search",
      "the heads in which an intervention helps a task, one head at a time\n"
      "example: heed steer search --intervention act_calibration --context 512 --save-heads heads.json");
  search->add_option("--model", o->model, "folder of the checkpoint (default: the shipped one)");
  search->add_option("--intervention", o->intervention, "of `heed list --kind intervention` (default act_calibration)");
  search->add_option("--set", o->set, "settings of the intervention, key=value");
  search->add_option("--task", o->task, "of `heed list --kind task` (default niah_single)");
  search->add_option("--task-set", o->task_set, "parameters of the task, key=value");
  search->add_option("--context", o->context, "tokens of a prompt (default 512)")->check(CLI::Range(64, 1 << 24));
  search->add_option("--samples", o->samples, "prompts of each score (default 50)")->check(whole(1));
  search->add_option("--save-heads", o->save, "write the gains as a head table, for the intervention's setting heads")
      ->check(writable_file());
  add_threads(*search, o->common);
  add_json(*search, o->common);
  search->callback([o] { run(*o); });

  auto p = std::make_shared<SteerPairWorld>();
  auto* world = command->add_subcommand("pairworld",
                                        "train a small vision-text model on images of paired objects, and compare its "
                                        "captions under var_redistribution,\n"
                                        "FlowCut and their controls\nexample: heed steer pairworld --steps 6000");
  world->add_option("--steps", p->training.steps, "of training (default 6000)")->check(whole(1));
  world->add_option("--batch", p->training.batch, "images a step (default 64)")->check(whole(1));
  world->add_option("--lr", p->training.learning_rate, "peak learning rate (default 0.004)")->check(positive());
  world->add_option("--sink", p->training.sink, "size of the planted sink (default 20)")->check(number(0));
  world->add_option("--images", p->captions.images, "of each test split (default 512)")->check(whole(1));
  world->add_option("--targets", p->captions.targets, "patches that are left (default 12,8,6,4)")
      ->delimiter(',')
      ->check(whole(1));
  world->add_option("--kept", p->captions.kept, "shares that sinks keep under var_redistribution")
      ->delimiter(',')
      ->check(number(0, 1));
  add_seed(*world, p->common);
  add_threads(*world, p->common);
  add_json(*world, p->common);
  world->callback([p] { run_pair_world(*p); });
}

}  // namespace heed::cli
