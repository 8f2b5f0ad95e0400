// One call of linear_chunk or delta_chunk with all its tensors, and what both kernels' tests do with one.
#pragma once

#include <fmt/format.h>

#include "heed/error.h"
#include "heed/kernels/delta_chunk.h"
#include "support/tensor.h"

namespace heed::testing {

struct RecurrenceShape {
  int64_t batch = 1, tokens = 1, d = 8, dv = 8;
  int64_t heads = 1, q_heads = 1, k_heads = 1, v_heads = 1, gate_heads = 1;
  enum class Decay : uint8_t { none, constant, scalar, channel } decay = Decay::none;
  double strength = 1;  ///< log decays are uniform in [-strength, 0]
  bool initial_state = true;
  std::vector<int64_t> packed;  ///< lengths; empty: a sequence a batch item
  int64_t chunk = 64;
  int64_t segment = 0;  ///< of linear_chunk
  double scale = 0.6;
  DType dtype = DType::f32;
  Layout layout = Layout::dense;

  static RecurrenceShape of_heads(int64_t heads) {
    RecurrenceShape shape;
    shape.heads = shape.q_heads = shape.k_heads = shape.v_heads = shape.gate_heads = heads;
    return shape;
  }
  std::string text() const {
    return fmt::format("B={} H={} ({},{},{},{}) T={} D={} Dv={} decay {} x{} chunk {} segment {} layout {} packed [{}]",
                       batch, heads, q_heads, k_heads, v_heads, gate_heads, tokens, d, dv, static_cast<int>(decay),
                       strength, chunk, segment, static_cast<int>(layout), fmt::join(packed, ","));
  }
};

/// `Params` and `Grads` are those of the kernel. Keys of delta_chunk have norm 1 and beta is in [0, 2).
template <class Params, class Grads>
class RecurrenceCase {
 public:
  static constexpr bool kDelta = std::is_same_v<Params, kernels::DeltaChunkParams>;
  using Shape = RecurrenceShape;

  RecurrenceCase(const Shape& shape, uint64_t seed) : shape(shape) {
    std::mt19937_64 random(seed);
    const auto [b, t] = std::pair{shape.batch, shape.tokens};
    const DType side = shape.dtype == DType::f64 ? DType::f64 : DType::f32;
    const auto rows = [&](int64_t heads, int64_t columns) {
      return Tensor(shape.dtype, {b, heads, t, columns}, shape.layout);
    };
    (q = rows(shape.q_heads, shape.d)).normal(random);
    (k = rows(shape.k_heads, shape.d)).normal(random);
    (v = rows(shape.v_heads, shape.dv)).normal(random);
    (d_out = rows(shape.heads, shape.dv)).normal(random);
    out = rows(shape.heads, shape.dv);
    d_q = rows(shape.q_heads, shape.d), d_k = rows(shape.k_heads, shape.d), d_v = rows(shape.v_heads, shape.dv);
    const std::array<int64_t, 4> state{sequences(), shape.heads, shape.d, shape.dv};
    for (Tensor* tensor : {&initial_state, &final_state, &d_final_state, &d_initial_state})
      *tensor = Tensor(side, state);
    if (shape.decay != Shape::Decay::none) {
      std::array<int64_t, 4> size{b, shape.gate_heads, t, 1};
      if (shape.decay == Shape::Decay::constant) size = {1, shape.gate_heads, 1, 1};
      if (shape.decay == Shape::Decay::channel) size[3] = shape.d;
      log_decay = Tensor(side, size), d_log_decay = Tensor(side, size);
      std::uniform_real_distribution<double> uniform(-shape.strength, 0);
      log_decay.fill([&] { return uniform(random); });
    }
    if (kDelta) {
      beta = Tensor(side, {b, shape.gate_heads, t, 1}), d_beta = Tensor(side, beta.size());
      std::uniform_real_distribution<double> uniform(0, 2);
      beta.fill([&] { return uniform(random); });
      Tensor raw = k;
      raw.each([&](int64_t i, int64_t h, int64_t n, int64_t c) {
        double norm = 0;
        for (int64_t e = 0; e < shape.d; ++e) norm += raw.at(i, h, n, e) * raw.at(i, h, n, e);
        k.set(i, h, n, c, raw.at(i, h, n, c) / std::sqrt(norm));
      });
    }
    // Last, so that tokens do not depend on how many sequences they are.
    initial_state.normal(random);
    d_final_state.normal(random);
    if (!shape.packed.empty()) {
      bounds_ = {0};
      for (int64_t length : shape.packed) bounds_.push_back(bounds_.back() + length);
    }
  }

