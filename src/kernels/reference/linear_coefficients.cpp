#include "kernels/reference/linear_coefficients.h"

#include <algorithm>

#include "kernels/reference/accumulator.h"
#include "kernels/reference/recurrent.h"

namespace heed::kernels::reference {
namespace {

class Head : public HeadRows<LinearChunkParams> {
 public:
  using HeadRows::HeadRows;

  /// Of tokens and chunks of the sequence.
  double pair(int64_t r, int64_t j) const { return coefficient(p.coefficients.pairs, r, j % p.chunk); }
  double read(int64_t r) const { return coefficient(p.coefficients.reads, r); }
  double write(int64_t j) const { return coefficient(p.coefficients.writes, j); }
  double carry(int64_t chunk) const { return coefficient(p.coefficients.carries, chunk); }

  int64_t chunks() const { return (span.length() + p.chunk - 1) / p.chunk; }
  int64_t end_of(int64_t chunk) const { return std::min((chunk + 1) * p.chunk, span.length()); }

  State after(int64_t chunk, const State& before) const {
    State state = before;
    for (double& s : state) s *= carry(chunk);
    for (int64_t j = chunk * p.chunk; j < end_of(chunk); ++j) {
      for (int64_t c = 0; c < k.columns; ++c) {
        for (int64_t e = 0; e < v.columns; ++e) state[c * v.columns + e] += write(j) * k.row(j)[c] * v.row(j)[e];
      }
    }
    return state;
  }

 private:
  double coefficient(const AnyView& view, int64_t row, int64_t column = 0) const {
    return load_element(view, span.batch, head(view), row, column);
  }
};

}  // namespace

void linear_coefficients(const LinearChunkParams& p) {
  each_head<Head>(p, [&](int64_t s, const Head& head) {
    const int64_t d = head.k.columns, dv = head.v.columns;
    State state = read_state(p.initial_state, s, head.h, d, dv);
    for (int64_t n = 0; n < head.chunks(); ++n) {
      for (int64_t r = n * p.chunk; r < head.end_of(n); ++r) {
        for (int64_t e = 0; e < dv; ++e) {
          double sum = 0;
          for (int64_t c = 0; c < d; ++c) sum += head.read(r) * head.q.row(r)[c] * state[c * dv + e];
          for (int64_t j = n * p.chunk; j <= r; ++j)
            sum += head.pair(r, j) * dot(head.q.row(r), head.k.row(j), d) * head.v.row(j)[e];
          store_element(p.out, head.span.batch, head.h, r, e, p.scale * sum);
        }
      }
      state = head.after(n, state);
    }
    write_state(state, p.final_state, s, head.h);
  });
}

void linear_coefficients_backward(const LinearChunkParams& p, const LinearChunkGrads& g) {
  Accumulator d_q(g.d_q), d_k(g.d_k), d_v(g.d_v), d_pairs(g.d_coefficients.pairs), d_reads(g.d_coefficients.reads),
      d_writes(g.d_coefficients.writes), d_carries(g.d_coefficients.carries);
  each_head<Head>(p, [&](int64_t s, const Head& head) {
    const int64_t d = head.k.columns, dv = head.v.columns, b = head.span.batch;
    const Matrix d_out = read_rows(g.d_out, b, head.h, head.span.begin, head.span.length());
    const auto& [pairs, reads, writes, carries] = p.coefficients;
    std::vector<State> before{read_state(p.initial_state, s, head.h, d, dv)};
    for (int64_t n = 0; n < head.chunks(); ++n) before.push_back(head.after(n, before.back()));
    State d_state = read_state(g.d_final_state, s, head.h, d, dv);
    for (int64_t n = head.chunks() - 1; n >= 0; --n) {
      const State& state = before[n];
      State d_before = d_state;
      for (double& value : d_before) value *= head.carry(n);
      d_carries.add(b, head.head(carries), n, 0, dot(state.data(), d_state.data(), d * dv));
      for (int64_t j = n * p.chunk; j < head.end_of(n); ++j) {
        const double *k = head.k.row(j), *v = head.v.row(j);
        for (int64_t c = 0; c < d; ++c) {
          const double along = dot(d_state.data() + c * dv, v, dv);
          d_writes.add(b, head.head(writes), j, 0, k[c] * along);
          d_k.add(b, head.head(p.k), j, c, head.write(j) * along);
          for (int64_t e = 0; e < dv; ++e) d_v.add(b, head.head(p.v), j, e, head.write(j) * k[c] * d_state[c * dv + e]);
        }
      }
      for (int64_t r = n * p.chunk; r < head.end_of(n); ++r) {
        const double *q = head.q.row(r), *o = d_out.row(r);
        for (int64_t c = 0; c < d; ++c) {
          const double along = p.scale * dot(state.data() + c * dv, o, dv);
          d_reads.add(b, head.head(reads), r, 0, q[c] * along);
          d_q.add(b, head.head(p.q), r, c, head.read(r) * along);
          for (int64_t e = 0; e < dv; ++e) d_before[c * dv + e] += p.scale * head.read(r) * q[c] * o[e];
        }
        for (int64_t j = n * p.chunk; j <= r; ++j) {
          const double *k = head.k.row(j), *v = head.v.row(j);
          const double product = p.scale * dot(q, k, d), d_weight = p.scale * dot(o, v, dv);
          d_pairs.add(b, head.head(pairs), r, j % p.chunk, product * dot(o, v, dv));
          for (int64_t c = 0; c < d; ++c) {
            d_q.add(b, head.head(p.q), r, c, head.pair(r, j) * d_weight * k[c]);
            d_k.add(b, head.head(p.k), j, c, head.pair(r, j) * d_weight * q[c]);
          }
          for (int64_t e = 0; e < dv; ++e) d_v.add(b, head.head(p.v), j, e, head.pair(r, j) * product * o[e]);
        }
      }
      d_state = std::move(d_before);
    }
    write_state(d_state, g.d_initial_state, s, head.h);
  });
  for (const Accumulator* sum : {&d_q, &d_k, &d_v, &d_pairs, &d_reads, &d_writes, &d_carries}) sum->write();
}

}  // namespace heed::kernels::reference
