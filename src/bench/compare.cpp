#include "heed/bench/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/contestants.h"
#include "bench/memory_meter.h"
#include "heed/bench/measure.h"
#include "heed/error.h"

namespace heed::bench {
namespace {

using torch::Tensor;
using Core = std::function<Tensor(const CoreInput&)>;

/// Longer sequences are judged by as many of their queries, evenly spread.
constexpr int64_t kMostJudged = 4096, kJudged = 256;
/// A mechanism that takes this long for one length is timed fewer times than asked.
constexpr double kMostSeconds = 10;
/// What an exact mechanism may differ by: float32 of ordinary logits, and twice the rounding of 16-bit outputs.
double exact_tolerance(torch::ScalarType dtype) {
  if (dtype == torch::kFloat16) return 2e-5 + 2 * std::ldexp(1, -11);
  if (dtype == torch::kBFloat16) return 2e-5 + 2 * std::ldexp(1, -8);
  return 2e-5;
}

/// One contestant at one length.
struct Entry {
  const Contestant* contestant = nullptr;
  Core core;
  CompareRow row;
  std::vector<double> times;
  double spent = 0;
  int64_t pairs = -1;
};

CoreInput input_of(const Contestant& c, const LayerTensors& layer) {
  CoreInput core;
  core.q = c.one_query ? layer.q.narrow(2, layer.q.size(2) - 1, 1) : layer.q;
  core.k = layer.k;
  core.v = layer.v;
  return core;
}

/// The queries of a sequence that are judged; undefined: all.
Tensor judged_rows(int64_t length) {
  if (length <= kMostJudged) return {};
  return (torch::arange(1, kJudged + 1) * length).div(kJudged, "floor") - 1;
}

/// Of some rows alone, each with the keys that it sees.
ExactResult exact_rows(const LayerTensors& t, const Tensor& rows, bool causal) {
  if (!causal) return exact_attention(t.q.index_select(2, rows), t.k, t.v, false);
  std::vector<Tensor> outs, lses;
  for (int64_t i = 0; i < rows.size(0); ++i) {
    const int64_t row = rows[i].item<int64_t>();
    const auto one = exact_attention(t.q.narrow(2, row, 1), t.k.narrow(2, 0, row + 1), t.v.narrow(2, 0, row + 1), true);
    outs.push_back(one.out), lses.push_back(one.lse);
  }
  return {torch::cat(outs, 2), torch::cat(lses, 2)};
}

/// Exact results of the layers at one length, made when first asked for.
class ExactResults {
 public:
  explicit ExactResults(const std::vector<LayerTensors>& layers)
      : layers_(layers), results_(2 * layers.size()), rows_(judged_rows(layers.front().q.size(2))) {}

  /// The rows of a result that this object has; all where undefined.
  const Tensor& rows() const { return rows_; }

  ExactResult of(size_t layer, bool causal, bool one_query) {
    auto& result = results_[2 * layer + causal];
    const auto& t = layers_[layer];
    if (!result.out.defined())
      result = rows_.defined() ? exact_rows(t, rows_, causal) : exact_attention(t.q, t.k, t.v, causal);
    if (!one_query) return result;
    const int64_t last = result.lse.size(2) - 1;  // the last row is among those that are judged
    return {result.out.narrow(2, last, 1), result.lse.narrow(2, last, 1)};
  }