  int64_t sequences() const { return shape.packed.empty() ? shape.batch : static_cast<int64_t>(shape.packed.size()); }

  Params params() const {
    Params p;
    p.q = q, p.k = k, p.v = v, p.out = out, p.final_state = final_state;
    if (log_decay) p.log_decay = log_decay;
    if (shape.initial_state) p.initial_state = initial_state;
    if constexpr (kDelta) {
      p.beta = beta;
    } else {
      p.segment = shape.segment;
    }
    p.scale = shape.scale;
    p.chunk = shape.chunk;
    if (!bounds_.empty()) {
      p.cu_seqlens = bounds_.data();
      p.num_sequences = sequences();
    }
    return p;
  }
  Grads grads() const {
    Grads g;
    g.d_out = d_out, g.d_final_state = d_final_state;
    g.d_q = d_q, g.d_k = d_k, g.d_v = d_v, g.d_initial_state = d_initial_state;
    if (log_decay) g.d_log_decay = d_log_decay;
    if constexpr (kDelta) g.d_beta = d_beta;
    return g;
  }

  static void run(const Params& p) {
    if constexpr (kDelta) {
      kernels::delta_chunk(p);
    } else {
      kernels::linear_chunk(p);
    }
  }
  static void run_backward(const Params& p, const Grads& g) {
    if constexpr (kDelta) {
      kernels::delta_chunk_backward(p, g);
    } else {
      kernels::linear_chunk_backward(p, g);
    }
  }
  void forward() const { run(params()); }
  void backward() const { run_backward(params(), grads()); }

  /// The same call in float64, whose kernel is the reference.
  RecurrenceCase in_double() const {
    RecurrenceCase wide = *this;
    wide.shape.dtype = DType::f64;
    for (auto& [name, tensor] : wide.tensors())
      if (*tensor) *tensor = tensor->as(DType::f64);
    return wide;
  }

