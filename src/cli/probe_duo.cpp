#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/probe.h"
#include "heed/assets.h"
#include "heed/error.h"
#include "heed/probe/duo.h"

namespace heed::cli {
namespace {

struct ProbeDuo {
  Common common;
  std::string model, heads, save, full_from = "teacher";
  std::vector<std::string> text;
  train::DuoOptions gates;
  probe::ChoiceOptions choices;
  int64_t context = 0;
  bool compare = false;
};

checkpoint::HeadTable train_gates(const ProbeDuo& o, const checkpoint::LanguageModel& lm) {
  std::optional<tasks::Corpus> corpus;
  if (!o.text.empty()) corpus = tasks::Corpus::read({o.text.begin(), o.text.end()});
  const int64_t context = o.context ? o.context : std::min<int64_t>(32000, lm.model->config().max_length);
  const auto task = probe::passkeys_for(context, o.common.seed, corpus ? &*corpus : nullptr);
  Progress bar("gates", o.gates.steps);
  return probe::duo_gates(lm, *task, o.gates, nullptr, [&](int64_t step, double distance) {
    bar.update(step + 1, fmt::format("distance {:.2e}", distance));
  });
}

void print_gates(const checkpoint::HeadTable& gates) {
  fmt::print("{:>5}  gates of KV heads\n", "layer");
  for (int64_t l = 0; l < gates.layers(); ++l) {
    fmt::print("{:>5} ", l);
    for (int64_t h = 0; h < gates.heads(); ++h) fmt::print(" {:.3f}", gates.number(l, h));
    fmt::print("\n");
  }
}

void print_choices(const std::vector<probe::ChoiceScore>& all, const probe::ChoiceOptions& o) {
  fmt::print(
      "\nanswers at {} tokens, {} samples; streaming heads keep {} sinks and {} recent tokens\n{:<16} {:<10} {:>9} "
      "{:>7} {:>8}  {}\n",
      o.context, o.samples, o.sinks, o.recent, "task", "choice", "streaming", "score", "of full", "draws");
  double full = 0;
  for (const auto& c : all) {
    if (c.choice == "full") full = c.mean();
    std::string draws;
    if (c.scores.size() > 1)
      for (const double score : c.scores) draws += fmt::format(" {:.2f}", score);
    fmt::print("{:<16} {:<10} {:>8.0f}% {:>7.3f} {:>8}{}\n", c.task, c.choice, 100 * c.sparsity, c.mean(),
               full > 0 ? fmt::format("{:.3f}", c.mean() / full) : "-", draws.empty() ? "" : " " + draws);
  }
}

void run(ProbeDuo& o) {
  apply(o.common);
  require(o.full_from == "teacher" || o.full_from == "student", "--full-from {}: teacher or student is accepted",
          o.full_from);
  using FullFrom = train::DuoOptions::FullFrom;
  o.gates.full_from = o.full_from == "teacher" ? FullFrom::teacher : FullFrom::student;
  if (o.model.empty()) o.model = find_asset("tiny-lm").string();
  const auto lm = checkpoint::load_language_model(o.model);
  const auto gates = o.heads.empty() ? train_gates(o, lm) : checkpoint::HeadTable::load(o.heads);
  if (!o.save.empty()) gates.save(o.save);
  nlohmann::ordered_json json{{"model", o.model}, {"gates", gates.to_json()["values"]}};
  std::vector<probe::ChoiceScore> choices;
  if (o.compare) {
    o.choices.seed = o.common.seed;
    std::unique_ptr<Progress> bar;
    choices = probe::compare_choices(lm, gates, o.choices, progress_bar(bar, "choices"));
    for (const auto& c : choices)
      json["choices"].push_back(
          {{"task", c.task}, {"choice", c.choice}, {"sparsity", c.sparsity}, {"score", c.mean()}, {"draws", c.scores}});
  }
  if (write_json(o.common, json.dump(1))) return;
  print_gates(gates);
  if (o.compare) print_choices(choices, o.choices);
}

}  // namespace

void add_probe_duo(CLI::App& probe) {
  auto o = std::make_shared<ProbeDuo>();
  auto* duo = probe.add_subcommand(
      "duo",
      "train DuoAttention's gates on passkeys: which KV heads need the whole text; --compare: what choices of heads "
      "cost\nexample: heed probe duo --steps 300 --save-heads gates.json --compare");
  duo->add_option("--model", o->model, "folder of the checkpoint (default: the shipped one)");
  duo->add_option("--text", o->text, "files and folders of text to hide passkeys in (default: generated prose)");
  duo->add_option("--context", o->context, "bytes of the longest sample (default: the model's context, at most 32000)")
      ->check(CLI::Range(256, 1 << 24));
  duo->add_option("--steps", o->gates.steps, "default 2000")->check(whole(1));
  duo->add_option("--lr", o->gates.learning_rate, "peak learning rate (default 0.02)")->check(positive());
  duo->add_option("--lambda", o->gates.lambda, "weight of the mean gate (default 0.05)")->check(number(0));
  duo->add_option("--train-sinks", o->gates.sinks, "sinks of streaming heads in training (default 128)")
      ->check(whole(0));
  duo->add_option("--train-recent", o->gates.recent, "and their recent tokens (default 256)")->check(whole(1));
  duo->add_option("--full-from", o->full_from, "full attention of teacher (default) or student");
  duo->add_option("--heads", o->heads, "a file of gates: none are trained");
  duo->add_option("--save-heads", o->save, "write the gates as a head table, for duo_attention's setting heads")
      ->check(writable_file());
  duo->add_flag("--compare", o->compare,
                "tasks with heads chosen by gates, by attention entropy and at random; all streaming; window alone");
  duo->add_option("--tasks", o->choices.tasks, "of these (default niah_single)")->delimiter(',');
  duo->add_option("--task-context", o->choices.context, "tokens of their prompts (default 1024)")
      ->check(CLI::Range(64, 1 << 24));
  duo->add_option("--sparsities", o->choices.sparsities, "shares of streaming heads (default 0.25,0.5,0.75)")
      ->delimiter(',')
      ->check(number(0, 1));
  duo->add_option("--samples", o->choices.samples, "prompts of each (default 50)")->check(whole(1));
  duo->add_option("--draws", o->choices.draws, "random choices (default 5)")->check(whole(1));
  duo->add_option("--sinks", o->choices.sinks, "sinks that streaming heads keep (default 64)")->check(whole(0));
  duo->add_option("--recent", o->choices.recent, "recent tokens that they keep (default 256)")->check(whole(1));
  add_seed(*duo, o->common);
  add_threads(*duo, o->common);
  add_json(*duo, o->common);
  duo->callback([o] { run(*o); });
}

}  // namespace heed::cli
