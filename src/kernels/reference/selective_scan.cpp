// The scan and its exact adjoint, token by token in double. One body for real and complex states: a real state is a
// complex one without imaginary part that has no conjugate beside it.
#include "heed/kernels/selective_scan.h"

#include <complex>
#include <vector>

#include "kernels/reference/accumulator.h"
#include "kernels/reference/element.h"
#include "kernels/scan_problem.h"

namespace heed::kernels::reference {
namespace {

using Complex = std::complex<double>;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

struct Problem {
  explicit Problem(const SelectiveScanParams& params)
      : p(params), states(p.a.size[3] / (p.complex ? 2 : 1)), multiplicity(p.complex ? 2 : 1) {}

  int64_t group(const AnyView& view, int64_t d) const { return d * view.size[1] / p.x.size[3]; }
  Complex number(const AnyView& view, int64_t b, int64_t h, int64_t n, int64_t s) const {
    if (!p.complex) return load_element(view, b, h, n, s);
    return {load_element(view, b, h, n, 2 * s), load_element(view, b, h, n, 2 * s + 1)};
  }
  void set(const AnyView& view, int64_t b, int64_t n, int64_t s, Complex value) const {
    if (!p.complex) return store_element(view, b, 0, n, s, value.real());
    store_element(view, b, 0, n, 2 * s, value.real());
    store_element(view, b, 0, n, 2 * s + 1, value.imag());
  }
  void add(Accumulator& to, int64_t b, int64_t h, int64_t n, int64_t s, Complex value) const {
    if (!p.complex) return to.add(b, h, n, s, value.real());
    to.add(b, h, n, 2 * s, value.real());
    to.add(b, h, n, 2 * s + 1, value.imag());
  }
  double channel(const AnyView& view, int64_t d) const { return view ? load_element(view, 0, 0, 0, d) : 0; }

  double raw_delta(int64_t b, int64_t t, int64_t d) const {
    return load_element(p.delta, b, 0, t, d) + channel(p.delta_bias, d);
  }
  double delta(int64_t b, int64_t t, int64_t d) const {
    const double raw = raw_delta(b, t, d);
    return p.delta_softplus && !(raw > 20) ? std::log1p(std::exp(raw)) : raw;
  }
  double delta_slope(int64_t b, int64_t t, int64_t d) const {
    const double raw = raw_delta(b, t, d);
    return p.delta_softplus && !(raw > 20) ? sigmoid(raw) : 1;
  }

  /// States before each token and after the last, [length + 1][states].
  std::vector<Complex> scan(const TokenSpan& span, int64_t sequence, int64_t d) const {
    std::vector<Complex> h((span.length() + 1) * states);
    for (int64_t s = 0; s < states && p.initial_state; ++s) h[s] = number(p.initial_state, sequence, 0, d, s);
    for (int64_t i = 0; i < span.length(); ++i) {
      const int64_t t = span.begin + i;
      const double step = delta(span.batch, t, d), x = load_element(p.x, span.batch, 0, t, d);
      for (int64_t s = 0; s < states; ++s) {
        h[(i + 1) * states + s] = std::exp(step * number(p.a, 0, 0, d, s)) * h[i * states + s] +
                                  step * x * number(p.b, span.batch, group(p.b, d), t, s);
      }
    }
    return h;
  }
  /// y_t from the states after token t.
  double output(const TokenSpan& span, int64_t t, int64_t d, const Complex* h) const {
    Complex y = 0;
    for (int64_t s = 0; s < states; ++s) y += number(p.c, span.batch, group(p.c, d), t, s) * h[s];
    return multiplicity * y.real() + channel(p.skip, d) * load_element(p.x, span.batch, 0, t, d);
  }