  using Named = std::vector<std::pair<const char*, Tensor*>>;
  Named results() { return {{"out", &out}, {"final_state", &final_state}}; }
  Named gradients() {
    Named all{{"d_q", &d_q}, {"d_k", &d_k}, {"d_v", &d_v}, {"d_initial_state", &d_initial_state}};
    if (log_decay) all.push_back({"d_log_decay", &d_log_decay});
    if (kDelta) all.push_back({"d_beta", &d_beta});
    return all;
  }
  /// In the order of gradients().
  Named inputs() {
    Named all{{"q", &q}, {"k", &k}, {"v", &v}, {"initial_state", &initial_state}};
    if (log_decay) all.push_back({"log_decay", &log_decay});
    if (kDelta) all.push_back({"beta", &beta});
    return all;
  }
  Named tensors() {
    Named all = inputs();
    for (const auto& more : {results(), gradients(), Named{{"d_out", &d_out}, {"d_final_state", &d_final_state}}})
      all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  Shape shape;
  Tensor q, k, v, beta, log_decay, initial_state, out, final_state;
  Tensor d_out, d_final_state, d_q, d_k, d_v, d_beta, d_log_decay, d_initial_state;

 private:
  std::vector<int64_t> bounds_;
};

using LinearChunkCase = RecurrenceCase<kernels::LinearChunkParams, kernels::LinearChunkGrads>;
using DeltaChunkCase = RecurrenceCase<kernels::DeltaChunkParams, kernels::DeltaChunkGrads>;

// Relative L2 errors of float32 against the reference. A sum's error is eps times the size of its terms; those of log
// decays are differences of sums over tokens, so what a strong decay makes small next to its terms is known less well.
inline constexpr double kRecurrenceTolerance = 2e-5, kRecurrenceGradientTolerance = 1e-4;

/// Forward and backward against the reference, and no write outside the tensors.
template <class Case>
void expect_matches_reference(Case& made) {
  Case expected = made.in_double();
  expected.forward();
  expected.backward();
  made.forward();
  made.backward();
  for (auto& [name, tensor] : made.tensors())
    if (*tensor) tensor->check_guards(name);
  const auto compare = [](const typename Case::Named& got, const typename Case::Named& want, double tolerance) {
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_LE(relative_error(*got[i].second, *want[i].second), tolerance) << got[i].first;
  };
  compare(made.results(), expected.results(), kRecurrenceTolerance);
  compare(made.gradients(), expected.gradients(), kRecurrenceGradientTolerance);
}

/// Gradients of sum(out d_out) + sum(final_state d_final_state) by central differences; float64.
template <class Case>
void expect_central_differences(Case& made) {
  const auto objective = [&] {
    made.forward();
    double sum = 0;
    for (const auto& [value, weight] : {std::pair{&made.out, &made.d_out}, {&made.final_state, &made.d_final_state}}) {
      value->each(
          [&](int64_t b, int64_t h, int64_t n, int64_t c) { sum += value->at(b, h, n, c) * weight->at(b, h, n, c); });
    }
    return sum;
  };
  made.backward();
  const auto inputs = made.inputs(), gradients = made.gradients();
  for (size_t i = 0; i < inputs.size(); ++i) {
    Tensor* input = inputs[i].second;
    Tensor numeric(DType::f64, input->size());
    input->each([&](int64_t b, int64_t h, int64_t n, int64_t c) {
      const double value = input->at(b, h, n, c), step = 1e-6;
      input->set(b, h, n, c, value + step);
      const double above = objective();
      input->set(b, h, n, c, value - step);
      numeric.set(b, h, n, c, (above - objective()) / (2 * step));
      input->set(b, h, n, c, value);
    });
    EXPECT_LE(relative_error(*gradients[i].second, numeric), 1e-6) << inputs[i].first;
  }
}

/// `run` is refused with an error that has `word` in it.
template <class Run>
void expect_refusal(const char* word, const Run& run) {
  try {
    run();
    ADD_FAILURE() << word << " was accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
  }
}

/// Tokens [begin, end) of a call with one sequence a batch item, the state given.
template <class Case>
Case tokens_of(const Case& whole, int64_t begin, int64_t end, const Tensor& state) {
  RecurrenceShape shape = whole.shape;
  shape.tokens = end - begin;
  shape.initial_state = true;
  Case part(shape, 1);
  const auto cut = [&](const Tensor& from, Tensor& to) {
    if (!from) return;
    const int64_t shift = from.size()[2] == whole.shape.tokens ? begin : 0;
    to.each([&](int64_t b, int64_t h, int64_t n, int64_t c) { to.set(b, h, n, c, from.at(b, h, n + shift, c)); });
  };
  cut(whole.q, part.q);
  cut(whole.k, part.k);
  cut(whole.v, part.v);
  cut(whole.beta, part.beta);
  cut(whole.log_decay, part.log_decay);
  part.initial_state = state;
  return part;
}

/// The same call cut at `ends` with the state carried over equals the whole.
template <class Case>
void expect_cuts_agree(Case& whole, const std::vector<int64_t>& ends) {
  whole.forward();
  Tensor state = whole.initial_state, joined(whole.out.view().dtype, whole.out.size());
  int64_t begin = 0;
  for (int64_t end : ends) {
    Case part = tokens_of(whole, begin, end, state);
    part.forward();
    part.out.each(
        [&](int64_t b, int64_t h, int64_t n, int64_t c) { joined.set(b, h, begin + n, c, part.out.at(b, h, n, c)); });
    state = part.final_state;
    begin = end;
  }
  EXPECT_LE(relative_error(joined, whole.out), kRecurrenceTolerance);
  EXPECT_LE(relative_error(state, whole.final_state), kRecurrenceTolerance);
}

/// A change of every tensor at token t leaves the bits of all outputs before it.
template <class Case>
void expect_causal(const Case& made, int64_t t, double change) {
  Case first = made, second = made;
  for (Tensor* tensor : {&second.q, &second.k, &second.v})
    for (int64_t b = 0; b < tensor->size()[0]; ++b)
      for (int64_t h = 0; h < tensor->size()[1]; ++h)
        for (int64_t c = 0; c < tensor->size()[3]; ++c) tensor->set(b, h, t, c, change);
  first.forward();
  second.forward();
  bool later_moved = false;
  first.out.each([&](int64_t b, int64_t h, int64_t n, int64_t c) {
    if (n < t) {
      ASSERT_EQ(first.out.at(b, h, n, c), second.out.at(b, h, n, c)) << "row " << n << " saw token " << t;
    } else {
      later_moved |= first.out.at(b, h, n, c) != second.out.at(b, h, n, c);
    }
  });
  EXPECT_TRUE(later_moved);
}

}  // namespace heed::testing
