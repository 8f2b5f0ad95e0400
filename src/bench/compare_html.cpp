// A comparison as one page: what it says, three plots, the tables, what was measured and how.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "bench/page.h"
#include "bench/plot.h"
#include "bench/units.h"
#include "heed/bench/compare.h"
#include "heed/bench/measure.h"

namespace heed::bench {
namespace {

/// Below it differences are the rounding of float32 and 16-bit numbers.
constexpr double kSmallestError = 1e-4;

/// Rows with figures of mechanisms that answer every query.
std::vector<const CompareRow*> measured(const Comparison& c) {
  std::vector<const CompareRow*> rows;
  for (const auto& row : c.rows)
    if (row.skipped.empty() && !row.one_query) rows.push_back(&row);
  return rows;
}

/// Exact mechanisms first, then those that need no training, then the others; the fastest of each first.
std::vector<std::string> ranked_names(const Comparison& c) {
  auto rows = measured(c);
  const auto rank = [](const CompareRow& r) { return r.exact ? 0 : r.training_free ? 1 : 2; };
  std::stable_sort(rows.begin(), rows.end(), [&](const CompareRow* a, const CompareRow* b) {
    if (rank(*a) != rank(*b)) return rank(*a) < rank(*b);
    return a->length > b->length;
  });
  std::vector<std::string> names;
  for (const auto* row : rows)
    if (std::find(names.begin(), names.end(), row->name) == names.end()) names.push_back(row->name);
  return names;
}

template <class Value>
std::vector<Series> series_of(const Comparison& c, const Value& value) {
  std::vector<Series> all;
  int index = 0;
  for (const auto& name : ranked_names(c)) {
    Series s{name, {index < kStyles ? index : -1}, {}, {}};
    ++index;
    for (const auto* row : measured(c)) {
      if (row->name != name) continue;
      Point point;
      if (!value(*row, point)) continue;
      s.points.push_back(point);
      s.tooltips.push_back(fmt::format("{}, N = {}: {}, {} extra{}", name, row->length, time_text(row->time_ms * 1e-3),
                                       bytes_text(row->extra_bytes),
                                       row->error ? ", error " + error_text(*row->error) : ""));
    }
    all.push_back(std::move(s));
  }
  return all;
}

/// The longest length with fidelity; 0: none.
int64_t judged_length(const Comparison& c) {
  int64_t length = 0;
  for (const auto* row : measured(c))
    if (row->error) length = std::max(length, row->length);
  return length;
}

/// What most readers want to know first.
std::string finding(const Comparison& c) {
  const int64_t length = judged_length(c);
  const CompareRow *exact = nullptr, *sparse = nullptr;
  for (const auto* row : measured(c)) {
    if (row->length != length || !row->error) continue;
    if (row->exact && (!exact || row->time_ms < exact->time_ms)) exact = row;
    // One that sees everything at this length leaves nothing out that could be lost.
    const bool leaves_out = *row->error > 1e-4;
    if (!row->exact && row->training_free && leaves_out && (!sparse || *row->error < *sparse->error)) sparse = row;
  }
  if (!exact) return {};
  std::string text = fmt::format("At N = {}, exact attention takes {} a layer (<code>{}</code>).", length,
                                 time_text(exact->time_ms * 1e-3), escape_xml(exact->name));
  if (sparse) {
    text += fmt::format(" Of what needs no training, <code>{}</code> comes nearest to it: error {}",
                        escape_xml(sparse->name), error_text(*sparse->error));
    if (sparse->mass) text += fmt::format(", {} of the attention kept", mass_text(*sparse->mass));
    const double ratio = exact->time_ms / sparse->time_ms;
    text += ratio > 1.05   ? fmt::format(", {:.1f} times as fast.", ratio)
            : ratio < 0.95 ? fmt::format(", in {:.1f} times the time.", 1 / ratio)
                           : ", in the same time.";
  }
  return fmt::format("<p class=\"finding\">{}</p>\n", text);
}

std::string figure(const std::string& heading, const std::string& plot, const std::string& caption) {
  return fmt::format("<h2>{}</h2>\n<figure>\n{}<figcaption>{}</figcaption>\n</figure>\n", escape_xml(heading), plot,
                     escape_xml(caption));
}

std::string plots(const Comparison& c) {
  std::vector<double> lengths;
  for (const auto length : c.lengths) lengths.push_back(static_cast<double>(length));
  std::string text;
  const auto time = series_of(c, [](const CompareRow& r, Point& p) {
    p = {static_cast<double>(r.length), r.time_ms * 1e-3};
    return r.time_ms > 0;
  });
  text += figure("Time",
                 line_plot({"time against length", "tokens N", "time of one layer's core", Unit::length, Unit::seconds},
                           time, lengths),
                 "Median time of the core of one layer, both axes logarithmic: a straight line that climbs one decade "
                 "a decade is linear in N.");
  const auto memory = series_of(c, [](const CompareRow& r, Point& p) {
    p = {static_cast<double>(r.length), static_cast<double>(std::max<int64_t>(r.extra_bytes, 1024))};
    return true;
  });
  text += figure("Memory",
                 line_plot({"extra memory against length", "tokens N", "extra memory", Unit::length, Unit::bytes},
                           memory, lengths),
                 "Most memory held at once beside q, k, v and the output; less than 1 KiB is drawn as 1 KiB.");
  const int64_t judged = judged_length(c);
  if (judged == 0) return text;
  const auto fidelity = series_of(c, [judged](const CompareRow& r, Point& p) {
    if (r.length != judged || !r.error) return false;
    p = {r.time_ms * 1e-3, std::clamp(*r.error, kSmallestError, 10.0)};
    return true;
  });
  text += figure(fmt::format("Fidelity against time, N = {}", judged),
                 scatter_plot({"fidelity against time", "time of one layer's core", "error (smaller is better)",
                               Unit::seconds, Unit::error, true},
                              fidelity),
                 "Relative L2 error of the outputs against exact attention in double; less than 1e-4 is drawn as 1e-4. "
                 "Up and to the left is better.");
  return text;
}

std::string cell(const std::optional<double>& value, std::string (*text)(double)) {
  return value ? text(*value) : "&ndash;";
}

std::string html_row(const CompareRow& r) {
  std::string row = fmt::format("<tr{}><td>{}</td>", r.exact ? " class=\"exact\"" : "", escape_xml(r.name));
  if (!r.skipped.empty())
    return row + fmt::format("<td class=\"word\" colspan=\"6\">skipped: {}</td></tr>\n", escape_xml(r.skipped));
  const std::string kind = r.exact ? "exact" : r.training_free ? "training-free" : "needs training";
  return row + fmt::format("<td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}{}</td></tr>\n",
                           time_text(r.time_ms * 1e-3),
                           cell(r.gflops, [](double x) { return fmt::format("{:.1f}", x); }), bytes_text(r.extra_bytes),
                           r.timing_only ? "timing only" : cell(r.error, error_text), cell(r.mass, mass_text), kind,
                           r.causal ? "" : ", not causal");
}

std::string tables(const Comparison& c) {
  std::string text = "<h2>Figures</h2>\n";
  for (const bool one_query : {false, true}) {
    for (const auto length : c.lengths) {
      std::string rows;
      for (const auto& row : c.rows)
        if (row.length == length && row.one_query == one_query) rows += html_row(row);
      if (rows.empty()) continue;
      text += fmt::format(
          "<h3>N = {}{}</h3>\n<div "
          "class=\"scroll\"><table>\n<tr><th>mechanism</th><th>time</th><th>GFLOP/s</th><th>extra memory</th>"
          "<th>error</th><th>mass kept</th><th>kind</th></tr>\n{}</table></div>\n",
          length, one_query ? ", the last query alone: a step of generation" : "", rows);
    }
  }
  return text;
}

std::string notes(const Comparison& c) {
  std::string text =
      "<h2>How it was measured</h2>\n<p>Queries, keys and values are those that the model computes from the text, "
      "after positions; every mechanism runs on the "
      "same tensors, in turn, and times are medians. <b>Error</b> is the relative L2 distance of the outputs from "
      "exact attention, computed in double from the "
      "formula, mean over the layers. <b>Mass kept</b> is the share of the exact attention weights that lies on the "
      "keys a mechanism sees, where it is a "
      "softmax over some of the keys. <b>GFLOP/s</b> counts the pairs of query and key that are weighed. Mechanisms "
      "that need training are shown for their "
      "time and memory; their error says how far they are from the function this model was trained with.</p>\n";
  const bool beyond = std::any_of(c.rows.begin(), c.rows.end(), [](const CompareRow& r) { return r.timing_only; });
  if (beyond)
    text += fmt::format(
        "<p>Lengths beyond the {} tokens the model was trained on are timed only: its tensors mean nothing "
        "there.</p>\n",
        c.source["trained_length"].get<int64_t>());
  if (c.source.contains("text_tokens") && c.source["text_tokens"].get<int64_t>() < c.lengths.back())
    text += fmt::format("<p>The text has {} tokens and was repeated to reach longer lengths.</p>\n",
                        c.source["text_tokens"].get<int64_t>());
  return text;
}

}  // namespace

std::string compare_html(const Comparison& c) {
  return page("heed compare", "Attention mechanisms side by side", source_line(c.source),
              finding(c) + plots(c) + tables(c) + notes(c), machine_line(c.machine));
}

}  // namespace heed::bench
