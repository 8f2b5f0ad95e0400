// linear_chunk with given coefficients against the reference, that against decays and central differences.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "heed/kernels/runtime.h"
#include "support/recurrence_case.h"

namespace heed::testing::linear_coefficients_test {
namespace {

using namespace kernels;
using Shape = RecurrenceShape;

/// Gate heads are those of the coefficients, which are normal, of either sign.
struct Case : LinearChunkCase {
  Case(const Shape& shape, uint64_t seed) : LinearChunkCase(shape, seed) {
    std::mt19937_64 random(seed + 1);
    const DType side = shape.dtype == DType::f64 ? DType::f64 : DType::f32;
    const int64_t chunks = (shape.tokens + shape.chunk - 1) / shape.chunk;
    const auto draw = [&](int64_t rows, int64_t columns) {
      Tensor tensor(side, {shape.batch, shape.gate_heads, rows, columns});
      tensor.normal(random);
      return tensor;
    };
    pairs = draw(shape.tokens, shape.chunk), reads = draw(shape.tokens, 1), writes = draw(shape.tokens, 1);
    carries = draw(chunks, 1);
    d_pairs = pairs, d_reads = reads, d_writes = writes, d_carries = carries;
  }

  LinearChunkParams params() const {
    auto p = LinearChunkCase::params();
    p.coefficients = {pairs, reads, writes, carries};
    return p;
  }
  LinearChunkGrads grads() const {
    auto g = LinearChunkCase::grads();
    g.d_coefficients = {d_pairs, d_reads, d_writes, d_carries};
    return g;
  }
  void forward() const { linear_chunk(params()); }
  void backward() const { linear_chunk_backward(params(), grads()); }

  Named gradients() {
    return with(LinearChunkCase::gradients(),
                {{"d_pairs", &d_pairs}, {"d_reads", &d_reads}, {"d_writes", &d_writes}, {"d_carries", &d_carries}});
  }
  Named inputs() {
    return with(LinearChunkCase::inputs(),
                {{"pairs", &pairs}, {"reads", &reads}, {"writes", &writes}, {"carries", &carries}});
  }
  Named tensors() {
    return with(with(inputs(), results()), with(gradients(), {{"d_out", &d_out}, {"d_final_state", &d_final_state}}));
  }
  Case in_double() const {
    Case wide = *this;
    wide.shape.dtype = DType::f64;
    for (auto& [name, tensor] : wide.tensors())
      if (*tensor) *tensor = tensor->as(DType::f64);
    return wide;
  }

  Tensor pairs, reads, writes, carries, d_pairs, d_reads, d_writes, d_carries;

