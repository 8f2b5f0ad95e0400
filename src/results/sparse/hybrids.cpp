// Recall of pairs by a layer of sparse attention behind one that joins keys with values and is too small to remember
// them.
#include <fmt/format.h>

#include "results/learning.h"
#include "results/sparse/experiments.h"

namespace heed::results::sparse {
namespace {

using nlohmann::json;

constexpr int64_t kPairs = 8;

/// Pairs, then queries anywhere behind them.
Lesson hybrid_lesson(int64_t length, int64_t vocabulary, int64_t steps) {
  Lesson lesson;
  lesson.task = "mqar";
  lesson.parameters = {{"length", length}, {"vocabulary", vocabulary}, {"pairs", kPairs}, {"power", 1.0}};
  lesson.model.dim = 64, lesson.model.heads = 2, lesson.model.hidden = 128;
  lesson.training.steps = steps, lesson.training.batch = 16, lesson.training.learning_rate = 3e-3;
  return lesson;
}

/// Mamba with a state of 4 numbers a channel, then attention that leaves the order to it.
Learner behind_mamba(const std::string& name, const std::string& mixer, json settings = json::object(),
                     std::vector<std::string> frozen = {}) {
  settings["positions"] = "none";
  Learner learner{name, "mamba+" + mixer, {{"mamba", {{"state_dim", 4}}}, {mixer, settings}}};
  learner.frozen = std::move(frozen);
  return learner;
}

Learner window_behind_mamba(int64_t keys) {
  return behind_mamba(fmt::format("window of {}", keys), "sliding_window", {{"window", keys}, {"sinks", 0}});
}

using Models = std::vector<std::shared_ptr<train::TaskModel>>;

/// Models of `learner`, one a seed of `lesson`, that have learnt `first`; the learners of `lesson` begin with their
/// weights. `first` is the shorter lesson, of which `called` says what its models have.
Models begin_with(Lesson& lesson, const Lesson& first, const Learner& learner, const std::string& called,
                  const Report& report) {
  const auto built = [options = first.model](const tasks::Task& task, const Learner& of, uint64_t seed) {
    auto own = options;
    own.mixer = of.mixer, own.settings = of.settings, own.seed = seed;
    return train::make_task_model(task, own);
  };
  const auto task = tasks::make_task(first.task, first.parameters);
  Models models;
  for (int64_t seed = 0; seed < lesson.seeds; ++seed) {
    models.push_back(built(*task, learner, uint64_t(seed)));
    auto training = first.training;
    training.seed = uint64_t(seed);
    train::train_task(*models.back(), *task, training, [&](const train::TaskStep& step) {
      if (step.step % 10 == 0)
        report((double(seed) + double(step.step) / double(training.steps)) / double(lesson.seeds), called);
      return true;
    });
  }
  lesson.begins = fmt::format("{} learn `{}` {} in {} steps of {} at a rate of {:g}, then their attention is exchanged",
                              called, first.task, first.parameters.dump(), first.training.steps, first.training.batch,
                              first.training.learning_rate);
  lesson.make = [built, models, name = lesson.task, parameters = lesson.parameters](const Learner& of, uint64_t seed) {
    auto model = built(*tasks::make_task(name, parameters), of, seed);
    take_weights(model->module(), models[size_t(seed)]->module());
    return model;
  };
  return models;
}

}  // namespace

Experiment routed_recall() {
  const auto run = [](const Report& report) {
    Lesson first;
    first.task = "mqar";
    first.parameters = {{"length", 32}, {"vocabulary", 64}, {"pairs", 4}};
    first.model.dim = 64, first.model.heads = 2, first.model.hidden = 128;
    first.training.steps = 2500, first.training.batch = 32, first.training.learning_rate = 3e-3;
    auto lesson = first;
    lesson.training.steps = 400, lesson.training.learning_rate = 1e-3;
    const auto routed = [](const char* name, json settings) {
      settings["positions"] = "none";
      return Learner{name, "base_conv+routing_attention", {{"routing_attention", settings}}};
    };
    // Scores a query, of both heads: 8 near keys, 4 centroids and the 8 keys of a cluster; or 2 x 10 near keys.
    const auto one = routed("one cluster", {{"clusters", 1}, {"local_heads", 0}});
    begin_with(lesson, first, one, "Layers of a gated convolution and of attention in one cluster, which is all keys,",
               [&](double share, const std::string& next) { report(0.6 * share, next); });
    const Contest contest(
        lesson,
        {one,
         routed("clusters that follow",
                {{"clusters", 4}, {"local_heads", 1}, {"window", 8}, {"init", "kmeans"}, {"decay", 0.99}}),
         routed("random clusters", {{"clusters", 4}, {"local_heads", 1}, {"window", 8}, {"decay", 1.0}}),
         routed("local heads alone", {{"local_heads", 2}, {"window", 10}})},
        [&](double share, const std::string& next) { report(0.6 + 0.4 * share, next); });
    auto finding = finding_of(contest, {contest.better("clusters that follow", "local heads alone"),
                                        contest.better("clusters that follow", "random clusters"),
                                        contest.as_good("clusters that follow", "one cluster", 0.1)});
    finding.setup +=
        " 20 scores a query in all but one cluster: a head of 8 near keys and one of 4 clusters of 8 keys, or two "
        "heads of 10 near keys. A full trial takes 512 tokens and attention in clusters from the start; keys that are "
        "their queries learn so late that it is 32 tokens here, and clusters come last.";
    return finding;
  };
  return {"routed_recall",
          "Keys of the same cluster",
          {"routing_attention"},
          "at equal cost, half of the heads attending within clusters that follow queries and keys recall what local "
          "attention, and clusters that do not follow, miss (arXiv 2003.05997). The paper's perplexities need its "
          "size.",
          run};
}

Experiment masked_recall() {
  const auto run = [](const Report& report) {
    constexpr int64_t kKept = 16;
    auto lesson = hybrid_lesson(64, 514, 1500);
    lesson.training.learning_rate = 1e-3;  // faster, importance learns to drop what is asked for later
    for (const int64_t length : {128, 512})
      lesson.beyond.push_back({fmt::format("{} tokens", length), {{"length", length}}});
    const auto masked = [kKept](const char* name, std::vector<std::string> frozen) {
      return behind_mamba(name, "dynamic_mask_attention", {{"kept", kKept}}, std::move(frozen));
    };
    const Contest contest(lesson,
                          {behind_mamba("dense", "dense"), masked("16 keys, learned", {}),
                           masked("16 keys, random", {"importance", "amplitude"}), window_behind_mamba(kKept)},
                          report);
    std::vector<Claim> claims;
    for (const size_t beyond : {0, 1, 2}) {
      claims.push_back(contest.as_good("16 keys, learned", "dense", 0.1, beyond));
      claims.push_back(contest.better("16 keys, learned", "16 keys, random", beyond));
      claims.push_back(contest.better("16 keys, learned", "window of 16", beyond));
    }
    auto finding = finding_of(contest, claims);
    finding.setup +=
        " A layer of Mamba with a state of 4, then the attention. A full trial takes 64 keys of 512 tokens; trained at "
        "that length attention does not learn in minutes, so it is 16 of 64, and the same 16 of 128 (the full trial's "
        "share) and of 512 at the test.";
    return finding;
  };
  return {"masked_recall",
          "Keys that weigh themselves",
          {"dynamic_mask_attention"},
          "a number made of each value, which learns, keeps the few keys that will be asked for; a window or a frozen "
          "random number does not (arXiv 2508.02124).",
          run};
}

Experiment jumping_recall() {
  const auto run = [](const Report& report) {
    constexpr int64_t kLength = 1024, kVocabulary = 2050, kFirst = 2000, kSteps = 200;
    auto lesson = hybrid_lesson(kLength, kVocabulary, kSteps);
    lesson.training.batch = 4;
    lesson.training.learning_rate = 1e-3;
    lesson.seeds = 2, lesson.samples = 64;
    lesson.beyond = {{"2048 tokens", {{"length", 2 * kLength}}}};
    const auto sources = begin_with(lesson, hybrid_lesson(64, kVocabulary, kFirst), behind_mamba("dense", "dense"),
                                    "Layers of Mamba (a state of 4) and of dense attention",
                                    [&](double share, const std::string& next) { report(0.3 * share, next); });
    const auto task = tasks::make_task(lesson.task, lesson.parameters);
    Figure before{"dense attention, before it goes on", {}};
    for (const auto& source : sources)
      before.values.push_back(train::score_task(*source, *task, tasks::Split::test, lesson.samples, 4).score);
    // A window of 3 and two spans of about 2 sqrt(t), 64 at 1024.
    const json jumps{{"skip", 1}, {"anchors", 2}};
    const Contest contest(lesson,
                          {behind_mamba("search that learns", "superlinear_attention", jumps),
                           behind_mamba("random search", "superlinear_attention", jumps, {"q_search_proj"}),
                           window_behind_mamba(131), behind_mamba("dense", "dense")},
                          [&](double share, const std::string& next) { report(0.3 + 0.7 * share, next); });
    auto finding = finding_of(contest, {contest.better("search that learns", "random search"),
                                        contest.better("search that learns", "random search", 1),
                                        contest.better("search that learns", "window of 131"),
                                        contest.as_good("search that learns", "dense", 0.1)});
    finding.setup += fmt::format(
        " Before it goes on, dense attention has {} at {} tokens. A full trial takes a needle in text of 1k to 4k; "
        "here "
        "pairs of 1k and 2k tokens.",
        before.text(), kLength);
    return finding;
  };
  return {"jumping_recall",
          "Spans around anchors",
          {"superlinear_attention"},
          "in a hybrid with Mamba recall rises from chance to near 1 only where the search is trained; with frozen "
          "random search queries it stays low (arXiv 2601.18401).",
          run};
}

}  // namespace heed::results::sparse
