#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/dtype.h"
#include "cli/probe.h"
#include "cli/surgery.h"
#include "heed/assets.h"
#include "heed/checkpoint/decoder_checkpoint.h"
#include "heed/checkpoint/language_model.h"
#include "heed/error.h"
#include "heed/surgery/axformer.h"
#include "heed/tasks/corpus.h"
#include "heed/train/lm_data.h"

namespace heed::cli {
namespace {

struct Axformer {
  Common common;
  std::string model, out, dtype = "bfloat16";
  std::vector<std::string> text;
  surgery::AxOptions options;
  bool no_hard = false;
  int64_t context = 256, windows = 16;
};

void run(Axformer& o) {
  apply(o.common);
  const auto dtype = parse_dtype(o.dtype);
  if (o.model.empty()) o.model = find_asset("tiny-lm").string();
  o.options.hard_attention = !o.no_hard;
  auto lm = checkpoint::load_language_model(o.model);
  if (o.text.empty()) o.text = {tasks::default_text().string()};
  const auto corpus = tasks::Corpus::read({o.text.begin(), o.text.end()});
  const auto batch_of = [&](tasks::Split split) {
    return train::text_batch(lm.tokenizer, corpus, split, 0, o.windows, o.context, o.common.seed);
  };
  // The search goes by the valid split, so that another one says what it is worth.
  const auto valid = batch_of(tasks::Split::valid), test = batch_of(tasks::Split::test);
  const auto nats = [&](DecoderLm& model, const train::LmBatch& batch) {
    torch::NoGradGuard no_grad;
    return train::lm_loss(model, batch).item<double>();
  };
  std::unique_ptr<Progress> bar;
  const auto progress = progress_bar(bar, "search");
  const auto plan = surgery::axformer_search(
      lm.model, [&](DecoderLm& model) { return nats(model, valid); }, o.options,
      [&](const surgery::AxTrial&, size_t done, size_t most) { progress(int64_t(done), int64_t(most)); });
  auto smaller = surgery::axformer_apply(lm.model, plan, o.options);
  smaller->eval();
  checkpoint::save_decoder_like(o.out, smaller, o.model, dtype);
  const double before = nats(lm.model, test), after = nats(smaller, test);
  const int64_t sizes[] = {parameters_of(lm.model), parameters_of(smaller)};
  nlohmann::ordered_json json{{"model", o.model},
                              {"out", o.out},
                              {"parameters", {sizes[0], sizes[1]}},
                              {"trials", plan.trials.size()},
                              {"removed", nlohmann::json::array()},
                              {"hard_layers", plan.hard_layers},
                              {"valid_nats", {plan.first_loss, plan.loss}},
                              {"test_nats", {before, after}}};
  for (const auto& element : plan.removed) json["removed"].push_back(surgery::to_string(element));
  if (write_json(o.common, json.dump(1))) return;
  for (const auto& trial : plan.trials)
    if (trial.kept)
      fmt::print("{:<28} {:>8} {:.4f} nats a token\n", surgery::to_string(trial.element),
                 trial.hard ? "hard" : "removed", trial.loss);
  fmt::print("{} of {} trials stay; parameters {} -> {}\n", plan.removed.size() + plan.hard_layers.size(),
             plan.trials.size(), sizes[0], sizes[1]);
  fmt::print("nats a token: split valid, by which the search went, {:.4f} -> {:.4f}; split test {:.4f} -> {:.4f}\n",
             plan.first_loss, plan.loss, before, after);
  fmt::print("written: {}\n", o.out);
}

}  // namespace

void add_surgery_axformer(CLI::App& surgery) {
  auto o = std::make_shared<Axformer>();
  auto* command = surgery.add_subcommand(
      "axformer",
      "leaves out blocks, heads and groups of channels whose removal costs no loss of the valid split, then makes "
      "attention hard where that costs none (AxFormer)\nexample: heed surgery axformer --text book.txt --out smaller "
      "--tolerance 0.005");
  command->add_option("--model", o->model, "folder of the checkpoint (default: the shipped one)");
  command->add_option("--out", o->out, "folder of the new one")->check(writable_folder())->required();
  command->add_option("--text", o->text, "files and folders of text (default: a text that the system has)");
  command->add_option("--tolerance", o->options.tolerance, "nats a token that each removal may cost (default 0)")
      ->check(number(0));
  command->add_option("--channel-groups", o->options.channel_groups, "of a channel mixer (default 4)")
      ->check(CLI::Range(1, 1 << 20));
  command->add_flag("--no-hard", o->no_hard, "no layers of hard attention");
  command->add_option("--share", o->options.share, "hard attention: of the keys that a query may see (default 0.25)")
      ->check(number(1e-9, 1));
  command
      ->add_option("--ratio", o->options.ratio,
                   "above 0: in its place, keys of at least this share of the row's largest weight (default 0)")
      ->check(number(0, 1));
  command->add_option("--context", o->context, "tokens of a window (default 256)")->check(CLI::Range(2, 1 << 24));
  command->add_option("--windows", o->windows, "of a split that are scored (default 16)")->check(whole(1));
  command->add_option("--dtype", o->dtype, "of the new weights: float32, bfloat16 or float16 (default bfloat16)");
  add_seed(*command, o->common);
  add_threads(*command, o->common);
  add_json(*command, o->common);
  command->callback([o] { run(*o); });
}

}  // namespace heed::cli
