#include "bench/policy_plots.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "bench/plot.h"
#include "bench/units.h"

namespace heed::bench {
namespace {

// Below it two caches differ by the rounding of float32 only.
constexpr double kLeastKl = 1e-7;

/// One series a policy, the same look in every plot.
class ByPolicy {
 public:
  void add(const std::string& policy, Point point, std::string tooltip) {
    auto& s = of(policy);
    s.points.push_back(point);
    s.tooltips.push_back(std::move(tooltip));
  }
  /// Along the x axis; series without a point are left out by the plot.
  std::vector<Series> take() {
    for (auto& s : series_) {
      std::vector<size_t> order(s.points.size());
      for (size_t i = 0; i < order.size(); ++i) order[i] = i;
      std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return s.points[a] < s.points[b]; });
      auto sorted = s;
      for (size_t i = 0; i < order.size(); ++i) {
        sorted.points[i] = s.points[order[i]];
        sorted.tooltips[i] = s.tooltips[order[i]];
      }
      s = std::move(sorted);
    }
    return std::move(series_);
  }
  explicit ByPolicy(const PolicyComparison& c) {
    for (const auto& row : c.rows) of(row.choice.name);
  }

 private:
  Series& of(const std::string& name) {
    const auto found = std::find_if(series_.begin(), series_.end(), [&](const Series& s) { return s.name == name; });
    if (found != series_.end()) return *found;
    const int index = int(series_.size());
    return series_.emplace_back(Series{name, {index < kStyles ? index : -1}, {}, {}});
  }
  std::vector<Series> series_;
};

std::string tooltip_of(const PolicyResult& r) {
  return fmt::format("{} {}: {}, KL {:.2g}, {:.0f} tokens/s", r.choice.name, settings_text(r.choice.settings),
                     bytes_text(r.cache_bytes), r.fidelity.kl, r.tokens_per_second);
}

std::vector<double> powers_of_four(const PolicyComparison& c) {
  std::vector<double> ticks;
  int64_t most = 1;
  for (const auto& row : c.rows) most = std::max(most, row.cache_bytes);
  for (double tick = 1024; tick <= 2.0 * double(most); tick *= 4)
    if (tick * 256 > double(most)) ticks.push_back(tick);
  return ticks;
}

std::string of_rows(const PolicyComparison& c, const PlotAxes& axes, const std::vector<double>& ticks,
                    const std::function<Point(const PolicyResult&)>& point) {
  ByPolicy series(c);
  for (const auto& row : c.rows) series.add(row.choice.name, point(row), tooltip_of(row));
  auto ringed = axes;
  if (c.chosen) ringed.ring = point(c.rows[*c.chosen]);
  return line_plot(ringed, series.take(), ticks);
}

double kl_of(const PolicyResult& r) { return std::max(r.fidelity.kl, kLeastKl); }

/// A key alone is half of a pair.
double reads_of(const PolicyResult& r) { return std::max(1.0, r.read + r.scored / 2); }

std::vector<double> read_ticks(const PolicyComparison& c) {
  double least = INFINITY, most = 1;
  for (const auto& row : c.rows) least = std::min(least, reads_of(row)), most = std::max(most, reads_of(row));
  std::vector<double> ticks;
  for (double tick = 1; tick <= most; tick *= 2)
    if (tick >= least) ticks.push_back(tick);
  return ticks;
}

std::string speeds(const PolicyComparison& c) {
  ByPolicy series(c);
  std::vector<double> ticks;
  for (const auto& s : c.speeds) {
    if (s.batch != c.options.batches.front()) continue;
    series.add(
        s.policy, {double(s.prompt), 1e-3 * s.decode_ms},
        fmt::format("{}, {} tokens: {} a step, {} of it attention, {} the policy", s.policy, s.prompt,
                    time_text(1e-3 * s.decode_ms), time_text(1e-3 * s.attention_ms), time_text(1e-3 * s.policy_ms)));
    ticks.push_back(double(s.prompt));
  }
  PlotAxes axes{fmt::format("Time of a step against length, budget {:g}", c.options.speed_budget),
                "tokens of the prompt", "time of a step"};
  return line_plot(axes, series.take(), ticks);
}

}  // namespace

std::string settings_text(const nlohmann::json& settings) {
  std::string text;
  for (const auto& [key, value] : settings.items())
    text += fmt::format("{}{}={}", text.empty() ? "" : " ", key,
                        value.is_string() ? value.get<std::string>() : value.dump());
  return text;
}

std::vector<std::string> policy_plots(const PolicyComparison& c) {
  PlotAxes axes{"Distance from the full cache against bytes held, with the Pareto front and the choice",
                "bytes of the cache", "KL(full || policy), nats"};
  axes.x = Unit::bytes;
  axes.y = Unit::error;
  for (const auto& row : c.rows)
    if (row.pareto) axes.front.emplace_back(double(row.cache_bytes), kl_of(row));
  std::sort(axes.front.begin(), axes.front.end());
  const auto bytes = powers_of_four(c);
  std::vector<std::string> plots{of_rows(c, axes, bytes, [](const PolicyResult& r) {
    return Point{double(r.cache_bytes), kl_of(r)};
  })};
  if (!c.rows.empty() && c.rows.front().task) {
    axes = {"Score against bytes held, with the choice", "bytes of the cache", c.options.task + ", score"};
    axes.x = Unit::bytes;
    axes.y = Unit::share;
    plots.push_back(of_rows(c, axes, bytes, [](const PolicyResult& r) {
      return Point{double(r.cache_bytes), r.task ? r.task->score : 0};
    }));
  }
  axes = {"Distance from the full cache against what a step reads",
          "pairs of key and value, a key that is only scored as half of one, a step, layer and KV head",
          "KL(full || policy), nats"};
  axes.y = Unit::error;
  plots.push_back(of_rows(c, axes, read_ticks(c), [](const PolicyResult& r) { return Point{reads_of(r), kl_of(r)}; }));
  if (!c.speeds.empty()) plots.push_back(speeds(c));
  return plots;
}

}  // namespace heed::bench
