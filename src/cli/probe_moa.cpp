#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/probe.h"
#include "heed/assets.h"
#include "heed/cache/policy.h"
#include "heed/error.h"
#include "heed/probe/head_scores.h"
#include "heed/probe/moa.h"

namespace heed::cli {
namespace {

struct ProbeMoa {
  Common common;
  std::string model, save, save_policy;
  std::vector<std::string> set;
  std::vector<int64_t> lengths;
  int64_t unseen = 0, step = 0;
  probe::MoaProfileOptions profile;
  probe::MoaOptions search;
  probe::WindowCompareOptions windows{.samples = 20};
  std::string ranking;
  bool compare = false;
};

nlohmann::ordered_json json_of(const probe::MoaPlan& plan) {
  return {{"loss", plan.loss}, {"density", plan.density}, {"rules", plan.settings()["rules"]}};
}

void print(const probe::MoaPlan& plan, const std::vector<probe::MoaProfile>& profiles, size_t plans, double unseen) {
  fmt::print("{} plans of which none is better at every length; the one with the least loss at the unseen length\n",
             plans);
  fmt::print("{:>8} {:>9} {:>12}\n", "tokens", "density", "loss");
  for (size_t n = 0; n + 1 < profiles.size(); ++n)
    fmt::print("{:>8} {:>9.3f} {:>12.4g}\n", profiles[n].length, plan.density[n], plan.loss[n]);
  fmt::print("{:>8} {:>9} {:>12.4g}\n\nlayer  window of each KV head: a + b N tokens\n", profiles.back().length,
             "unseen", unseen);
  for (size_t l = 0; l < plan.rules.size(); ++l) {
    fmt::print("{:>5} ", l);
    for (const auto& rule : plan.rules[l]) fmt::print(" {:>14}", fmt::format("{} + {} N", rule.a, rule.b));
    fmt::print("\n");
  }
}

void print(const std::vector<probe::WindowScore>& scores, const probe::WindowCompareOptions& o) {
  fmt::print("\n{}, {} samples, as many bytes for each choice\n{:>8} {:<8} {:>12} {:>7}  {}\n", o.task, o.samples,
             "tokens", "choice", "KV bytes", "score", "95 %");
  for (const auto& s : scores)
    fmt::print("{:>8} {:<8} {:>12} {:>7.3f}  {:.2f} to {:.2f}\n", s.length, s.choice, s.kv_bytes, s.mean, s.score.low,
               s.score.high);
}

/// At the longest profiled length and at twice as many tokens.
std::vector<probe::WindowScore> compare(ProbeMoa& o, const checkpoint::LanguageModel& lm, const probe::MoaPlan& plan) {
  const auto table =
      o.ranking.empty() ? probe::to_table(probe::induction_scores(lm)) : checkpoint::HeadTable::load(o.ranking);
  o.windows.task = o.profile.task;
  o.windows.parameters = o.profile.parameters;
  std::unique_ptr<Progress> bar;
  return probe::compare_windows(lm, plan, {o.lengths.back(), 2 * o.lengths.back()},
                                cache::rank_heads(table, cache::shape_of(lm.model->config())), o.windows,
                                progress_bar(bar, "choices"));
}

void run(ProbeMoa& o) {
  apply(o.common);
  if (o.model.empty()) o.model = find_asset("tiny-lm").string();
  const auto lm = checkpoint::load_language_model(o.model);
  const int64_t longest = lm.model->config().max_length;
  if (o.lengths.empty()) o.lengths = {longest / 4, longest / 2, longest};
  std::sort(o.lengths.begin(), o.lengths.end());
  if (!o.unseen) o.unseen = o.lengths.back() * 3 / 4;
  require(std::find(o.lengths.begin(), o.lengths.end(), o.unseen) == o.lengths.end(),
          "--unseen {}: a length that is not profiled for the search is accepted", o.unseen);
  o.search.step = o.step ? o.step : std::max<int64_t>(1, o.lengths.back() / 8);
  o.profile.parameters = parse_settings(o.set);
  auto lengths = o.lengths;
  lengths.push_back(o.unseen);
  std::vector<probe::MoaProfile> profiles;
  std::unique_ptr<Progress> bar;
  for (const int64_t length : lengths)
    profiles.push_back(
        probe::moa_profile(lm, length, o.profile, progress_bar(bar, fmt::format("profile of {} tokens", length))));
  bar.reset();
  const auto plans = probe::moa_pareto({profiles.begin(), profiles.end() - 1}, o.search);
  const size_t best = probe::best_at(plans, profiles.back());
  const auto& plan = plans[best];
  if (!o.save.empty()) plan.to_table().save(o.save);
  if (!o.save_policy.empty()) cache::PolicyChoice{"moa_sparse", plan.settings()}.save(o.save_policy);
  nlohmann::ordered_json json{{"model", o.model}, {"chosen", best}};
  for (const auto& profile : profiles) json["lengths"].push_back(profile.length);
  for (const auto& each : plans) json["plans"].push_back(json_of(each));
  std::vector<probe::WindowScore> scores;
  if (o.compare) scores = compare(o, lm, plan);
  for (const auto& s : scores)
    json["comparison"].push_back({{"tokens", s.length},
                                  {"choice", s.choice},
                                  {"kv_bytes", s.kv_bytes},
                                  {"score", s.mean},
                                  {"low", s.score.low},
                                  {"high", s.score.high}});
  if (write_json(o.common, json.dump(1))) return;
  print(plan, profiles, plans.size(), probe::moa_plan_of(plan.rules, {profiles.back()}).loss[0]);
  if (o.compare) print(scores, o.windows);
}

}  // namespace

void add_probe_moa(CLI::App& probe) {
  auto o = std::make_shared<ProbeMoa>();
  auto* moa = probe.add_subcommand(
      "moa",
      "profile what single attention weights do to answers, and search each KV head's window under a budget\n"
      "example: heed probe moa --density 0.5 --save-policy moa.json && heed generate --policy moa.json --prompt 'The'");
  moa->add_option("--model", o->model, "folder of the checkpoint (default: the shipped one)");
  moa->add_option("--task", o->profile.task, "a text task whose prompts the model answers (default kv_lookup)");
  moa->add_option("--set", o->set, "parameters of the task, key=value");
  moa->add_option("--samples", o->profile.samples, "prompts of each length (default 8)")->check(whole(1));
  moa->add_option("--lengths", o->lengths, "tokens (default: a quarter, half and all of the model's context)")
      ->delimiter(',')
      ->check(CLI::Range(128, 1 << 24));
  moa->add_option("--unseen", o->unseen, "length at which the plan is chosen (default: 3/4 of the longest)")
      ->check(CLI::Range(128, 1 << 24));
  moa->add_option("--density", o->search.density, "share of the causal half that heads read on average (default 0.5)")
      ->check(number(0.001, 1));
  moa->add_option("--step", o->step, "tokens between the a of candidates (default: 1/8 of the longest)")
      ->check(whole(1));
  moa->add_option("--target", o->search.target, "longest text that the plan is for (default: the longest profiled)")
      ->check(whole(0));
  moa->add_option("--save-heads", o->save, "write the plan as a head table, for moa_sparse's setting heads")
      ->check(writable_file());
  moa->add_option("--save-policy", o->save_policy, "write it as a policy, for --policy of other commands")
      ->check(writable_file());
  moa->add_flag("--compare", o->compare,
                "score the task with the plan, with one window for all heads and with DuoAttention, each of as many "
                "bytes, at the longest length and at twice as many tokens");
  moa->add_option("--compare-samples", o->windows.samples, "prompts of each (default 20)")->check(whole(1));
  moa->add_option("--heads", o->ranking,
                  "head table by which DuoAttention keeps heads whole (default: induction scores, measured)");
  add_threads(*moa, o->common);
  add_json(*moa, o->common);
  moa->callback([o] { run(*o); });
}

}  // namespace heed::cli
