// Decayed linear attention token by token, and the adjoint of that recurrence, in double.
#include "heed/kernels/linear_chunk.h"

#include "kernels/reference/linear_coefficients.h"
#include "kernels/reference/recurrent.h"

namespace heed::kernels::reference {
namespace {

class Head : public HeadRows<LinearChunkParams> {
 public:
  using HeadRows::HeadRows;

  /// S <- diag(exp(g_t)) S + k_t^T v_t
  void step(int64_t t, State& state) const {
    for (int64_t c = 0; c < k.columns; ++c) {
      const double a = decay(t, c);
      for (int64_t e = 0; e < v.columns; ++e) {
        double& s = state[c * v.columns + e];
        s = a * s + k.row(t)[c] * v.row(t)[e];
      }
    }
  }
};

}  // namespace

void linear_chunk(const LinearChunkParams& p) {
  check(p);
  if (has_coefficients(p)) return linear_coefficients(p);
  check_not_positive("linear_chunk", p.log_decay);
  run_steps<Head>(p);
}

void linear_chunk_backward(const LinearChunkParams& p, const LinearChunkGrads& g) {
  check(p, g);
  if (has_coefficients(p)) return linear_coefficients_backward(p, g);
  check_not_positive("linear_chunk", p.log_decay);
  Accumulator d_q(g.d_q), d_k(g.d_k), d_v(g.d_v), d_log_decay(g.d_log_decay);
  each_head<Head>(p, [&](int64_t s, const Head& head) {
    const int64_t d = head.k.columns, dv = head.v.columns, b = head.span.batch, begin = head.span.begin;
    const Matrix d_out = read_rows(g.d_out, b, head.h, begin, head.span.length());
    const auto step = [&](int64_t t, State& state) { head.step(t, state); };
    StateTrail trail(read_state(p.initial_state, s, head.h, d, dv), head.span.length(), step);
    State d_state = read_state(g.d_final_state, s, head.h, d, dv), after = trail.last;
    for (int64_t t = head.span.length() - 1; t >= 0; --t) {
      const State& before = trail.before(t, step);
      const double *q = head.q.row(t), *k = head.k.row(t), *v = head.v.row(t), *o = d_out.row(t);
      for (int64_t c = 0; c < d; ++c) {
        const double a = head.decay(t, c);
        double sum_q = 0, sum_k = 0, sum_g = 0;
        for (int64_t e = 0; e < dv; ++e) {
          double& ds = d_state[c * dv + e];
          ds += p.scale * q[c] * o[e];
          sum_q += o[e] * after[c * dv + e];
          sum_k += v[e] * ds;
          sum_g += ds * a * before[c * dv + e];
          d_v.add(b, head.head(p.v), begin + t, e, k[c] * ds);
          ds *= a;
        }
        d_q.add(b, head.head(p.q), begin + t, c, p.scale * sum_q);
        d_k.add(b, head.head(p.k), begin + t, c, sum_k);
        d_log_decay.add(b, head.head(p.log_decay), begin + t, c, sum_g);
      }
      after = before;
    }
    write_state(d_state, g.d_initial_state, s, head.h);
  });
  for (const Accumulator* sum : {&d_q, &d_k, &d_v, &d_log_decay}) sum->write();
}

}  // namespace heed::kernels::reference
