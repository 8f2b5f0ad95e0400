#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/probe.h"
#include "heed/assets.h"
#include "heed/bench/head_map.h"
#include "heed/error.h"
#include "heed/formats/atomic_file.h"

namespace heed::cli {
namespace {

struct ProbeHeads {
  Common common;
  std::string model, html, save, by = "retrieval";
  std::vector<std::string> set;
  probe::HeadScoreOptions scores;
  probe::MaskingOptions masking;
  double threshold = 0.1;
  int64_t context = 0, most = 32;
  bool mask = false;
};

void run(ProbeHeads& o) {
  apply(o.common);
  if (o.model.empty()) o.model = find_asset("tiny-lm").string();
  const auto lm = checkpoint::load_language_model(o.model);
  o.scores.parameters = parse_settings(o.set);
  if (!o.scores.parameters.contains("max_tokens"))
    o.scores.parameters["max_tokens"] = o.context ? o.context : std::min<int64_t>(1024, lm.model->config().max_length);
  o.scores.seed = o.masking.seed = o.common.seed;
  std::unique_ptr<Progress> bar;
  bench::HeadMap map{o.model, probe::score_heads(lm, o.scores, progress_bar(bar, "prompts")), o.threshold, {}};
  if (!o.save.empty()) to_table(map.scores.at(o.by)).save(o.save);
  if (o.mask) {
    o.masking.task = o.scores.task;
    o.masking.parameters = o.scores.parameters;
    const auto found = heads_above(map.scores.at("retrieval"), o.threshold);
    for (const auto masking : {probe::Masking::zero, probe::Masking::uniform})
      map.masked.push_back(
          mask_heads(lm, found, masking, o.masking, progress_bar(bar, "masking: " + to_string(masking))));
  }
  bar.reset();
  if (!o.html.empty()) formats::write_file(o.html, bench::head_html(map));
  if (!write_json(o.common, bench::to_json(map).dump(1))) fmt::print("{}", bench::head_table(map, o.most));
}

}  // namespace

void add_probe(CLI::App& app) {
  auto* command = app.add_subcommand("probe", "look into a checkpoint: what its heads do");
  command->require_subcommand(1);
  auto o = std::make_shared<ProbeHeads>();
  auto* heads = command->add_subcommand(
      "heads",
      "retrieval, induction, echo, previous-token and streaming scores of every head, entropy and distance\n"
      "example: heed probe heads --mask --html heads.html --save-heads retrieval.json");
  heads->add_option("--model", o->model, "folder of the checkpoint (default: the shipped one)");
  heads->add_option("--task", o->scores.task, "a needle task of `heed list --kind task` (default niah_single)");
  heads->add_option("--set", o->set, "parameters of the task, key=value");
  heads->add_option("--context", o->context, "bytes of a prompt (default: 1024, or the model's context if shorter)")
      ->check(CLI::Range(64, 1 << 24));
  heads->add_option("--samples", o->scores.samples, "prompts (default 40)")->check(CLI::Range(1, 1 << 24));
  heads->add_option("--repeated", o->scores.repeated, "random tokens that are repeated four times (default 2500)")
      ->check(CLI::Range(2, 1 << 24));
  heads->add_option("--sinks", o->scores.sinks, "first tokens of the streaming score (default 4)")
      ->check(CLI::NonNegativeNumber);
  heads->add_option("--recent", o->scores.recent, "recent tokens of the streaming score (default 64)")
      ->check(CLI::PositiveNumber);
  heads->add_option("--threshold", o->threshold, "a retrieval head scores above it (default 0.1)");
  heads->add_option("--show", o->most, "heads that the table shows (default 32)")->check(CLI::PositiveNumber);
  heads->add_flag("--mask", o->mask, "answer without the retrieval heads, and without as many others");
  heads->add_flag("--alone", o->masking.alone, "with --mask: answer without each other head alone, too");
  heads->add_option("--mask-samples", o->masking.samples, "prompts of each (default 20)")->check(CLI::PositiveNumber);
  heads->add_option("--draws", o->masking.draws, "random draws of others (default 20)")->check(CLI::PositiveNumber);
  heads->add_option("--html", o->html, "write a page with a picture of every score");
  heads->add_option("--save-heads", o->save, "write the scores --by as a head table, for cache policies");
  heads->add_option("--by", o->by, "the score that is saved (default retrieval)");
  add_seed(*heads, o->common);
  add_threads(*heads, o->common);
  add_json(*heads, o->common);
  heads->callback([o] { run(*o); });
  add_probe_duo(*command);
  add_probe_moa(*command);
  add_probe_minference(*command);
  add_probe_sinks(*command);
  add_probe_keys(*command);
  add_probe_picture(*command);
  add_probe_features(*command);
}

}  // namespace heed::cli
