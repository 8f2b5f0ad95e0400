// The scan by combining one element after another, and the adjoint of each combination, in double.
#include "heed/kernels/softmax_scan.h"

#include <algorithm>
#include <vector>

#include "kernels/reference/accumulator.h"
#include "kernels/reference/element.h"
#include "kernels/scan_problem.h"

namespace heed::kernels::reference {
namespace {

constexpr double kNothing = -std::numeric_limits<double>::infinity();

/// What has been seen.
struct Seen {
  explicit Seen(int64_t width) : w(width) {}
  double m = kNothing, u = 0;
  std::vector<double> w;
};

/// exp(x - m), and 0 where both are -inf.
double weight(double x, double m) { return m == kNothing ? 0 : std::exp(x - m); }

struct Problem {
  explicit Problem(const SoftmaxScanParams& params)
      : p(params), heads(std::max(p.scores.size[1], p.v.size[1])), width(p.v.size[3]) {}

  int64_t score_head(int64_t h) const { return h * p.scores.size[1] / heads; }
  int64_t value_head(int64_t h) const { return h * p.v.size[1] / heads; }

  Seen load(const AnyView& state, int64_t sequence, int64_t h) const {
    Seen seen(width);
    if (!state) return seen;
    seen.m = load_element(state, sequence, h, 0, 0), seen.u = load_element(state, sequence, h, 0, 1);
    for (int64_t d = 0; d < width; ++d) seen.w[d] = load_element(state, sequence, h, 0, d + 2);
    return seen;
  }
  void store(const AnyView& state, int64_t sequence, int64_t h, const Seen& seen) const {
    store_element(state, sequence, h, 0, 0, seen.m), store_element(state, sequence, h, 0, 1, seen.u);
    for (int64_t d = 0; d < width; ++d) store_element(state, sequence, h, 0, d + 2, seen.w[d]);
  }
  Seen after(const Seen& before, int64_t b, int64_t h, int64_t t) const {
    const double s = load_element(p.scores, b, score_head(h), t);
    Seen seen(width);
    // Beside a NaN the larger is NaN.
    seen.m = std::isnan(s) ? s : std::max(before.m, s);
    const double keep = weight(before.m, seen.m), add = weight(s, seen.m);
    seen.u = before.u * keep + add;
    for (int64_t d = 0; d < width; ++d)
      seen.w[d] = before.w[d] * keep + add * load_element(p.v, b, value_head(h), t, d);
    return seen;
  }

  const SoftmaxScanParams& p;
  const int64_t heads, width;
};

/// The step backward: from the gradient with respect to what was seen after token t to that before it.
Seen step_back(const Problem& problem, const Seen& before, const Seen& after, const Seen& d_after, int64_t b, int64_t h,
               int64_t t, Accumulator& d_scores, Accumulator& d_v) {
  const SoftmaxScanParams& p = problem.p;
  const int64_t sh = problem.score_head(h), vh = problem.value_head(h);
  const double s = load_element(p.scores, b, sh, t);
  const double keep = weight(before.m, after.m), add = weight(s, after.m);
  Seen d_before(problem.width);
  double d_keep = d_after.u * before.u, d_add = d_after.u;
  d_before.u = keep * d_after.u;
  for (int64_t d = 0; d < problem.width; ++d) {
    const double v = load_element(p.v, b, vh, t, d);
    d_keep += d_after.w[d] * before.w[d], d_add += d_after.w[d] * v;
    d_before.w[d] = keep * d_after.w[d];
    d_v.add(b, vh, t, d, add * d_after.w[d]);
  }
  const double d_m = d_after.m - keep * d_keep - add * d_add;
  const bool larger = s > before.m;
  d_scores.add(b, sh, t, 0, add * d_add + (larger ? d_m : 0));
  d_before.m = keep * d_keep + (larger ? 0 : d_m);
  return d_before;
}

}  // namespace

void softmax_scan(const SoftmaxScanParams& p) {
  check(p);
  const Problem problem(p);
  for (int64_t sequence = 0; sequence < count_spans(p, p.v); ++sequence) {
    const TokenSpan span = span_at(p, p.v, sequence);
    for (int64_t h = 0; h < problem.heads; ++h) {
      Seen seen = problem.load(p.initial_state, sequence, h);
      for (int64_t t = span.begin; t < span.end; ++t) {
        seen = problem.after(seen, span.batch, h, t);
        for (int64_t d = 0; d < problem.width; ++d)
          store_element(p.out, span.batch, h, t, d, seen.u == 0 ? 0 : seen.w[d] / seen.u);
        store_element(p.lse, span.batch, h, t, 0, seen.u == 0 ? kNothing : seen.m + std::log(seen.u));
      }
      if (p.final_state) problem.store(p.final_state, sequence, h, seen);
    }
  }
}

void softmax_scan_backward(const SoftmaxScanParams& p, const SoftmaxScanGrads& g) {
  check(p, g);
  const Problem problem(p);
  Accumulator d_scores(g.d_scores), d_v(g.d_v);
  for (int64_t sequence = 0; sequence < count_spans(p, p.v); ++sequence) {
    const TokenSpan span = span_at(p, p.v, sequence);
    for (int64_t h = 0; h < problem.heads; ++h) {
      std::vector<Seen> seen{problem.load(p.initial_state, sequence, h)};
      for (int64_t t = span.begin; t < span.end; ++t) seen.push_back(problem.after(seen.back(), span.batch, h, t));
      Seen d_seen = problem.load(g.d_final_state, sequence, h);
      if (!g.d_final_state) d_seen.m = 0;
      for (int64_t t = span.end - 1; t >= span.begin; --t) {
        const Seen &before = seen[t - span.begin], &now = seen[t - span.begin + 1];
        // out = w / u and lse = m + log u.
        if (now.u != 0) {
          const double d_lse = g.d_lse ? load_element(g.d_lse, span.batch, h, t) : 0;
          d_seen.m += d_lse, d_seen.u += d_lse / now.u;
          for (int64_t d = 0; d < problem.width && g.d_out; ++d) {
            const double d_out = load_element(g.d_out, span.batch, h, t, d);
            d_seen.w[d] += d_out / now.u, d_seen.u -= d_out * now.w[d] / (now.u * now.u);
          }
        }
        d_seen = step_back(problem, before, now, d_seen, span.batch, h, t, d_scores, d_v);
      }
      if (g.d_initial_state) problem.store(g.d_initial_state, sequence, h, d_seen);
    }
  }
  d_scores.write(), d_v.write();
}

}  // namespace heed::kernels::reference
