// Problems of the two scans for tests: tensors of any type and layout, and what is common to checking a recurrence.
#pragma once

#include <algorithm>
#include <ostream>

#include "heed/kernels/selective_scan.h"
#include "heed/kernels/softmax_scan.h"
#include "support/tensor.h"

namespace heed::testing {

inline double norm(const Tensor& tensor) {
  double sum = 0;
  tensor.each([&](auto... i) { sum += tensor.at(i...) * tensor.at(i...); });
  return std::sqrt(sum);
}

struct SelectiveScanSetup {
  int64_t batch = 1, tokens = 20, channels = 5, states = 3;
  int64_t b_groups = 1, c_groups = 1;
  bool complex = false, softplus = false, skip = false, gate = false, bias = false, initial = false;
  DType type = DType::f32;               ///< of x, delta, z, B, C
  std::vector<int64_t> cu_seqlens = {};  ///< packed sequences; empty: none
  int64_t chunk = 0;
  Layout layout = Layout::dense;
  double delta_size = 0.3;  ///< deviation of delta, or of its logarithm's argument under softplus

  int64_t sequences() const { return cu_seqlens.empty() ? batch : static_cast<int64_t>(cu_seqlens.size()) - 1; }
  int64_t width() const { return states * (complex ? 2 : 1); }
  friend std::ostream& operator<<(std::ostream& out, const SelectiveScanSetup& s) {
    return out << "B=" << s.batch << " T=" << s.tokens << " D=" << s.channels << " N=" << s.states << " groups "
               << s.b_groups << " and " << s.c_groups << (s.complex ? " complex" : "")
               << (s.softplus ? " softplus" : "") << (s.skip ? " skip" : "") << (s.gate ? " gate" : "")
               << (s.bias ? " bias" : "") << (s.initial ? " initial" : "") << " " << name_of(s.type) << " sequences "
               << s.sequences() << " chunk " << s.chunk;
  }
};

/// Inputs and cotangents, drawn from a seed. `type` f64 makes everything double.
class SelectiveScanCase {
 public:
  SelectiveScanCase(const SelectiveScanSetup& setup, uint64_t seed) : s(setup) {
    std::mt19937_64 random(seed);
    const DType side = s.type == DType::f64 ? DType::f64 : DType::f32;
    const std::array<int64_t, 4> rows{s.batch, 1, s.tokens, s.channels}, per_channel{1, 1, 1, s.channels},
        states{s.sequences(), 1, s.channels, s.width()};
    x = Tensor(s.type, rows, s.layout).normal(random);
    delta = Tensor(s.type, rows, s.layout).normal(random, s.delta_size, s.softplus ? -1 : 0);
    // Steps below 0 would let states grow without bound.
    if (!s.softplus) delta.each([&](auto... i) { delta.set(i..., std::fabs(delta.at(i...))); });
    a = Tensor(side, {1, 1, s.channels, s.width()}).normal(random);
    a.each([&](int64_t i, int64_t j, int64_t d, int64_t n) {
      if (!s.complex || n % 2 == 0) a.set(i, j, d, n, -std::fabs(a.at(i, j, d, n)));
    });
    b = Tensor(s.type, {s.batch, s.b_groups, s.tokens, s.width()}, s.layout).normal(random);
    c = Tensor(s.type, {s.batch, s.c_groups, s.tokens, s.width()}, s.layout).normal(random);
    if (s.skip) skip = Tensor(side, per_channel).normal(random);
    if (s.gate) z = Tensor(s.type, rows, s.layout).normal(random);
    if (s.bias) delta_bias = Tensor(side, per_channel).normal(random, 0.3);
    if (s.bias && !s.softplus)
      delta_bias.each([&](auto... i) { delta_bias.set(i..., std::fabs(delta_bias.at(i...))); });
    if (s.initial) initial = Tensor(side, states).normal(random);
    d_out = Tensor(s.type, rows, s.layout).normal(random);
    d_final = Tensor(side, states).normal(random);
    out = Tensor(s.type, rows, s.layout);
    final = Tensor(side, states);
    d_x = like(x), d_delta = like(delta), d_a = like(a), d_b = like(b), d_c = like(c), d_skip = like(skip);
    d_z = like(z), d_bias = like(delta_bias), d_initial = like(initial);
  }

