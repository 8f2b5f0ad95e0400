#include "bench/task_words.h"

#include <fmt/format.h>

#include <cmath>

#include "bench/policy_plots.h"
#include "bench/units.h"

namespace heed::bench {

std::string task_line(const TaskComparison& c) {
  const auto& o = c.options;
  std::string text = o.task;
  if (!o.task_parameters.empty()) text += fmt::format(" ({})", settings_text(o.task_parameters));
  text += fmt::format(", {} positions a sample, chance {}", c.length, score_text(c.chance));
  if (c.ideal) text += fmt::format(", at best {}", score_text(*c.ideal));
  if (o.model.backbone != "vit") text += fmt::format("; {}", o.model.backbone);
  return text + fmt::format("; {} layer{} of {} channels, {} steps of {} samples, {} seed{}", o.model.layers,
                            o.model.layers == 1 ? "" : "s", o.model.dim, o.training.steps, o.training.batch,
                            o.seeds.size(), o.seeds.size() == 1 ? "" : "s");
}

std::string metric_text(tasks::Metric metric) {
  switch (metric) {
    case tasks::Metric::accuracy:
      return "share of the asked answers that are right";
    case tasks::Metric::bits:
      return "cross-entropy in bits a token, less is better";
    case tasks::Metric::squared_error:
      return "mean squared error, less is better";
    case tasks::Metric::nats:
      break;
  }
  return "negative log-likelihood of an event in nats, less is better";
}

std::string score_text(double score) {
  if (std::isnan(score)) return "-";
  const double size = std::fabs(score);
  if (size >= 1e4 || (size > 0 && size < 1e-3)) return fmt::format("{:.1e}", score);
  return size >= 100 ? fmt::format("{:.0f}", score) : fmt::format("{:.{}f}", score, size >= 10 ? 1 : 3);
}

std::string change_text(const nlohmann::json& change) { return settings_text(change); }

std::string state_text(const TaskRow& row) { return row.state_bytes ? bytes_text(*row.state_bytes) : "no step"; }

}  // namespace heed::bench
