// Copying, delayed and selective: what must be kept, and for how long.
#include <fmt/format.h>

#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "results/learning.h"
#include "results/linear/experiments.h"
#include "results/trained_maps.h"

namespace heed::results::linear {
namespace {

Lesson sequence_lesson(const char* task, nlohmann::json parameters, int64_t steps) {
  Lesson lesson;
  lesson.task = task, lesson.parameters = std::move(parameters);
  lesson.training.steps = steps, lesson.training.learning_rate = 3e-3;
  return lesson;
}

/// Which tokens of the samples a layer of SeqBoat lets attend: [B, N], true for active ones.
torch::Tensor active_tokens(const LayerCall& call) {
  torch::NoGradGuard no_grad;
  const int64_t batch = call.input.x.size(0), tokens = call.input.x.size(1);
  const auto state = call.mixer->make_state(batch);
  call.mixer->forward(call.input, state.get());
  // Its state keeps the places of active tokens, the last ones at the end, behind slots that were never filled.
  const auto& slots = dynamic_cast<const RecurrentState&>(*state).slots;
  const auto places = slots[3], filled = slots[4];
  require(places.size(1) >= tokens, "seqboat: a window of {} forgets which of {} tokens were active",
          places.size(1) + 1, tokens);
  return torch::zeros({batch, tokens}, torch::kInt64).scatter_add(1, places, filled.to(torch::kInt64)) > 0;
}

}  // namespace

Experiment selection() {
  const auto run = [](const Report& report) {
    auto lesson = sequence_lesson("selective_copy", {{"length", 16}, {"marked", 4}, {"symbols", 8}}, 1000);
    lesson.training.learning_rate = 2e-3;
    lesson.beyond = {{"32 places", {{"length", 32}}}, {"64 places", {{"length", 64}}}};
    const Contest contest(lesson, {plain("mamba"), plain("s4d"), plain("mamba2"), plain("seqboat")}, report);
    return finding_of(contest, {contest.better("mamba", "s4d"), contest.better("mamba", "s4d", 1),
                                contest.better("mamba", "s4d", 2), contest.as_good("mamba2", "mamba", 0.05),
                                contest.as_good("seqboat", "s4d", 0.05), contest.better("seqboat", "s4d", 1)});
  };
  return {"selection",
          "Copying what is marked",
          {"mamba", "s4d", "mamba2", "seqboat"},
          "a state space whose step depends on the token copies what is marked and goes on doing so in longer samples; "
          "one of the same size that is the same at every token does not (arXiv 2312.00752).",
          run};
}

Experiment router() {
  const auto run = [](const Report& report) {
    constexpr int64_t kLength = 16, kSamples = 128;
    auto lesson = sequence_lesson("selective_copy", {{"length", kLength}, {"marked", 4}, {"symbols", 8}}, 1000);
    lesson.training.learning_rate = 2e-3, lesson.seeds = 2;
    struct Choice {
      Figure precision, recall, both, share;
    };
    std::map<std::string, std::vector<Choice>> choices;  // of layers
    const auto look = [&](const Learner& learner, train::TaskModel& model, const tasks::Task& task) {
      if (learner.mixer != "seqboat") return;
      const auto batch = train::task_batch(task, tasks::Split::test, 0, kSamples);
      const auto marked = batch.inputs.narrow(1, 0, kLength) != int64_t{'.'};
      const auto calls = layer_calls(model, batch);
      auto& layers = choices[learner.name];
      layers.resize(calls.size());
      for (size_t l = 0; l < calls.size(); ++l) {
        const auto all = active_tokens(calls[l]), active = all.narrow(1, 0, kLength);
        const double found = active.logical_and(marked).sum().item<double>();
        const double precision = found / std::max(1.0, active.sum().item<double>());
        const double recall = found / marked.sum().item<double>();
        layers[l].precision.values.push_back(precision);
        layers[l].recall.values.push_back(recall);
        layers[l].both.values.push_back(std::min(precision, recall));
        layers[l].share.values.push_back(all.to(torch::kFloat32).mean().item<double>());
      }
    };
    const std::vector<Learner> sparse{
        variant("seqboat", "seqboat", {{"window", 32}}),
        variant("seqboat, temperature 0.3", "seqboat", {{"window", 32}, {"temperature", 0.3}})};
    const Contest contest(lesson, {sparse[0], sparse[1], plain("dense")}, report, look);
    auto finding = finding_of(contest, {});
    finding.setup += fmt::format(
        " Precision and recall: of the tokens among the first {} that the router lets attend, how many are marked, and "
        "of the marked ones, how many it lets, in {} test samples; active: of all tokens.",
        kLength, kSamples);
    Table table{"Router", {"mixer", "layer", "precision", "recall", "active"}, {}};
    const Figure most{"0.9", {0.9}}, half{"half of the tokens", {0.5}};
    for (const auto& learner : sparse) {
      finding.claims.push_back(contest.as_good(learner.name, "dense", 0.05));
      for (size_t l = 0; l < choices[learner.name].size(); ++l) {
        auto& choice = choices[learner.name][l];
        choice.both.name = fmt::format("{}, layer {}: the lesser of precision and recall", learner.name, l + 1);
        choice.share.name = fmt::format("{}, layer {}: active tokens", learner.name, l + 1);
        table.rows.push_back(
            {learner.name, std::to_string(l + 1), choice.precision.text(), choice.recall.text(), choice.share.text()});
        finding.claims.push_back(exceeds(choice.both, most));
        finding.claims.push_back(exceeds(half, choice.share));
      }
    }
    finding.tables.push_back(table);
    return finding;
  };
  return {"router",
          "Which tokens attend",
          {"seqboat"},
          "what lets tokens attend finds those that matter (precision and recall above 0.9), and few active tokens are "
          "as good as attention of all (arXiv 2306.11197).",
          run};
}

Experiment resets() {
  const auto run = [](const Report& report) {
    auto lesson = sequence_lesson("reset_sum", {{"length", 64}}, 500);
    lesson.beyond = {{"128 tokens", {{"length", 128}}}};
    const auto gated = [](const char* name, const char* gate) {
      // Powers of 1 / 16, made for long texts, would hardly let a gate close within so few steps.
      return variant(name, "gla", {{"gate", gate}, {"gate_temperature", 1.0}});
    };
    const Contest contest(
        lesson, {gated("gates by channel", "channel"), gated("a gate a head", "head"), gated("no gate", "none")},
        report);
    return finding_of(
        contest,
        {contest.better("gates by channel", "no gate", 0, 10), contest.better("a gate a head", "no gate", 0, 10),
         contest.better("gates by channel", "no gate", 1), contest.better("a gate a head", "no gate", 1)});
  };
  return {"resets",
          "Sums since the last reset",
          {"gla"},
          "what was summed up must be forgotten when a token says so: gates that depend on the token can, and no other "
          "linear attention (arXiv 2312.06635).",
          run};
}

Experiment induction() {
  const auto run = [](const Report& report) {
    auto lesson = sequence_lesson("induction", {{"length", 24}, {"symbols", 8}}, 500);
    lesson.training.batch = 64;
    lesson.beyond = {{"48 bytes", {{"length", 48}}}, {"192 bytes", {{"length", 192}}}};
    const Contest contest(lesson, {plain("mamba"), plain("s4d"), plain("dense")}, report);
    return finding_of(contest, {contest.better("mamba", "s4d"), contest.better("mamba", "s4d", 1),
                                contest.better("mamba", "dense", 2)});
  };
  return {"induction",
          "What followed last time",
          {"mamba", "s4d"},
          "a selective state space learns induction and extrapolates its length; S4D and attention with rotary "
          "positions do not "
          "(arXiv 2312.00752).",
          run};
}

Experiment state_spaces() {
  const auto run = [](const Report& report) {
    auto lesson = sequence_lesson("copy", {{"length", 16}, {"symbols", 10}}, 600);
    lesson.seeds = 3;
    const Contest contest(
        lesson,
        {plain("s4"), variant("s4d, lin", "s4d", {{"init", "lin"}}), variant("s4d, inv", "s4d", {{"init", "inv"}}),
         variant("s4d, real", "s4d", {{"init", "real"}}), plain("lstm")},
        report);
    return finding_of(contest, {contest.as_good("s4d, lin", "s4", 0.05), contest.as_good("s4d, inv", "s4", 0.05),
                                contest.better("s4d, lin", "s4d, real"), contest.better("s4", "lstm")});
  };
  return {"state_spaces",
          "Diagonal state spaces",
          {"s4", "s4d"},
          "diagonal state spaces of complex poles are as good as S4; with real poles, which can't oscillate, they are "
          "worse (arXiv 2206.11893). An LSTM needs more steps to copy than S4 does.",
          run};
}

Experiment far_memory() {
  const auto run = [](const Report& report) {
    const std::vector<int64_t> delays{120, 248};
    Finding finding;
    for (size_t i = 0; i < delays.size(); ++i) {
      auto lesson = sequence_lesson("copy", {{"length", 4}, {"symbols", 4}, {"delay", delays[i]}}, 500);
      lesson.training.batch = 16, lesson.seeds = 2, lesson.samples = 128;
      const Contest contest(lesson, {plain("s4"), variant("s4d", "s4d", {{"init", "lin"}}), plain("lstm")},
                            [&](double share, const std::string& next) {
                              report((double(i) + share) / double(delays.size()),
                                     fmt::format("{} tokens later: {}", delays[i], next));
                            });
      if (i == 0) finding.setup = contest.setup() + fmt::format(" The same behind {} tokens.", delays.back());
      finding.tables.push_back(contest.table());
      finding.tables.back().title = fmt::format("{} tokens later", delays[i]);
      for (auto claim :
           {contest.better("s4", "lstm"), contest.better("s4d", "lstm"), contest.as_good("s4d", "s4", 0.05)}) {
        claim.text = fmt::format("{} tokens later: {}", delays[i], claim.text);
        finding.claims.push_back(claim);
      }
    }
    return finding;
  };
  return {"far_memory",
          "Copies over hundreds of tokens",
          {"s4", "s4d"},
          "state spaces keep what they saw hundreds of tokens ago; an LSTM does not learn to in the same steps (arXiv "
          "2111.00396).",
          run};
}

Experiment nested_lists() {
  const auto run = [](const Report& report) {
    auto lesson =
        sequence_lesson("listops", {{"max_depth", 4}, {"max_args", 4}, {"min_length", 16}, {"max_length", 64}}, 500);
    const auto linear = variant("linear_attention", "linear_attention", {{"feature_map", "sigmoid"}});
    const Contest contest(lesson, {plain("flow_attention"), linear, plain("dense")}, report);
    return finding_of(contest, {contest.better("flow_attention", "linear_attention"),
                                contest.as_good("flow_attention", "dense", 0.02)});
  };
  return {"nested_lists",
          "Competition among sources",
          {"flow_attention"},
          "conserved flows make sources compete, which linear attention lacks (arXiv 2202.06258).",
          run};
}

}  // namespace heed::results::linear
