// The delta rule token by token, and the adjoint of that recurrence, in double.
#include "heed/kernels/delta_chunk.h"

#include "kernels/reference/recurrent.h"

namespace heed::kernels::reference {
namespace {

class Head : public HeadRows<DeltaChunkParams> {
 public:
  using HeadRows::HeadRows;

  double beta(int64_t t) const { return load_element(p.beta, span.batch, head(p.beta), span.begin + t); }

  /// k_t S
  std::vector<double> read(int64_t t, const State& state) const {
    std::vector<double> sum(v.columns, 0.0);
    for (int64_t c = 0; c < k.columns; ++c) {
      for (int64_t e = 0; e < v.columns; ++e) sum[e] += k.row(t)[c] * state[c * v.columns + e];
    }
    return sum;
  }

  /// S <- a S + k_t^T beta_t (v_t - a k_t S)
  void step(int64_t t, State& state) const {
    const double a = decay(t, 0), strength = beta(t);
    const std::vector<double> found = read(t, state);
    for (int64_t c = 0; c < k.columns; ++c) {
      for (int64_t e = 0; e < v.columns; ++e) {
        double& s = state[c * v.columns + e];
        s = a * s + k.row(t)[c] * strength * (v.row(t)[e] - a * found[e]);
      }
    }
  }
};

}  // namespace

void delta_chunk(const DeltaChunkParams& p) {
  check(p);
  check_not_positive("delta_chunk", p.log_decay);
  run_steps<Head>(p);
}

void delta_chunk_backward(const DeltaChunkParams& p, const DeltaChunkGrads& g) {
  check(p, g);
  check_not_positive("delta_chunk", p.log_decay);
  Accumulator d_q(g.d_q), d_k(g.d_k), d_v(g.d_v), d_beta(g.d_beta), d_log_decay(g.d_log_decay);
  each_head<Head>(p, [&](int64_t s, const Head& head) {
    const int64_t d = head.k.columns, dv = head.v.columns, b = head.span.batch, begin = head.span.begin;
    const Matrix d_out = read_rows(g.d_out, b, head.h, begin, head.span.length());
    const auto step = [&](int64_t t, State& state) { head.step(t, state); };
    StateTrail trail(read_state(p.initial_state, s, head.h, d, dv), head.span.length(), step);
    State d_state = read_state(g.d_final_state, s, head.h, d, dv), after = trail.last;
    std::vector<double> written(dv), d_written(dv), d_error(dv);
    for (int64_t t = head.span.length() - 1; t >= 0; --t) {
      const State& before = trail.before(t, step);
      const double *q = head.q.row(t), *k = head.k.row(t), *v = head.v.row(t), *o = d_out.row(t);
      const double a = head.decay(t, 0), beta = head.beta(t);
      const std::vector<double> found = head.read(t, before);
      std::fill(d_written.begin(), d_written.end(), 0.0);
      for (int64_t e = 0; e < dv; ++e) written[e] = beta * (v[e] - a * found[e]);
      for (int64_t c = 0; c < d; ++c) {
        double sum_q = 0;
        for (int64_t e = 0; e < dv; ++e) {
          d_state[c * dv + e] += p.scale * q[c] * o[e];
          sum_q += o[e] * after[c * dv + e];
          d_written[e] += k[c] * d_state[c * dv + e];
        }
        d_q.add(b, head.head(p.q), begin + t, c, p.scale * sum_q);
      }
      double sum_beta = 0, sum_decay = 0;
      for (int64_t e = 0; e < dv; ++e) {
        sum_beta += d_written[e] * (v[e] - a * found[e]);
        d_error[e] = beta * d_written[e];
        sum_decay -= d_error[e] * found[e];
        d_v.add(b, head.head(p.v), begin + t, e, d_error[e]);
      }
      d_beta.add(b, head.head(p.beta), begin + t, 0, sum_beta);
      for (int64_t c = 0; c < d; ++c) {
        double sum_k = 0;
        for (int64_t e = 0; e < dv; ++e) {
          double& ds = d_state[c * dv + e];
          sum_k += ds * written[e] - a * d_error[e] * before[c * dv + e];
          sum_decay += ds * before[c * dv + e];
          ds = a * (ds - k[c] * d_error[e]);
        }
        d_k.add(b, head.head(p.k), begin + t, c, sum_k);
      }
      d_log_decay.add(b, head.head(p.log_decay), begin + t, 0, a * sum_decay);
      after = before;
    }
    write_state(d_state, g.d_initial_state, s, head.h);
  });
  for (const Accumulator* sum : {&d_q, &d_k, &d_v, &d_beta, &d_log_decay}) sum->write();
}

}  // namespace heed::kernels::reference