  const SelectiveScanParams& p;
  const int64_t states;
  const double multiplicity;
};

struct Gradients {
  explicit Gradients(const SelectiveScanGrads& g)
      : x(g.d_x),
        delta(g.d_delta),
        a(g.d_a),
        b(g.d_b),
        c(g.d_c),
        skip(g.d_skip),
        z(g.d_z),
        delta_bias(g.d_delta_bias) {}
  void write() const {
    for (const auto* sum : {&x, &delta, &a, &b, &c, &skip, &z, &delta_bias}) sum->write();
  }
  Accumulator x, delta, a, b, c, skip, z, delta_bias;
};

void backward_channel(const Problem& problem, const SelectiveScanGrads& g, Gradients& to, int64_t sequence, int64_t d) {
  const SelectiveScanParams& p = problem.p;
  const TokenSpan span = span_at(p, p.x, sequence);
  const int64_t states = problem.states, batch = span.batch;
  const std::vector<Complex> h = problem.scan(span, sequence, d);
  std::vector<Complex> d_h(states);
  for (int64_t s = 0; s < states && g.d_final_state; ++s) d_h[s] = problem.number(g.d_final_state, sequence, 0, d, s);
  for (int64_t i = span.length() - 1; i >= 0; --i) {
    const int64_t t = span.begin + i;
    const double x = load_element(p.x, batch, 0, t, d), step = problem.delta(batch, t, d);
    const Complex *before = &h[i * states], *after = before + states;
    double d_y = g.d_out ? load_element(g.d_out, batch, 0, t, d) : 0;
    if (p.z) {
      const double z = load_element(p.z, batch, 0, t, d), open = sigmoid(z);
      to.z.add(batch, 0, t, d, d_y * problem.output(span, t, d, after) * open * (1 + z * (1 - open)));
      d_y *= z * open;
    }
    double d_step = 0, d_write = 0;  // of Delta through the decay, and of Delta x
    for (int64_t s = 0; s < states; ++s) {
      const Complex a = problem.number(p.a, 0, 0, d, s), b = problem.number(p.b, batch, problem.group(p.b, d), t, s),
                    c = problem.number(p.c, batch, problem.group(p.c, d), t, s), decay = std::exp(step * a);
      problem.add(to.c, batch, problem.group(p.c, d), t, s, problem.multiplicity * d_y * std::conj(after[s]));
      d_h[s] += problem.multiplicity * d_y * std::conj(c);
      problem.add(to.b, batch, problem.group(p.b, d), t, s, step * x * d_h[s]);
      d_write += (d_h[s] * std::conj(b)).real();
      const Complex w = d_h[s] * std::conj(decay * before[s]);
      problem.add(to.a, 0, 0, d, s, step * w);
      d_step += (w * std::conj(a)).real();
      d_h[s] *= std::conj(decay);
    }
    to.x.add(batch, 0, t, d, step * d_write + problem.channel(p.skip, d) * d_y);
    to.skip.add(0, 0, 0, d, d_y * x);
    const double d_raw = (d_step + d_write * x) * problem.delta_slope(batch, t, d);
    to.delta.add(batch, 0, t, d, d_raw);
    to.delta_bias.add(0, 0, 0, d, d_raw);
  }
  if (!g.d_initial_state) return;
  for (int64_t s = 0; s < states; ++s) problem.set(g.d_initial_state, sequence, d, s, d_h[s]);
}

}  // namespace

void selective_scan(const SelectiveScanParams& p) {
  check(p);
  const Problem problem(p);
  for (int64_t sequence = 0; sequence < count_spans(p, p.x); ++sequence) {
    const TokenSpan span = span_at(p, p.x, sequence);
    for (int64_t d = 0; d < p.x.size[3]; ++d) {
      const std::vector<Complex> h = problem.scan(span, sequence, d);
      for (int64_t i = 0; i < span.length() && p.out; ++i) {
        const int64_t t = span.begin + i;
        double y = problem.output(span, t, d, &h[(i + 1) * problem.states]);
        if (p.z) {
          const double z = load_element(p.z, span.batch, 0, t, d);
          y *= z * sigmoid(z);
        }
        store_element(p.out, span.batch, 0, t, d, y);
      }
      for (int64_t s = 0; s < problem.states && p.final_state; ++s)
        problem.set(p.final_state, sequence, d, s, h[span.length() * problem.states + s]);
    }
  }
}

void selective_scan_backward(const SelectiveScanParams& p, const SelectiveScanGrads& g) {
  check(p, g);
  const Problem problem(p);
  Gradients to(g);
  for (int64_t sequence = 0; sequence < count_spans(p, p.x); ++sequence) {
    for (int64_t d = 0; d < p.x.size[3]; ++d) backward_channel(problem, g, to, sequence, d);
  }
  to.write();
}

}  // namespace heed::kernels::reference