  kernels::SelectiveScanParams params() const {
    kernels::SelectiveScanParams p;
    p.x = x, p.delta = delta, p.a = a, p.b = b, p.c = c, p.out = out, p.final_state = final;
    if (s.skip) p.skip = skip;
    if (s.gate) p.z = z;
    if (s.bias) p.delta_bias = delta_bias;
    if (s.initial) p.initial_state = initial;
    p.complex = s.complex, p.delta_softplus = s.softplus, p.chunk = s.chunk;
    if (!s.cu_seqlens.empty()) p.cu_seqlens = s.cu_seqlens.data(), p.num_sequences = s.sequences();
    return p;
  }
  kernels::SelectiveScanGrads grads() const {
    kernels::SelectiveScanGrads g;
    g.d_out = d_out, g.d_final_state = d_final;
    g.d_x = d_x, g.d_delta = d_delta, g.d_a = d_a, g.d_b = d_b, g.d_c = d_c;
    if (s.skip) g.d_skip = d_skip;
    if (s.gate) g.d_z = d_z;
    if (s.bias) g.d_delta_bias = d_bias;
    if (s.initial) g.d_initial_state = d_initial;
    return g;
  }
  /// Inputs beside the gradients of them, with names.
  struct Pair {
    const char* name;
    Tensor *input, *gradient;
  };
  std::vector<Pair> pairs() {
    std::vector<Pair> all{
        {"x", &x, &d_x}, {"delta", &delta, &d_delta}, {"A", &a, &d_a}, {"B", &b, &d_b}, {"C", &c, &d_c}};
    if (s.skip) all.push_back({"skip", &skip, &d_skip});
    if (s.gate) all.push_back({"z", &z, &d_z});
    if (s.bias) all.push_back({"delta_bias", &delta_bias, &d_bias});
    if (s.initial) all.push_back({"initial_state", &initial, &d_initial});
    return all;
  }
  /// sum(out * d_out) + sum(final * d_final) of what the forward wrote.
  double loss() const {
    double sum = 0;
    out.each([&](auto... i) { sum += out.at(i...) * d_out.at(i...); });
    final.each([&](auto... i) { sum += final.at(i...) * d_final.at(i...); });
    return sum;
  }
  static Tensor like(const Tensor& tensor) { return tensor ? Tensor(tensor.view().dtype, tensor.size()) : Tensor(); }

  SelectiveScanSetup s;
  Tensor x, delta, a, b, c, skip, z, delta_bias, initial, out, final, d_out, d_final;
  Tensor d_x, d_delta, d_a, d_b, d_c, d_skip, d_z, d_bias, d_initial;
};

struct SoftmaxScanSetup {
  int64_t batch = 1, score_heads = 2, value_heads = 2, tokens = 20, width = 5;
  bool initial = false;
  DType type = DType::f32;  ///< of scores and v
  std::vector<int64_t> cu_seqlens = {};
  int64_t chunk = 0;
  Layout layout = Layout::dense;
  double score_size = 2;

