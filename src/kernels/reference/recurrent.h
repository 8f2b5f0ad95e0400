// What the step recurrences share: one head of one sequence in double, and its states.
#pragma once

#include "kernels/recurrence_problem.h"
#include "kernels/reference/flash_row.h"

namespace heed::kernels::reference {

/// Row-major [Dk][Dv].
using State = std::vector<double>;

inline State read_state(const AnyView& view, int64_t sequence, int64_t h, int64_t d, int64_t dv) {
  State state(d * dv, 0.0);
  if (is_absent(view)) return state;
  for (int64_t c = 0; c < d; ++c) {
    for (int64_t e = 0; e < dv; ++e) state[c * dv + e] = load_element(view, sequence, h, c, e);
  }
  return state;
}

inline void write_state(const State& state, const AnyView& view, int64_t sequence, int64_t h) {
  if (is_absent(view)) return;
  for (int64_t c = 0; c < view.size[2]; ++c) {
    for (int64_t e = 0; e < view.size[3]; ++e) store_element(view, sequence, h, c, e, state[c * view.size[3] + e]);
  }
}

/// The inputs of output head `h` in one sequence.
template <class Params>
struct HeadRows {
  HeadRows(const Params& p, const TokenSpan& span, int64_t h)
      : p(p), span(span), h(h), q(rows(p.q)), k(rows(p.k)), v(rows(p.v)) {}

  int64_t head(const AnyView& view) const { return shared_head(view, h, p.out.size[1]); }
  Matrix rows(const AnyView& view) const { return read_rows(view, span.batch, head(view), span.begin, span.length()); }
  double decay(int64_t t, int64_t c) const {
    if (is_absent(p.log_decay)) return 1;
    return std::exp(load_element(p.log_decay, span.batch, head(p.log_decay), span.begin + t, c));
  }

  const Params& p;
  const TokenSpan span;
  const int64_t h;
  const Matrix q, k, v;
};

/// The states before every token, of which one in 64 is kept and the others are stepped to again.
class StateTrail {
 public:
  /// `step(t, state)` moves the state before token t to that after it.
  template <class Step>
  StateTrail(State state, int64_t length, const Step& step) {
    for (int64_t t = 0; t < length; ++t) {
      if (t % kStride == 0) kept_.push_back(state);
      step(t, state);
    }
    last = std::move(state);
  }
  /// The state before token t; tokens are asked for in descending order.
  template <class Step>
  const State& before(int64_t t, const Step& step) {
    if (t / kStride != block_) {
      block_ = t / kStride;
      states_ = {kept_[block_]};
      for (int64_t s = block_ * kStride; s < t; ++s) {
        states_.push_back(states_.back());
        step(s, states_.back());
      }
    }
    return states_[t % kStride];
  }

  State last;

 private:
  static constexpr int64_t kStride = 64;
  std::vector<State> kept_, states_;
  int64_t block_ = -1;
};

/// visit(span, head) for every head of every span of a call. `Head` derives from HeadRows.
template <class Head, class Params, class Visit>
void each_head(const Params& p, const Visit& visit) {
  for (int64_t s = 0; s < count_spans(p, p.q); ++s) {
    for (int64_t h = 0; h < p.out.size[1]; ++h) visit(s, Head(p, span_at(p, p.q, s), h));
  }
}

/// out_t = scale q_t S_t behind every Head::step(t, S), and the final states.
template <class Head, class Params>
void run_steps(const Params& p) {
  each_head<Head>(p, [&](int64_t s, const Head& head) {
    const int64_t d = head.k.columns, dv = head.v.columns;
    State state = read_state(p.initial_state, s, head.h, d, dv);
    for (int64_t t = 0; t < head.span.length(); ++t) {
      head.step(t, state);
      for (int64_t e = 0; e < dv; ++e) {
        double sum = 0;
        for (int64_t c = 0; c < d; ++c) sum += head.q.row(t)[c] * state[c * dv + e];
        store_element(p.out, head.span.batch, head.h, head.span.begin + t, e, p.scale * sum);
      }
    }
    write_state(state, p.final_state, s, head.h);
  });
}

}  // namespace heed::kernels::reference