 private:
  const std::vector<LayerTensors>& layers_;
  std::vector<ExactResult> results_;
  Tensor rows_;
};

/// `rows` of `out`, undefined: all, against as many of `exact`.
Fidelity fidelity_of(const LayerTensors& layer, const Tensor& out, const nn::CoreReport& report,
                     const ExactResult& exact, const Tensor& rows) {
  const auto judged = [&](const Tensor& x) {
    const auto part = rows.defined() ? x.index_select(2, rows) : x;
    return part.to(torch::kFloat64);
  };
  Fidelity f;
  f.layer = layer.layer;
  f.error = (judged(out) - exact.out).norm().item<double>() / exact.out.norm().item<double>();
  if (report.lse.defined()) f.mass = torch::exp(judged(report.lse) - exact.lse).mean().item<double>();
  return f;
}

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

/// The untimed runs: memory of one, reports and fidelity of each layer. They warm up, too.
void look(Entry& entry, const std::vector<LayerTensors>& layers, ExactResults& exact) {
  const auto& c = *entry.contestant;
  auto& row = entry.row;
  {
    const auto core = input_of(c, layers[0]);
    MemoryMeter meter;
    const auto out = entry.core(core);
    row.extra_bytes = std::max<int64_t>(0, meter.peak() - static_cast<int64_t>(out.nbytes()));
  }
  std::vector<double> errors, masses;
  for (size_t i = 0; i < layers.size(); ++i) {
    auto core = input_of(c, layers[i]);
    nn::CoreReport report;
    core.report = &report;
    const auto out = entry.core(core);
    entry.pairs = report.pairs;
    if (row.timing_only) continue;
    row.layers.push_back(fidelity_of(layers[i], out, report, exact.of(i, row.causal, row.one_query),
                                     row.one_query ? Tensor() : exact.rows()));
    errors.push_back(row.layers.back().error);
    if (row.layers.back().mass) masses.push_back(*row.layers.back().mass);
  }
  if (!errors.empty()) row.error = mean(errors);
  if (!masses.empty() && masses.size() == errors.size()) row.mass = mean(masses);
}

/// Runs what can throw for reasons of the mechanism and notes the reason.
template <class Run>
void or_skip(Entry& entry, const Run& run) {
  try {
    run();
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    entry.row.skipped = text.substr(0, text.find('\n'));
  } catch (const Error& error) {
    if (entry.contestant->configured) throw;
    entry.row.skipped = error.what();
  }
}

std::vector<Entry> enter(const std::vector<Contestant>& all, const LayerTensors& layer, int64_t trained_length,
                         bool far_fidelity) {
  const CoreShape shape{layer.q.size(1), layer.k.size(1), layer.q.size(3),
                        layer.q.size(2), trained_length,  layer.q.scalar_type()};
  std::vector<Entry> entries;
  for (const auto& c : all) {
    Entry entry;
    entry.contestant = &c;
    auto& row = entry.row;
    row.name = c.name;
    row.family = c.row->family;
    row.length = shape.length;
    row.one_query = c.one_query;
    row.causal = c.causal;
    row.training_free = c.row->training_free;
    row.exact = c.row->exact && c.settings.empty();
    row.timing_only = shape.length > trained_length && !far_fidelity;
    or_skip(entry, [&] { entry.core = c.prepare(shape); });
    entries.push_back(std::move(entry));
  }
  return entries;
}

/// Repetition by repetition over all mechanisms, so that a change of the machine's clock meets them alike.
void time_once(std::vector<Entry>& entries, const std::vector<LayerTensors>& layers,
               const std::function<void(const std::string&)>& step) {
  for (auto& entry : entries) {
    step(entry.row.name);
    if (!entry.row.skipped.empty() || entry.spent > kMostSeconds) continue;
    for (const auto& layer : layers) {
      const auto core = input_of(*entry.contestant, layer);
      const double start = now();
      entry.core(core);
      entry.times.push_back(now() - start);
      entry.spent += entry.times.back();
    }
  }
}

}  // namespace

Comparison compare(QkvSource& source, const CompareOptions& options,
                   const std::function<void(int64_t, int64_t, const std::string&)>& progress) {
  torch::NoGradGuard no_grad;
  const auto all = contestants(options);
  Comparison result;
  result.lengths = options.lengths.empty() ? source.default_lengths() : options.lengths;
  std::sort(result.lengths.begin(), result.lengths.end());
  result.lengths.erase(std::unique(result.lengths.begin(), result.lengths.end()), result.lengths.end());
  require(result.lengths.front() >= 1, "--lengths {}: 1 or more is accepted", result.lengths.front());
  require(options.repeats >= 1, "--repeats {}: 1 or more is accepted", options.repeats);
  result.source = source.describe();
  result.machine = measured_machine_json();

  const auto total = static_cast<int64_t>(result.lengths.size() * all.size()) * (options.repeats + 1);
  int64_t done = 0;
  for (const int64_t length : result.lengths) {
    const auto step = [&](const std::string& name) {
      if (progress) progress(done, total, fmt::format("{} at {}", name, length));
      ++done;
    };
    const auto layers = source.tensors(length);
    auto entries = enter(all, layers[0], source.trained_length(), options.far_fidelity);
    ExactResults exact(layers);
    for (auto& entry : entries) {
      step(entry.row.name);
      if (entry.row.skipped.empty()) or_skip(entry, [&] { look(entry, layers, exact); });
      const auto& row = entry.row;
      const double tolerance = exact_tolerance(layers[0].q.scalar_type());
      if (row.exact && row.error && !(*row.error <= tolerance))
        result.failed.push_back(
            fmt::format("{} at N = {}: error {:.2e} of a mechanism that claims to be exact; {:.0e} is allowed",
                        row.name, length, *row.error, tolerance));
    }
    for (int repeat = 0; repeat < options.repeats; ++repeat) time_once(entries, layers, step);
    for (auto& entry : entries) {
      auto& row = entry.row;
      const double seconds = median(entry.times);
      row.time_ms = seconds * 1e3;
      const double products = 2.0 * static_cast<double>(layers[0].q.size(3) + layers[0].v.size(3));
      if (entry.pairs >= 0 && seconds > 0) row.gflops = products * static_cast<double>(entry.pairs) / seconds * 1e-9;
    }
    std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
      if (a.row.skipped.empty() != b.row.skipped.empty()) return a.row.skipped.empty();
      return a.row.time_ms < b.row.time_ms;
    });
    for (auto& entry : entries) result.rows.push_back(std::move(entry.row));
  }
  return result;
}

}  // namespace heed::bench