  int64_t heads() const { return std::max(score_heads, value_heads); }
  int64_t sequences() const { return cu_seqlens.empty() ? batch : static_cast<int64_t>(cu_seqlens.size()) - 1; }
  friend std::ostream& operator<<(std::ostream& out, const SoftmaxScanSetup& s) {
    return out << "B=" << s.batch << " heads " << s.score_heads << " and " << s.value_heads << " T=" << s.tokens
               << " Dv=" << s.width << (s.initial ? " initial" : "") << " " << name_of(s.type) << " sequences "
               << s.sequences() << " chunk " << s.chunk << " scores " << s.score_size;
  }
};

class SoftmaxScanCase {
 public:
  SoftmaxScanCase(const SoftmaxScanSetup& setup, uint64_t seed) : s(setup) {
    std::mt19937_64 random(seed);
    const DType side = s.type == DType::f64 ? DType::f64 : DType::f32;
    const std::array<int64_t, 4> states{s.sequences(), s.heads(), 1, s.width + 2};
    scores = Tensor(s.type, {s.batch, s.score_heads, s.tokens, 1}, s.layout).normal(random, s.score_size);
    v = Tensor(s.type, {s.batch, s.value_heads, s.tokens, s.width}, s.layout).normal(random);
    if (s.initial) {
      initial = Tensor(side, states).normal(random);
      for (int64_t i = 0; i < states[0]; ++i) {
        for (int64_t h = 0; h < states[1]; ++h) initial.set(i, h, 0, 1, 1 + std::fabs(initial.at(i, h, 0, 1)));
      }
    }
    out = Tensor(s.type, {s.batch, s.heads(), s.tokens, s.width}, s.layout);
    lse = Tensor(side, {s.batch, s.heads(), s.tokens, 1});
    final = Tensor(side, states);
    d_out = Tensor(s.type, out.size(), s.layout).normal(random);
    d_lse = Tensor(side, lse.size()).normal(random);
    d_final = Tensor(side, states).normal(random);
    d_scores = Tensor(s.type, scores.size()), d_v = Tensor(s.type, v.size());
    if (s.initial) d_initial = Tensor(side, states);
  }

  kernels::SoftmaxScanParams params() const {
    kernels::SoftmaxScanParams p;
    p.scores = scores, p.v = v, p.out = out, p.lse = lse, p.final_state = final, p.chunk = s.chunk;
    if (s.initial) p.initial_state = initial;
    if (!s.cu_seqlens.empty()) p.cu_seqlens = s.cu_seqlens.data(), p.num_sequences = s.sequences();
    return p;
  }
  kernels::SoftmaxScanGrads grads() const {
    kernels::SoftmaxScanGrads g;
    g.d_out = d_out, g.d_lse = d_lse, g.d_final_state = d_final, g.d_scores = d_scores, g.d_v = d_v;
    if (s.initial) g.d_initial_state = d_initial;
    return g;
  }
  struct Pair {
    const char* name;
    Tensor *input, *gradient;
  };
  std::vector<Pair> pairs() {
    std::vector<Pair> all{{"scores", &scores, &d_scores}, {"v", &v, &d_v}};
    if (s.initial) all.push_back({"initial_state", &initial, &d_initial});
    return all;
  }
  double loss() const {
    double sum = 0;
    out.each([&](auto... i) { sum += out.at(i...) * d_out.at(i...); });
    lse.each([&](auto... i) { sum += lse.at(i...) * d_lse.at(i...); });
    final.each([&](auto... i) { sum += final.at(i...) * d_final.at(i...); });
    return sum;
  }

  SoftmaxScanSetup s;
  Tensor scores, v, initial, out, lse, final, d_out, d_lse, d_final, d_scores, d_v, d_initial;
};

/// The gradients of `c.pairs()` against central differences of `c.loss()` in double. `run` is the forward.
template <class Case, class Run>
void expect_differences(Case& c, const Run& run) {
  constexpr double kStep = 1e-5;
  for (const auto& [name, input, gradient] : c.pairs()) {
    double difference = 0, norm = 0;
    input->each([&, input = input, gradient = gradient](int64_t i, int64_t j, int64_t k, int64_t l) {
      const double value = input->at(i, j, k, l);
      input->set(i, j, k, l, value + kStep);
      run();
      const double above = c.loss();
      input->set(i, j, k, l, value - kStep);
      run();
      const double slope = (above - c.loss()) / (2 * kStep), got = gradient->at(i, j, k, l);
      input->set(i, j, k, l, value);
      difference += (slope - got) * (slope - got), norm += slope * slope;
    });
    // Truncation is of the order of kStep^2, rounding of 1e-16 / kStep, relative to a loss of ordinary size.
    EXPECT_LE(std::sqrt(difference), 1e-7 * std::sqrt(norm) + 1e-8) << name;
  }
}

}  // namespace heed::testing
