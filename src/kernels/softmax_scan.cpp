// The softmax scan over threads: heads of sequences or, where those are few, of chunks, whose summaries are combined.
#include "heed/kernels/softmax_scan.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "heed/kernels/runtime.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/softmax_scan_task.h"
#include "kernels/reference/element.h"

namespace heed::kernels {
namespace {

bool takes_reference(const SoftmaxScanParams& p) { return use_reference() || p.v.dtype == DType::f64; }

double work_of(const SoftmaxScanTask& task) {
  const auto& v = task.p.v.size;
  return 4.0 * static_cast<double>(v[0] * task.heads * v[2]) * static_cast<double>(task.width + 8);
}

/// exp(x - m), and 0 where both are -inf.
float weight(float x, float m) { return m == -INFINITY ? 0 : std::exp(x - m); }

/// a becomes a, then b; [m, u, w ...].
void combine(float* a, const float* b, int64_t width) {
  const float m = a[0] > b[0] || std::isnan(a[0]) ? a[0] : b[0];
  const float of_a = weight(a[0], m), of_b = weight(b[0], m);
  a[0] = m;
  for (int64_t i = 1; i < width + 2; ++i) a[i] = a[i] * of_a + b[i] * of_b;
}

void load_state(const SoftmaxScanTask& task, const AnyView& view, int64_t sequence, int64_t head, float* to) {
  std::fill_n(to, task.state_floats(), 0.0f);
  to[0] = -INFINITY;
  if (view) std::copy_n(view.as<const float>().row(sequence, head, 0), task.state_floats(), to);
}

/// What was seen before every unit, by head.
std::vector<float> unit_starts(const SoftmaxScanTask& task) {
  const int64_t floats = task.state_floats(), units = static_cast<int64_t>(task.units.size());
  std::vector<float> local(units * task.heads * floats), starts(local.size());
  for_each_item(units * task.heads, softmax_scratch_bytes(task), work_of(task), [&](int64_t item, void* scratch) {
    run_softmax_unit(task, task.units[item / task.heads], item % task.heads, nullptr, local.data() + item * floats,
                     false, scratch);
  });
  for (int64_t item = 0; item < units * task.heads; ++item) {
    const ScanUnit& unit = task.units[item / task.heads];
    float* start = starts.data() + item * floats;
    if (unit.first) {
      load_state(task, task.p.initial_state, unit.sequence, item % task.heads, start);
    } else {
      std::copy_n(start - task.heads * floats, floats, start);
      combine(start, local.data() + (item - task.heads) * floats, task.width);
    }
  }
  return starts;
}

/// What flows back from behind the last token of a sequence: r and R that the final state's gradient is worth.
void load_behind(const SoftmaxScanTask& task, const SoftmaxScanGrads& g, int64_t sequence, int64_t head, float* to) {
  std::fill_n(to, task.width + 1, 0.0f);
  if (!g.d_final_state) return;
  const float* gradient = g.d_final_state.as<const float>().row(sequence, head, 0);
  const float u = task.p.final_state.as<const float>().at(sequence, head, 0, 1);
  to[0] = -u * gradient[1];
  for (int64_t d = 0; d < task.width; ++d) to[d + 1] = u * gradient[d + 2];
}

/// Where the gradient of the final state's m goes, and how much is left of it: u and w depend on m as well.
LargestScore largest_score(const SoftmaxScanTask& task, const SoftmaxScanGrads& g, int64_t sequence, int64_t head) {
  LargestScore largest;
  if (!g.d_final_state) return largest;
  const SoftmaxScanParams& p = task.p;
  const float *state = p.final_state.as<const float>().row(sequence, head, 0),
              *gradient = g.d_final_state.as<const float>().row(sequence, head, 0);
  double rest = gradient[0];
  for (int64_t i = 1; i < task.state_floats(); ++i) rest -= static_cast<double>(state[i]) * gradient[i];
  largest.gradient = static_cast<float>(rest);
  if (p.initial_state && p.initial_state.as<const float>().at(sequence, head, 0) >= state[0]) return largest;
  const TokenSpan span = span_at(p, p.v, sequence);
  for (int64_t t = span.begin; t < span.end && state[0] > -INFINITY && largest.token < 0; ++t)
    if (load_element(p.scores, span.batch, task.score_head(head), t) == state[0]) largest.token = t;
  return largest;
}

/// The gradient of the initial state from what flows back over the first token.
void store_initial(const SoftmaxScanTask& task, const SoftmaxScanGrads& g, int64_t sequence, int64_t head,
                   const float* behind, const LargestScore& largest) {
  const TokenSpan span = span_at(task.p, task.p.v, sequence);
  float* to = g.d_initial_state.as<float>().row(sequence, head, 0);
  if (span.length() == 0) {
    for (int64_t i = 0; i < task.state_floats(); ++i)
      to[i] = g.d_final_state ? g.d_final_state.as<const float>().at(sequence, head, 0, i) : 0;
    return;
  }
  std::vector<float> state(task.state_floats());
  load_state(task, task.p.initial_state, sequence, head, state.data());
  const float kept = weight(state[0], task.p.lse.as<const float>().at(span.batch, head, span.begin));
  double d_m = largest.token < 0 ? largest.gradient : 0;
  for (int64_t i = 1; i < task.state_floats(); ++i) {
    to[i] = kept * (i == 1 ? -behind[0] : behind[i - 1]);
    d_m += static_cast<double>(state[i]) * to[i];
  }
  to[0] = static_cast<float>(d_m);
}

}  // namespace

void softmax_scan(const SoftmaxScanParams& p) {
  if (takes_reference(p)) return reference::softmax_scan(p);
  check(p);
  const SoftmaxScanTask task(p);
  const std::vector<float> starts = task.chunked ? unit_starts(task) : std::vector<float>();
  for_each_item(task.heads * static_cast<int64_t>(task.units.size()), softmax_scratch_bytes(task), work_of(task),
                [&](int64_t item, void* scratch) {
                  run_softmax_unit(task, task.units[item / task.heads], item % task.heads,
                                   task.chunked ? starts.data() + item * task.state_floats() : nullptr, nullptr, true,
                                   scratch);
                });
}

void softmax_scan_backward(const SoftmaxScanParams& p, const SoftmaxScanGrads& g) {
  if (takes_reference(p)) return reference::softmax_scan_backward(p, g);
  check(p, g);
  const SoftmaxScanTask task(p);
  const int64_t groups = task.heads / task.shared, units = static_cast<int64_t>(task.units.size());
  const int64_t floats = task.width + 1, unit_floats = task.heads * floats,
                bytes = softmax_backward_scratch_bytes(task);
  const auto sequences = count_spans(p, p.v);
  std::vector<LargestScore> largest(sequences * task.heads);
  std::vector<float> behind(units * unit_floats), local(task.chunked ? behind.size() : 0);
  if (task.chunked) {
    for_each_item(units * groups, bytes, work_of(task), [&](int64_t item, void* scratch) {
      run_softmax_unit_backward(task, g, task.units[item / groups], item % groups * task.shared,
                                local.data() + item * task.shared * floats, nullptr, false, scratch);
    });
  }
  for (int64_t item = units * task.heads - 1; item >= 0; --item) {
    const ScanUnit& unit = task.units[item / task.heads];
    const int64_t head = item % task.heads;
    float* to = behind.data() + item * floats;
    if (unit.last) {
      load_behind(task, g, unit.sequence, head, to);
      largest[unit.sequence * task.heads + head] = largest_score(task, g, unit.sequence, head);
      continue;
    }
    // Over the unit behind, whose lse goes from that of its first token to that of its last; then over the border.
    const ScanUnit& next = task.units[item / task.heads + 1];
    const auto lse = [&](int64_t t) { return p.lse.as<const float>().at(unit.batch, head, t); };
    const float over = weight(lse(next.begin), lse(next.end - 1)), border = weight(lse(unit.end - 1), lse(next.begin));
    for (int64_t i = 0; i < floats; ++i) {
      to[i] = border * (local[(item + task.heads) * floats + i] + over * behind[(item + task.heads) * floats + i]);
    }
  }
  for_each_item(units * groups, bytes, 3 * work_of(task), [&](int64_t item, void* scratch) {
    const ScanUnit& unit = task.units[item / groups];
    const int64_t first = item % groups * task.shared;
    run_softmax_unit_backward(task, g, unit, first, behind.data() + item * task.shared * floats,
                              largest.data() + unit.sequence * task.heads + first, true, scratch);
  });
  if (!g.d_initial_state) return;
  for (int64_t item = 0; item < units * task.heads; ++item) {
    const ScanUnit& unit = task.units[item / task.heads];
    const int64_t head = item % task.heads;
    if (unit.first) {
      store_initial(task, g, unit.sequence, head, behind.data() + item * floats,
                    largest[unit.sequence * task.heads + head]);
    }
  }
}

}  // namespace heed::kernels
