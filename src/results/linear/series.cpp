// Numbers: forecasts, events, and algorithms over lists.
#include "results/learning.h"
#include "results/linear/experiments.h"

namespace heed::results::linear {
namespace {

Lesson series_lesson(const char* task, nlohmann::json parameters, int64_t steps) {
  Lesson lesson;
  lesson.task = task, lesson.parameters = std::move(parameters);
  lesson.model.dim = 32, lesson.model.heads = 2, lesson.model.hidden = 64;
  lesson.training.steps = steps, lesson.training.learning_rate = 2e-3;
  return lesson;
}

}  // namespace

Experiment forecasts() {
  const auto run = [](const Report& report) {
    const std::vector<Learner> kinds{plain("aaren"), plain("dense"), plain("gru"), plain("mamba")};
    const Contest series(series_lesson("ts_forecast", {}, 250), kinds,
                         [&](double share, const std::string& next) { report(share / 3, next); });
    const Contest events(series_lesson("hawkes", {}, 250), kinds,
                         [&](double share, const std::string& next) { report((1 + share) / 3, next); });
    auto causal = kinds;
    for (auto& kind : causal) kind.settings[kind.mixer]["causal"] = true;
    auto lists =
        series_lesson("listops", {{"max_depth", 2}, {"max_args", 4}, {"min_length", 4}, {"max_length", 16}}, 500);
    const Contest expressions(lists, causal,
                              [&](double share, const std::string& next) { report((2 + share) / 3, next); });
    auto finding = finding_of(series, {});
    finding.setup += " Then " + events.setup() + " Then, by models that look back alone, " + expressions.setup();
    finding.tables.front().title = "Forecasts";
    finding.tables.push_back(events.table());
    finding.tables.back().title = "Events";
    finding.tables.push_back(expressions.table());
    finding.tables.back().title = "Values of expressions";
    auto on_series = series.as_good("aaren", "dense", 0.1 * series.scores("dense").mean()),
         on_events = events.as_good("aaren", "dense", 0.02), on_lists = expressions.as_good("aaren", "dense", 0.05);
    on_series.text = "forecasts: " + on_series.text, on_events.text = "events: " + on_events.text;
    on_lists.text = "values of expressions: " + on_lists.text;
    const auto state = series.state_bytes("aaren"), cache = series.state_bytes("dense");
    finding.claims = {
        on_series, on_events, on_lists,
        holds("aaren's state is smaller than the cache of attention", state && cache && *state < *cache,
              state && cache ? std::to_string(*state) + " B against " + std::to_string(*cache) + " B" : "-")};
    return finding;
  };
  return {"forecasts",
          "Attention as a recurrence",
          {"aaren"},
          "softmax attention of a learned query, computed as a scan, forecasts as well as a transformer with constant "
          "memory (arXiv 2405.13956).",
          run};
}

Experiment oscillations() {
  const auto run = [](const Report& report) {
    const auto poles = [](const char* init) { return variant(std::string("s4d, ") + init, "s4d", {{"init", init}}); };
    const Contest contest(series_lesson("ts_forecast", {}, 250), {poles("lin"), poles("inv"), poles("real")}, report);
    return finding_of(contest, {contest.better("s4d, lin", "s4d, real"), contest.better("s4d, inv", "s4d, real")});
  };
  return {"oscillations",
          "Series that oscillate",
          {"s4d"},
          "real poles, which can't oscillate, foretell seasons worse than complex ones (arXiv 2206.11893).",
          run};
}

Experiment algorithms() {
  const auto run = [](const Report& report) {
    const std::vector<std::string> functions{"sum", "min", "median", "sort", "maxsub"};
    Finding finding;
    for (size_t i = 0; i < functions.size(); ++i) {
      auto lesson = series_lesson("algo", {{"function", functions[i]}}, 1000);
      lesson.beyond = {{"numbers 10 times as large", {{"scale", 10.0}}}};
      lesson.training.batch = 64, lesson.seeds = 2;
      lesson.model.bare = true;  // norms would keep answers from growing with the numbers
      const Contest contest(
          lesson,
          {plain("positional_attention"), variant("standard attention", "positional_attention", {{"content", true}})},
          [&](double share, const std::string& next) {
            report((double(i) + share) / double(functions.size()), functions[i] + ": " + next);
          });
      if (i == 0)
        finding.setup = contest.setup() + " The same for min, median, sort and the largest sum of neighbours.";
      finding.tables.push_back(contest.table());
      finding.tables.back().title = functions[i];
      auto claim = contest.better("positional_attention", "standard attention", 1);
      claim.text = functions[i] + ": " + claim.text;
      finding.claims.push_back(claim);
    }
    return finding;
  };
  return {"algorithms",
          "Attention that looks at places alone",
          {"positional_attention"},
          "weights that depend on positions alone keep an algorithm right for numbers of another size, where standard "
          "attention fails (arXiv 2410.01686).",
          run};
}

}  // namespace heed::results::linear
