#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/probe.h"
#include "cli/task_lengths.h"
#include "heed/assets.h"
#include "heed/bench/head_map.h"
#include "heed/error.h"
#include "heed/formats/atomic_file.h"
#include "heed/names.h"

namespace heed::cli {
namespace {

struct ProbeHeads {
  Common common;
  std::string model, html, save, by = "retrieval";
  std::vector<std::string> set;
  std::vector<int64_t> mask_top, lengths;
  probe::HeadScoreOptions scores;
  probe::MaskingOptions masking;
  double threshold = 0.1;
  int64_t context = 0, most = 32;
  bool mask = false;
};

/// The answers without the heads of the largest retrieval scores, and without as many of the rest.
struct TopMasking {
  int64_t count = 0;
  probe::MaskingResult result;
};

struct AtLength {
  int64_t length = 0;
  probe::HeadScores scores;
};

std::vector<TopMasking> mask_top(const ProbeHeads& o, const checkpoint::LanguageModel& lm,
                                 const probe::HeadScore& retrieval, std::unique_ptr<Progress>& bar) {
  auto options = o.masking;
  options.alone = false;
  options.spared = top_heads(retrieval, *std::max_element(o.mask_top.begin(), o.mask_top.end()));
  std::vector<TopMasking> all;
  for (const int64_t count : o.mask_top)
    for (const auto masking : {probe::Masking::zero, probe::Masking::uniform})
      all.push_back({count, mask_heads(lm, top_heads(retrieval, count), masking, options,
                                       progress_bar(bar, fmt::format("masking {}: {}", count, to_string(masking))))});
  return all;
}

std::vector<AtLength> scores_at(const ProbeHeads& o, const checkpoint::LanguageModel& lm,
                                std::unique_ptr<Progress>& bar) {
  std::vector<AtLength> all;
  for (const int64_t length : o.lengths) {
    auto options = o.scores;
    options.parameters["max_tokens"] = length;
    all.push_back({length, retrieval_scores(lm, options, progress_bar(bar, fmt::format("{} tokens", length)))});
  }
  return all;
}

void add_json(nlohmann::ordered_json& json, const std::vector<TopMasking>& masked, const std::vector<AtLength>& lengths,
              double threshold) {
  for (const auto& [count, m] : masked)
    json["masked_top"].push_back({{"heads", count},
                                  {"masking", to_string(m.masking)},
                                  {"unmasked", m.unmasked},
                                  {"top", m.found},
                                  {"random_mean", m.random_mean()},
                                  {"random", m.random}});
  for (const auto& at : lengths) {
    const auto& score = at.scores.at("retrieval");
    nlohmann::ordered_json row{{"length", at.length},
                               {"answered", at.scores.answered},
                               {"retrieval_heads", heads_above(score, threshold)},
                               {"retrieval", to_table(score).to_json()["values"]}};
    for (const auto& other : lengths)
      row["rank_correlation"].push_back(rank_correlation(score, other.scores.at("retrieval")));  // NaN becomes null
    json["lengths"].push_back(std::move(row));
  }
}

void print(const std::vector<TopMasking>& masked, const std::vector<AtLength>& lengths, double threshold) {
  if (!masked.empty())
    fmt::print(
        "score without the heads of the largest retrieval scores, and without as many of the rest\n{:>6} {:<8} "
        "{:>8} {:>8} {:>8} {:>8} {:>8}\n",
        "heads", "masking", "all", "top", "random", "least", "most");
  for (const auto& [count, m] : masked) {
    const auto [least, most] = std::minmax_element(m.random.begin(), m.random.end());
    fmt::print("{:>6} {:<8} {:>8.3f} {:>8.3f} {:>8.3f} {:>8.3f} {:>8.3f}\n", count, to_string(m.masking), m.unmasked,
               m.found, m.random_mean(), *least, *most);
  }
  if (lengths.empty()) return;
  fmt::print("retrieval scores by the length of the prompts: rank correlation over the heads\n{:>8} {:>9} {:>6}",
             "tokens", "answered", fmt::format("> {:g}", threshold));
  for (const auto& at : lengths) fmt::print(" {:>8}", at.length);
  fmt::print("\n");
  for (const auto& at : lengths) {
    const auto& score = at.scores.at("retrieval");
    fmt::print("{:>8} {:>9} {:>6}", at.length, at.scores.answered, heads_above(score, threshold).size());
    for (const auto& other : lengths) {
      const double correlation = rank_correlation(score, other.scores.at("retrieval"));
      fmt::print(" {:>8}", std::isnan(correlation) ? "-" : fmt::format("{:.3f}", correlation));
    }
    fmt::print("\n");
  }
}

void run(ProbeHeads& o) {
  apply(o.common);
  const auto names = probe::head_score_names();
  require(std::find(names.begin(), names.end(), o.by) != names.end(), "--by {}: {}", o.by, suggest(o.by, names));
  if (o.model.empty()) o.model = find_asset("tiny-lm").string();
  const auto lm = checkpoint::load_language_model(o.model);
  o.scores.parameters = parse_settings(o.set);
  auto& context = o.scores.parameters["max_tokens"];
  if (o.context) context = o.context;
  if (context.is_null())
    context = std::min<int64_t>(1024, lengths_for(lm, o.scores.task, parse_settings(o.set), 0).front());
  o.scores.seed = o.masking.seed = o.common.seed;
  std::unique_ptr<Progress> bar;
  bench::HeadMap map{o.model, probe::score_heads(lm, o.scores, progress_bar(bar, "prompts")), o.threshold, {}};
  if (!o.save.empty()) to_table(map.scores.at(o.by)).save(o.save);
  o.masking.task = o.scores.task;
  o.masking.parameters = o.scores.parameters;
  const auto& retrieval = map.scores.at("retrieval");
  if (o.mask) {
    const auto found = heads_above(retrieval, o.threshold);
    for (const auto masking : {probe::Masking::zero, probe::Masking::uniform})
      map.masked.push_back(
          mask_heads(lm, found, masking, o.masking, progress_bar(bar, "masking: " + to_string(masking))));
  }
  std::vector<TopMasking> masked;
  if (!o.mask_top.empty()) masked = mask_top(o, lm, retrieval, bar);
  const auto lengths = scores_at(o, lm, bar);
  bar.reset();
  if (!o.html.empty()) formats::write_file(o.html, bench::head_html(map));
  auto json = bench::to_json(map);
  add_json(json, masked, lengths, o.threshold);
  if (write_json(o.common, json.dump(1))) return;
  fmt::print("{}", bench::head_table(map, o.most));
  print(masked, lengths, o.threshold);
}

}  // namespace

void add_probe_heads(CLI::App& probe) {
  auto o = std::make_shared<ProbeHeads>();
  auto* heads = probe.add_subcommand(
      "heads",
      "retrieval, induction, echo, previous-token and streaming scores of every head, its weight on the first token "
      "and "
      "on later sinks, entropy and distance; what makes the sinks, and secondary ones: `heed probe sinks`\n"
      "example: heed probe heads --mask --html heads.html --save-heads retrieval.json");
  heads->add_option("--model", o->model, "folder of the checkpoint (default: the shipped one)");
  heads->add_option("--task", o->scores.task, "a needle task of `heed list --kind task` (default niah_single)");
  heads->add_option("--set", o->set, "parameters of the task, key=value");
  heads->add_option("--context", o->context, "tokens of a prompt (default: 1024, or the model's context if shorter)")
      ->check(CLI::Range(64, 1 << 24));
  heads->add_option("--samples", o->scores.samples, "prompts (default 40)")->check(CLI::Range(1, 1 << 24));
  heads->add_option("--repeated", o->scores.repeated, "random tokens that are repeated four times (default 2500)")
      ->check(CLI::Range(2, 1 << 24));
  heads->add_option("--sinks", o->scores.sinks, "first tokens of the streaming score (default 4)")->check(whole(0));
  heads->add_option("--recent", o->scores.recent, "recent tokens of the streaming score (default 64)")->check(whole(1));
  heads->add_option("--threshold", o->threshold, "a retrieval head scores above it (default 0.1)")
      ->check(number(0, 1e6));
  heads->add_option("--show", o->most, "heads that the table shows (default 32)")->check(whole(1));
  heads->add_flag("--mask", o->mask, "answer without the retrieval heads, and without as many others");
  heads->add_flag("--alone", o->masking.alone, "with --mask: answer without each other head alone, too");
  heads
      ->add_option("--mask-top", o->mask_top,
                   "as 1,2,4,8: answer without so many heads of the largest retrieval scores, and without as many of "
                   "the rest")
      ->delimiter(',')
      ->check(whole(1, 1 << 20));
  heads
      ->add_option("--lengths", o->lengths,
                   "as 256,1024: retrieval scores at these lengths of the prompts, too, and their rank correlation")
      ->delimiter(',')
      ->check(CLI::Range(64, 1 << 24));
  heads->add_option("--mask-samples", o->masking.samples, "prompts of each (default 20)")->check(whole(1));
  heads->add_option("--draws", o->masking.draws, "random draws of others (default 20)")->check(whole(1));
  heads->add_option("--html", o->html, "write a page with a picture of every score")->check(writable_file());
  heads->add_option("--save-heads", o->save, "write the scores --by as a head table, for cache policies")
      ->check(writable_file());
  heads->add_option("--by", o->by, "the score that is saved (default retrieval)");
  add_seed(*heads, o->common);
  add_threads(*heads, o->common);
  add_json(*heads, o->common);
  heads->callback([o] { run(*o); });
}

}  // namespace heed::cli
