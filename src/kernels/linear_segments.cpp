#include "kernels/linear_segments.h"

#include <algorithm>
#include <atomic>

#include "kernels/cpu/parallel.h"

namespace heed::kernels {
namespace {

double work_of(const LinearTask& task) {
  const auto& q = task.p.q.size;
  return static_cast<double>(q[0] * task.heads * q[2]) * static_cast<double>(task.d * task.dv);
}

/// run(segment, head, scratch) of all heads of all segments.
template <class Run>
void for_each_state(const LinearTask& task, const std::vector<ScanUnit>& units, const Run& run) {
  for_each_item(static_cast<int64_t>(units.size()) * task.heads, linear_scratch_bytes(task), work_of(task),
                [&](int64_t item, void* scratch) { run(item / task.heads, item % task.heads, scratch); });
}

void copy_states(const AnyView& from, int64_t at, const AnyView& to, int64_t to_at) {
  const auto rows = from.as<const float>();
  const auto target = to.as<float>();
  for (int64_t h = 0; h < to.size[1]; ++h)
    for (int64_t c = 0; c < to.size[2]; ++c) std::copy_n(rows.row(at, h, c), to.size[3], target.row(to_at, h, c));
}

/// after = diag(kept) before + local, of all heads.
void carry(const LinearTask& task, const float* kept, const float* before, const float* local, float* after) {
  for (int64_t row = 0; row < task.heads * task.d; ++row) {
    for (int64_t e = row * task.dv; e < (row + 1) * task.dv; ++e) after[e] = kept[row] * before[e] + local[e];
  }
}

}  // namespace

SegmentStates::SegmentStates(const LinearTask& task, size_t segments)
    : states_(segments * task.heads * task.d * task.dv),
      view_{states_.data(), DType::f32, {static_cast<int64_t>(segments), task.heads, task.d, task.dv}, {}} {
  view_.stride = dense_strides(view_.size);
}

LinearSegments::LinearSegments(const LinearTask& task, const std::vector<ScanUnit>& units)
    : task_(task), units_(units), kept_(units.size() * task.heads * task.d) {}

SegmentStates LinearSegments::starts(bool& valid) {
  SegmentStates local(task_, units_.size()), before(task_, units_.size());
  LinearChunkParams p = task_.p;
  p.final_state = local.view();
  const LinearTask task(p);
  std::atomic<bool> all_valid{true};
  for_each_state(task, units_, [&](int64_t segment, int64_t head, void* scratch) {
    float* kept = kept_.data() + (segment * task.heads + head) * task.d;
    if (!run_linear_state(task, {segment, head, units_[segment].span()}, kept, scratch)) all_valid = false;
  });
  valid = all_valid;
  for (int64_t i = 0; i < static_cast<int64_t>(units_.size()); ++i) {
    if (!units_[i].first) {
      carry(task, kept_.data() + (i - 1) * task.heads * task.d, before.at(i - 1, 0), local.at(i - 1, 0),
            before.at(i, 0));
    } else if (!is_absent(task_.p.initial_state)) {
      copy_states(task_.p.initial_state, units_[i].sequence, before.view(), i);
    }
  }
  return before;
}

SegmentStates LinearSegments::end_gradients(const LinearChunkGrads& grads) {
  SegmentStates local(task_, units_.size()), after(task_, units_.size());
  LinearChunkParams p = task_.p;
  p.final_state = local.view();
  const LinearTask task(p);
  for_each_state(task, units_, [&](int64_t segment, int64_t head, void* scratch) {
    run_linear_state_gradient(task, grads.d_out, {segment, head, units_[segment].span()}, scratch);
  });
  for (int64_t i = static_cast<int64_t>(units_.size()) - 1; i >= 0; --i) {
    if (!units_[i].last) {
      carry(task, kept_.data() + (i + 1) * task.heads * task.d, after.at(i + 1, 0), local.at(i + 1, 0), after.at(i, 0));
    } else if (!is_absent(grads.d_final_state)) {
      copy_states(grads.d_final_state, units_[i].sequence, after.view(), i);
    }
  }
  return after;
}

void write_bounds(const std::vector<ScanUnit>& units, bool ScanUnit::*bound, const AnyView& states, const AnyView& to) {
  if (is_absent(to)) return;
  for (size_t i = 0; i < units.size(); ++i)
    if (units[i].*bound) copy_states(states, static_cast<int64_t>(i), to, units[i].sequence);
}

}  // namespace heed::kernels
