// A comparison on a task as a page.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "bench/page.h"
#include "bench/plot.h"
#include "bench/task_words.h"
#include "bench/units.h"
#include "heed/bench/compare_tasks.h"

namespace heed::bench {
namespace {

// What an error or a loss is drawn as at least: rounding below it says nothing.
constexpr double kLeastError = 1e-7;

Unit unit_of(tasks::Metric metric) {
  switch (metric) {
    case tasks::Metric::accuracy:
      return Unit::share;
    case tasks::Metric::squared_error:
      return Unit::error;
    default:
      return Unit::value;
  }
}

double drawn(tasks::Metric metric, double score) {
  return metric == tasks::Metric::squared_error ? std::max(score, kLeastError) : score;
}

PlotAxes score_axes(const TaskComparison& c, std::string title, std::string x_label, Unit x) {
  PlotAxes axes{std::move(title), std::move(x_label), std::string(name_of(c.metric)), x, unit_of(c.metric)};
  axes.y_downwards = !tasks::more_is_better(c.metric);
  return axes;
}

SeriesStyle style_of(size_t index) { return {index < kStyles ? int(index) : -1}; }

/// One point a mixer, with those of its seeds, where `x` says one of a row and a run.
std::vector<Series> scores_against(const TaskComparison& c,
                                   const std::function<double(const TaskRow&, const train::TaskRun&)>& x) {
  std::vector<Series> all;
  for (size_t i = 0; i < c.rows.size(); ++i) {
    const auto& row = c.rows[i];
    Series series{row.mixer, style_of(i), {}, {}};
    double sum = 0;
    for (const auto& run : row.runs) sum += x(row, run);
    const double mean = sum / double(row.runs.size());
    if (row.runs.empty() || !(mean > 0)) continue;
    series.points.emplace_back(mean, drawn(c.metric, row.mean()));
    series.tooltips.push_back(
        fmt::format("{}: {}, spread {}", row.mixer, score_text(row.mean()), score_text(row.spread())));
    for (size_t s = 0; s < row.runs.size() && row.runs.size() > 1; ++s) {
      series.points.emplace_back(x(row, row.runs[s]), drawn(c.metric, row.runs[s].score.score));
      series.tooltips.push_back(
          fmt::format("{}, seed {}: {}", row.mixer, c.options.seeds[s], score_text(row.runs[s].score.score)));
    }
    all.push_back(std::move(series));
  }
  return all;
}

/// One line a mixer through the means over its runs of what `points` gives.
template <class X>
std::vector<Series> lines(const TaskComparison& c,
                          const std::function<std::vector<std::pair<X, double>>(const train::TaskRun&)>& points) {
  std::vector<Series> all;
  for (size_t i = 0; i < c.rows.size(); ++i) {
    std::map<X, std::pair<double, double>> sums;
    for (const auto& run : c.rows[i].runs)
      for (const auto& [x, y] : points(run)) sums[x].first += y, sums[x].second += 1;
    Series series{c.rows[i].mixer, style_of(i), {}, {}};
    for (const auto& [x, sum] : sums) {
      const double y = sum.first / sum.second;
      series.points.emplace_back(double(x), y);
      series.tooltips.push_back(fmt::format("{}, {}: {}", c.rows[i].mixer, x, score_text(y)));
    }
    if (!series.points.empty()) all.push_back(std::move(series));
  }
  return all;
}

/// 1, 2, 5, 10, ... within what the series cover.
std::vector<double> ticks_of(const std::vector<Series>& series) {
  double low = INFINITY, high = 1;
  for (const auto& s : series)
    for (const auto& point : s.points) low = std::min(low, point.first), high = std::max(high, point.first);
  std::vector<double> ticks;
  for (double decade = 1; decade <= high; decade *= 10)
    for (const double m : {1.0, 2.0, 5.0})
      if (m * decade >= low && m * decade <= high) ticks.push_back(m * decade);
  return ticks;
}

std::string figure(const std::string& heading, const std::string& plot, const std::string& caption) {
  return fmt::format("<h2>{}</h2>\n<figure>\n{}<figcaption>{}</figcaption>\n</figure>\n", escape_xml(heading), plot,
                     escape_xml(caption));
}

std::string plots(const TaskComparison& c) {
  std::string text =
      figure("Score against speed",
             scatter_plot(score_axes(c, "score against speed", "tokens a second in training", Unit::length),
                          scores_against(c, [](const auto&, const auto& run) { return run.tokens_per_second; })),
             "The mean over seeds, and each seed as a small mark. Up and to the right is better.");
  const auto states = scores_against(c, [](const auto& row, const auto&) {
    return row.state_bytes ? double(std::max<int64_t>(*row.state_bytes, 1)) : 0;
  });
  if (!states.empty())
    text += figure("Score against state",
                   scatter_plot(score_axes(c, "score against state", "memory of one sequence", Unit::bytes), states),
                   "What a model holds of a sequence behind one sample. Up and to the left is better.");
  const auto losses = lines<int64_t>(c, [&](const train::TaskRun& run) {
    auto points = run.losses;
    if (c.metric != tasks::Metric::nats)
      for (auto& point : points) point.second = std::max(point.second, kLeastError);
    return points;
  });
  PlotAxes axes{"loss against steps", "steps", "training loss, mean over seeds"};
  axes.y = c.metric == tasks::Metric::nats ? Unit::value : Unit::error;
  text += figure("Learning", line_plot(axes, losses, ticks_of(losses)),
                 "Each point is the mean of the steps since the one before.");
  const auto places = lines<int64_t>(c, [&](const train::TaskRun& run) {
    std::vector<std::pair<int64_t, double>> points;
    for (const auto& [place, score] : run.score.places) points.emplace_back(place + 1, drawn(c.metric, score));
    return points;
  });
  const bool many = std::any_of(places.begin(), places.end(), [](const Series& s) { return s.points.size() > 1; });
  if (many)
    text += figure("Score against place",
                   line_plot(score_axes(c, "score against place", "position in the sample", Unit::length), places,
                             ticks_of(places)),
                   "The same scores by where in a sample the answer is asked for.");
  return text;
}

std::string table(const TaskComparison& c) {
  const auto& o = c.options;
  std::string head = "<tr><th>mixer</th><th>score</th><th>spread</th>", rows;
  for (const auto& change : o.beyond) head += fmt::format("<th>{}</th>", escape_xml(change_text(change)));
  head += "<th>parameters</th><th>state</th><th>tokens/s</th><th>sees</th></tr>\n";
  for (const auto& r : c.rows) {
    rows += fmt::format("<tr><td>{}</td>", escape_xml(r.mixer));
    if (!r.skipped.empty()) {
      rows += fmt::format("<td class=\"word\" colspan=\"{}\">skipped: {}</td></tr>\n", 6 + o.beyond.size(),
                          escape_xml(r.skipped));
      continue;
    }
    rows += fmt::format("<td>{}</td><td>{}</td>", score_text(r.mean()), score_text(r.spread()));
    for (size_t i = 0; i < o.beyond.size(); ++i) rows += fmt::format("<td>{}</td>", score_text(r.mean_beyond(i)));
    rows += fmt::format("<td>{}</td><td>{}</td><td>{:.0f}</td><td>{}</td></tr>\n", r.parameters, state_text(r),
                        r.tokens_per_second(), r.causal ? "the past" : "everything");
  }
  return "<h2>Figures</h2>\n<div class=\"scroll\"><table>\n" + head + rows + "</table></div>\n";
}

std::string finding(const TaskComparison& c) {
  const auto& best = c.rows.front();
  return fmt::format("<p class=\"finding\">Best: {} with {} ({}); chance is {}{}.</p>\n", escape_xml(best.mixer),
                     score_text(best.mean()), metric_text(c.metric), score_text(c.chance),
                     c.ideal ? ", the best that can be reached " + score_text(*c.ideal) : "");
}

constexpr std::string_view kNotes =
    "<h2>How it was measured</h2>\n<p>All models have the parameters of the first one, by the width of their channel "
    "mixers, and learn from the same samples in the same order, for as many steps. Scores are of the test split. "
    "<b>Spread</b> is the largest less the smallest score over seeds. <b>Chance</b> is what a model scores that knows "
    "the task's form and guesses. <b>State</b> is what a model with a step holds of a sequence behind one "
    "sample.</p>\n";

}  // namespace

std::string task_html(const TaskComparison& c) {
  return page("heed compare --mixers", "Mechanisms that learn a task", task_line(c),
              finding(c) + plots(c) + table(c) + std::string(kNotes),
              fmt::format("learning rate {:g}, {} heads", c.options.training.learning_rate, c.options.model.heads));
}

}  // namespace heed::bench
