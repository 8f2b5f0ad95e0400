#include "heed/bench/head_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/page.h"
#include "bench/svg.h"

namespace heed::bench {
namespace {

std::string setting_of(const HeadMap& map) {
  return fmt::format("{}: {} of {} prompts answered, {} random tokens repeated", map.model, map.scores.answered,
                     map.scores.samples, map.scores.repeated);
}

constexpr double kKept = 0.9;

/// Draws of random heads without which at least kKept of the score is left.
int64_t draws_kept(const probe::MaskingResult& m) {
  return std::count_if(m.random.begin(), m.random.end(), [&](double score) { return score >= kKept * m.unmasked; });
}

std::string masking_line(const probe::MaskingResult& m, size_t heads) {
  const auto [low, high] = std::minmax_element(m.random.begin(), m.random.end());
  return fmt::format(
      "{} {} masked ({}): score {:.2f} of {:.2f}; as many others, {} draws: {:.2f} ({:.2f} to {:.2f}), {} of them "
      "keep {:g} of the score or more",
      heads, heads == 1 ? "retrieval head" : "retrieval heads", to_string(m.masking), m.found, m.unmasked,
      m.random.size(), m.random_mean(), *low, *high, draws_kept(m), kKept);
}

/// What draws tell once heads are left out that the answer needs by themselves; empty where that was not measured.
std::string needed_line(const probe::MaskingResult& m) {
  if (!m.alone.defined()) return "";
  const auto needed = m.needed();
  if (needed.empty()) return fmt::format("no other head is needed by itself ({})", to_string(m.masking));
  std::string heads;
  for (const auto& [layer, head] : needed)
    heads +=
        fmt::format("{}{}.{} ({:.2f})", heads.empty() ? "" : ", ", layer, head, m.alone[layer][head].item<double>());
  const auto draws = m.clear_draws();
  std::string line = fmt::format("needed by themselves although they copy nothing ({}; score without): {}",
                                 to_string(m.masking), heads);
  if (draws.empty()) return line + "; every draw holds one";
  double sum = 0, least = 1;
  for (const size_t d : draws) sum += m.random[d], least = std::min(least, m.random[d]);
  return line + fmt::format("; the {} draws without them: {:.2f} (least {:.2f})", draws.size(),
                            sum / double(draws.size()), least);
}

/// Layers downwards, heads to the right; the darker the larger.
std::string picture(const probe::HeadScore& score) {
  const auto layers = score.values.size(0), heads = score.values.size(1);
  const double cell = std::clamp(640.0 / double(heads), 8.0, 44.0), left = 60, top = 24;
  Svg svg(left + cell * double(heads) + 10, top + cell * double(layers) + 10, score.name + " by layer and head");
  svg.text({left, 14}, "head", "label");
  svg.text({left - 10, top - 6}, "layer", "label", Anchor::end);
  const double largest = std::max(score.values.max().item<double>(), 1e-12);
  for (int64_t l = 0; l < layers; ++l) {
    const double y = top + cell * double(l);
    svg.text({left - 10, y + cell / 2 + 4}, std::to_string(l), "tick", Anchor::end);
    for (int64_t h = 0; h < heads; ++h) {
      const double x = left + cell * double(h), value = score.values[l][h].item<double>(), share = value / largest;
      svg.rectangle({x + 1, y + 1}, cell - 2, cell - 2,
                    fmt::format("heat h{}", std::lround(10 * std::clamp(share, 0.0, 1.0))));
      if (cell >= 30)
        svg.text({x + cell / 2, y + cell / 2 + 4},
                 largest > 10 ? fmt::format("{:.0f}", value) : fmt::format("{:.2f}", value),
                 share > 0.55 ? "name on" : "name", Anchor::middle);
    }
  }
  return svg.str();
}

}  // namespace

nlohmann::ordered_json to_json(const HeadMap& map) {
  nlohmann::ordered_json json{{"model", map.model},
                              {"samples", map.scores.samples},
                              {"answered", map.scores.answered},
                              {"repeated_tokens", map.scores.repeated}};
  for (const auto& score : map.scores.scores) json["scores"][score.name] = to_table(score).to_json()["values"];
  json["threshold"] = map.threshold;
  json["retrieval_heads"] = probe::heads_above(map.scores.at("retrieval"), map.threshold);
  for (const auto& m : map.masked) {
    nlohmann::ordered_json masked{{"masking", to_string(m.masking)},
                                  {"unmasked", m.unmasked},
                                  {"retrieval_heads", m.found},
                                  {"random_heads", m.random},
                                  {"random_mean", m.random_mean()},
                                  {"draws_kept", draws_kept(m)},
                                  {"drawn", m.drawn}};
    if (m.alone.defined()) {
      for (int64_t l = 0; l < m.alone.size(0); ++l) {
        const auto row = m.alone[l].contiguous();  // NaN, of found heads, becomes null
        masked["alone"].push_back(std::vector<double>(row.data_ptr<double>(), row.data_ptr<double>() + row.numel()));
      }
      masked["needed"] = m.needed();
      masked["clear_draws"] = m.clear_draws();
    }
    json["masked"].push_back(std::move(masked));
  }
  return json;
}

std::string head_table(const HeadMap& map, int64_t most) {
  const auto ranked = probe::heads_above(map.scores.at("retrieval"), -1);
  std::string text = setting_of(map) + "\n" + fmt::format("{:>5} {:>5}", "layer", "head");
  for (const auto& score : map.scores.scores)
    text += fmt::format(" {:>{}}", score.name, std::max<size_t>(9, score.name.size()));
  text += "\n";
  for (size_t i = 0; i < ranked.size() && int64_t(i) < most; ++i) {
    text += fmt::format("{:>5} {:>5}", ranked[i].first, ranked[i].second);
    for (const auto& score : map.scores.scores)
      text += fmt::format(" {:>{}.3f}", score.values[ranked[i].first][ranked[i].second].item<double>(),
                          std::max<size_t>(9, score.name.size()));
    text += "\n";
  }
  const auto found = probe::heads_above(map.scores.at("retrieval"), map.threshold).size();
  text += fmt::format("{} of {} heads have a retrieval score above {}\n", found, ranked.size(), map.threshold);
  for (const auto& m : map.masked) {
    text += masking_line(m, found) + "\n";
    if (const auto line = needed_line(m); !line.empty()) text += line + "\n";
  }
  return text;
}

std::string head_html(const HeadMap& map) {
  const auto found = probe::heads_above(map.scores.at("retrieval"), map.threshold).size();
  std::string body;
  for (const auto& m : map.masked) {
    body += fmt::format("<p class=\"finding\">{}</p>\n", masking_line(m, found));
    if (const auto line = needed_line(m); !line.empty()) body += fmt::format("<p>{}</p>\n", line);
  }
  for (const auto& score : map.scores.scores)
    body += fmt::format("<h2>{}</h2>\n<figure>\n{}<figcaption>{}.</figcaption>\n</figure>\n", escape_xml(score.name),
                        picture(score), escape_xml(score.meaning));
  return page("heed probe heads", "What the heads do", setting_of(map), body, "");
}

}  // namespace heed::bench
