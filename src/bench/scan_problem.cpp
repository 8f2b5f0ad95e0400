#include "bench/scan_problem.h"

#include <algorithm>
#include <cmath>

#include "kernels/reference/element.h"

namespace heed::bench {

using kernels::AnyView;
using kernels::DType;
using Call = KernelCase::Call;

namespace {

/// Every element e becomes change(e).
template <class Change>
void change_all(Buffer& buffer, const Change& change) {
  auto* data = static_cast<float*>(buffer.view().data);
  for (int64_t i = 0; i < buffer.count(); ++i) data[i] = change(data[i]);
}

/// The first `count` channels (of axis 3) or heads (of axis 1) of a view.
AnyView part_of(AnyView view, int axis, int64_t count) {
  view.size[axis] = count;
  return view;
}

/// Clears all but the first `count` channels or heads.
void clear_rest(Buffer& buffer, int axis, int64_t count) {
  const auto& size = buffer.view().size;
  int64_t inner = 1;
  for (int a = axis + 1; a < 4; ++a) inner *= size[a];
  auto* data = static_cast<float*>(buffer.view().data);
  for (int64_t i = 0; i < buffer.count(); ++i)
    if (i / inner % size[axis] >= count) data[i] = 0;
}

/// Double copies of what the reference reads.
struct DoubleCopies {
  AnyView of(const AnyView& from) { return buffers.emplace_back(in_double(from)).view(); }
  std::vector<Buffer> buffers;
};

}  // namespace

ScanProblem::ScanProblem(const KernelCase& c) : case_(c) {
  const DType type = DType::f32;
  const bool backward = c.call == Call::selective_scan_backward || c.call == Call::softmax_scan_backward;
  if (c.is_selective_scan()) {
    const std::array<int64_t, 4> rows{c.batch, 1, c.queries, c.q_heads}, states{c.batch, 1, c.q_heads, c.d},
        coefficients{c.batch, c.kv_heads, c.queries, c.d};
    x_ = Buffer(type, rows), delta_ = Buffer(type, rows), out_ = Buffer(type, rows), state_ = Buffer(type, states);
    a_ = Buffer(type, {1, 1, c.q_heads, c.d}), b_ = Buffer(type, coefficients), c_ = Buffer(type, coefficients);
    x_.randomize(1), delta_.randomize(2), a_.randomize(3), b_.randomize(4), c_.randomize(5);
    // As a trained model has them: steps around 0.05, decays of all speeds.
    change_all(delta_, [](float e) { return 0.05f * std::exp(0.5f * e); });
    change_all(a_, [](float e) { return -8 * std::fabs(e); });
    if (!backward) return;
    d_out_ = Buffer(type, rows), d_x_ = Buffer(type, rows), d_delta_ = Buffer(type, rows);
    d_a_ = Buffer(type, a_.view().size), d_b_ = Buffer(type, coefficients), d_c_ = Buffer(type, coefficients);
  } else {
    const std::array<int64_t, 4> rows{c.batch, c.q_heads, c.queries, c.d}, scores{c.batch, c.q_heads, c.queries, 1};
    scores_ = Buffer(type, scores), v_ = Buffer(type, rows), out_ = Buffer(type, rows), lse_ = Buffer(type, scores);
    state_ = Buffer(type, {c.batch, c.q_heads, 1, c.d + 2});
    scores_.randomize(1), v_.randomize(2);
    if (!backward) return;
    d_out_ = Buffer(type, rows), d_scores_ = Buffer(type, scores), d_v_ = Buffer(type, rows);
    kernels::softmax_scan(softmax());
  }
  d_out_.randomize(6);
}

kernels::SelectiveScanParams ScanProblem::selective() const {
  kernels::SelectiveScanParams p;
  p.x = x_.view(), p.delta = delta_.view(), p.a = a_.view(), p.b = b_.view(), p.c = c_.view();
  p.out = out_.view(), p.final_state = state_.view();
  return p;
}

kernels::SelectiveScanGrads ScanProblem::selective_grads() const {
  kernels::SelectiveScanGrads g;
  g.d_out = d_out_.view(), g.d_x = d_x_.view(), g.d_delta = d_delta_.view();
  g.d_a = d_a_.view(), g.d_b = d_b_.view(), g.d_c = d_c_.view();
  return g;
}

kernels::SoftmaxScanParams ScanProblem::softmax() const {
  kernels::SoftmaxScanParams p;
  p.scores = scores_.view(), p.v = v_.view(), p.out = out_.view(), p.lse = lse_.view(), p.final_state = state_.view();
  return p;
}

kernels::SoftmaxScanGrads ScanProblem::softmax_grads() const {
  kernels::SoftmaxScanGrads g;
  g.d_out = d_out_.view(), g.d_scores = d_scores_.view(), g.d_v = d_v_.view();
  return g;
}

void ScanProblem::run() {
  switch (case_.call) {
    case Call::selective_scan:
      return kernels::selective_scan(selective());
    case Call::selective_scan_backward:
      return kernels::selective_scan_backward(selective(), selective_grads());
    case Call::softmax_scan:
      return kernels::softmax_scan(softmax());
    default:
      return kernels::softmax_scan_backward(softmax(), softmax_grads());
  }
}

CheckResult ScanProblem::check(double work) {
  return case_.is_selective_scan() ? check_selective(work) : check_softmax(work);
}

// Channels do not see each other, so the reference computes the first few. Gradients of B and C are sums over channels:
// those beyond have no output gradient while the check runs.
CheckResult ScanProblem::check_selective(double work) {
  const double channel_work = static_cast<double>(case_.batch * case_.queries * case_.d);
  const int64_t channels = std::clamp<int64_t>(static_cast<int64_t>(work / channel_work), 1, case_.q_heads);
  const bool backward = case_.call == Call::selective_scan_backward;
  auto p = selective();
  auto g = selective_grads();
  if (backward) clear_rest(d_out_, 3, channels);
  run();

  DoubleCopies copies;
  kernels::SelectiveScanParams want;
  const auto rows = [&](const AnyView& view) { return copies.of(part_of(view, 3, channels)); };
  want.x = rows(p.x), want.delta = rows(p.delta);
  want.a = copies.of(part_of(p.a, 2, channels)), want.b = copies.of(p.b), want.c = copies.of(p.c);
  CheckResult result{0, backward ? 1e-4 : 2e-5};
  const auto compare = [&](const AnyView& got, const Buffer& wanted) {
    result.error = std::max(result.error, relative_error(in_double(got), wanted));
  };
  if (!backward) {
    const Buffer out(DType::f64, want.x.size), state(DType::f64, part_of(p.final_state, 2, channels).size);
    want.out = out.view(), want.final_state = state.view();
    kernels::reference::selective_scan(want);
    compare(part_of(p.out, 3, channels), out), compare(part_of(p.final_state, 2, channels), state);
    return result;
  }
  kernels::SelectiveScanGrads wanted;
  wanted.d_out = rows(g.d_out);
  const Buffer d_x(DType::f64, want.x.size), d_delta(DType::f64, want.x.size), d_a(DType::f64, want.a.size),
      d_b(DType::f64, want.b.size), d_c(DType::f64, want.c.size);
  wanted.d_x = d_x.view(), wanted.d_delta = d_delta.view();
  wanted.d_a = d_a.view(), wanted.d_b = d_b.view(), wanted.d_c = d_c.view();
  kernels::reference::selective_scan_backward(want, wanted);
  compare(part_of(g.d_x, 3, channels), d_x), compare(part_of(g.d_delta, 3, channels), d_delta);
  compare(part_of(g.d_a, 2, channels), d_a), compare(g.d_b, d_b), compare(g.d_c, d_c);
  d_out_.randomize(6);
  return result;
}

CheckResult ScanProblem::check_softmax(double work) {
  const double head_work = static_cast<double>(case_.batch * case_.queries * case_.d);
  const int64_t heads = std::clamp<int64_t>(static_cast<int64_t>(work / head_work), 1, case_.q_heads);
  run();
  const auto p = softmax();
  DoubleCopies copies;
  const auto first = [&](const AnyView& view) { return part_of(view, 1, heads); };
  kernels::SoftmaxScanParams want;
  want.scores = copies.of(first(p.scores)), want.v = copies.of(first(p.v));
  const Buffer out(DType::f64, want.v.size), lse(DType::f64, want.scores.size);
  want.out = out.view(), want.lse = lse.view();
  kernels::reference::softmax_scan(want);
  CheckResult result{0, case_.call == Call::softmax_scan ? 2e-5 : 1e-4};
  const auto compare = [&](const AnyView& got, const Buffer& wanted) {
    result.error = std::max(result.error, relative_error(in_double(first(got)), wanted));
  };
  compare(p.out, out), compare(p.lse, lse);
  if (case_.call == Call::softmax_scan) return result;
  const auto g = softmax_grads();
  const Buffer d_scores(DType::f64, want.scores.size), d_v(DType::f64, want.v.size);
  kernels::SoftmaxScanGrads wanted;
  wanted.d_out = copies.of(first(g.d_out)), wanted.d_scores = d_scores.view(), wanted.d_v = d_v.view();
  kernels::reference::softmax_scan_backward(want, wanted);
  compare(g.d_scores, d_scores), compare(g.d_v, d_v);
  return result;
}

}  // namespace heed::bench