 private:
  static Named with(Named all, const Named& more) {
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
};

template <class Body>
void on_each_isa(const Body& body) {
  for (const auto& isa : supported_isas()) {
    SCOPED_TRACE(isa);
    set_isa(isa);
    body();
  }
  set_isa("");
}

TEST(LinearCoefficientsKernel, MatchesReferenceOverRandomShapes) {
  on_each_isa([&] {
    HEED_SEED(random, 20250101);
    const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
    const Layout layouts[] = {Layout::dense, Layout::heads_last, Layout::sliced, Layout::reversed};
    for (int round = 0; round < 32; ++round) {
      Shape shape;
      shape.heads = 2 * (1 + below(3));
      for (int64_t* heads : {&shape.q_heads, &shape.k_heads, &shape.v_heads, &shape.gate_heads})
        *heads = below(2) == 0 ? shape.heads : below(2) == 0 ? 2 : 1;
      shape.batch = 1 + below(2), shape.tokens = below(5) == 0 ? below(2) : below(200);
      shape.d = 1 + below(40), shape.dv = 1 + below(70);
      shape.layout = layouts[below(4)], shape.initial_state = below(2) == 0, shape.chunk = 1 + below(80);
      shape.segment = below(2) * (1 + below(90));
      SCOPED_TRACE(shape.text());
      Case made(shape, random());
      expect_matches_reference(made);
    }
  });
}

TEST(LinearCoefficientsKernel, SixteenBitTypesRoundOnce) {
  for (const DType type : {DType::bf16, DType::f16}) {
    Shape shape = Shape::of_heads(2);
    shape.k_heads = 1, shape.tokens = 90, shape.d = 24, shape.dv = 20, shape.chunk = 32, shape.dtype = type;
    Case made(shape, 10), expected = made.in_double();
    expected.forward();
    expected.backward();
    made.forward();
    made.backward();
    const double unit = type == DType::bf16 ? std::exp2(-8) : std::exp2(-11);
    EXPECT_LE(relative_error(made.out, expected.out), unit);
    EXPECT_LE(relative_error(made.d_k, expected.d_k), unit);
    EXPECT_LE(relative_error(made.d_pairs, expected.d_pairs), kRecurrenceGradientTolerance);
  }
}

TEST(LinearCoefficientsKernel, GradientsAreCentralDifferences) {
  for (const int64_t tokens : {1, 7}) {
    Shape shape = Shape::of_heads(2);
    shape.k_heads = shape.gate_heads = 1;
    shape.batch = 2, shape.tokens = tokens, shape.d = 3, shape.dv = 4, shape.chunk = 3, shape.dtype = DType::f64;
    Case made(shape, 12);
    expect_central_differences(made);
  }
}

TEST(LinearCoefficientsKernel, DecaysAreOneChoiceOfThem) {
  Shape shape = Shape::of_heads(2);
  shape.batch = 2, shape.tokens = 37, shape.d = 5, shape.dv = 4, shape.chunk = 8, shape.dtype = DType::f64;
  shape.decay = Shape::Decay::scalar;
  LinearChunkCase decayed(shape, 3);
  decayed.forward();
  shape.decay = Shape::Decay::none;
  Case given(shape, 3);
  // Its tensors are the decayed ones: gates are drawn after them.
  for (const auto& [to, from] : {std::pair{&given.q, &decayed.q}, {&given.initial_state, &decayed.initial_state}})
    *to = *from;
  const auto product = [&](int64_t b, int64_t h, int64_t first, int64_t last) {
    double sum = 0;
    for (int64_t t = first; t <= last; ++t) sum += decayed.log_decay.at(b, h, t, 0);
    return std::exp(sum);
  };
  const auto end_of = [&](int64_t t) { return std::min((t / 8 + 1) * 8, shape.tokens) - 1; };
  given.pairs.each([&](int64_t b, int64_t h, int64_t t, int64_t c) {
    given.pairs.set(b, h, t, c, product(b, h, t / 8 * 8 + c + 1, t));  // later tokens hold 1, and must not count
  });
  given.reads.each([&](int64_t b, int64_t h, int64_t t, int64_t) {
    given.reads.set(b, h, t, 0, product(b, h, t / 8 * 8, t));
    given.writes.set(b, h, t, 0, product(b, h, t + 1, end_of(t)));
  });
  given.carries.each([&](int64_t b, int64_t h, int64_t n, int64_t) {
    given.carries.set(b, h, n, 0, product(b, h, n * 8, end_of(n * 8)));
  });
  given.forward();
  EXPECT_LE(relative_error(given.out, decayed.out), 1e-13);
  EXPECT_LE(relative_error(given.final_state, decayed.final_state), 1e-13);
}

TEST(LinearCoefficientsKernel, TheFutureDoesNotMoveThePast) {
  on_each_isa([&] {
    Shape shape = Shape::of_heads(2);
    shape.tokens = 140, shape.d = 24, shape.dv = 40, shape.chunk = 50;
    const Case made(shape, 6);
    for (const int64_t t : {5, 64, 101}) {
      expect_causal(made, t, 3);
      expect_causal(made, t, std::numeric_limits<double>::quiet_NaN());
    }
  });
}

TEST(LinearCoefficientsKernel, ThreadsDoNotChangeABit) {
  const int before = num_threads();
  for (const int64_t heads : {1, 4}) {
    Shape shape = Shape::of_heads(heads);
    shape.gate_heads = (heads + 1) / 2, shape.tokens = 130, shape.d = 64, shape.dv = 72;
    Case one(shape, 7), two(shape, 7);
    for (const auto& [threads, made] : {std::pair{1, &one}, {2, &two}}) {
      set_num_threads(threads);
      made->forward();
      made->backward();
    }
    const auto first = one.tensors(), second = two.tensors();
    for (size_t i = 0; i < first.size(); ++i)
      EXPECT_TRUE(!*first[i].second || first[i].second->same_bits(*second[i].second)) << first[i].first;
  }
  set_num_threads(before);
}

TEST(LinearCoefficientsKernel, BadCoefficientsAreNamed) {
  Shape shape = Shape::of_heads(4);
  shape.tokens = 9, shape.chunk = 4;
  const Case made(shape, 16);
  const auto refuses = [&](const char* word, const auto& spoil) {
    LinearChunkParams p = made.params();
    spoil(p);
    expect_refusal(word, [&] { linear_chunk(p); });
  };
  Tensor decay(DType::f32, {1, 4, 9, 1});
  refuses("beside log_decay", [&](auto& p) { p.log_decay = decay; });
  static const int64_t bounds[] = {0, 9};
  refuses("packed", [](auto& p) { p.cu_seqlens = bounds, p.num_sequences = 1; });
  refuses("without reads", [](auto& p) { p.coefficients.reads = {}; });
  refuses("pairs is [1, 4, 9, 4]", [](auto& p) { p.chunk = 5; });
  refuses("carries is [1, 4, 2, 1]", [](auto& p) { p.coefficients.carries.size[2] = 2; });
  refuses("writes has 3 heads", [](auto& p) { p.coefficients.writes.size[1] = 3; });
  refuses("pairs is float64", [](auto& p) { p.coefficients.pairs.dtype = DType::f64; });
}

}  // namespace
}  // namespace heed::testing::linear_coefficients_test
