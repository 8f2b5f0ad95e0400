// Chunked linear attention against the step recurrence, that against the parallel form and central differences.
#include "heed/kernels/linear_chunk.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "support/recurrence_case.h"

namespace heed::testing::linear_chunk_test {
namespace {

using namespace kernels;
using Case = LinearChunkCase;
using Shape = RecurrenceShape;
using Decay = Shape::Decay;

constexpr Decay kDecays[] = {Decay::none, Decay::constant, Decay::scalar, Decay::channel};

TEST(LinearChunkReference, IsTheParallelForm) {
  for (const Decay decay : kDecays) {
    Shape shape = Shape::of_heads(2);
    shape.batch = 2, shape.tokens = 23, shape.d = 5, shape.dv = 4, shape.decay = decay, shape.dtype = DType::f64;
    Case made(shape, 11);
    made.forward();
    // out_i = scale sum_j sum_c q_ic exp(sum of log decays of (j, i]) k_jc v_j, and the state as token -1.
    Tensor want(DType::f64, made.out.size());
    const auto gate = [&](int64_t b, int64_t h, int64_t t, int64_t c) {
      return made.log_decay ? made.log_decay.at(b, h, t, c) : 0;
    };
    want.each([&](int64_t b, int64_t h, int64_t i, int64_t e) {
      double sum = 0;
      for (int64_t c = 0; c < shape.d; ++c) {
        double exponent = 0;
        for (int64_t j = i; j >= 0; --j) {
          sum += made.q.at(b, h, i, c) * std::exp(exponent) * made.k.at(b, h, j, c) * made.v.at(b, h, j, e);
          exponent += gate(b, h, j, c);
        }
        sum += made.q.at(b, h, i, c) * std::exp(exponent) * made.initial_state.at(b, h, c, e);
      }
      want.set(b, h, i, e, shape.scale * sum);
    });
    EXPECT_LE(relative_error(made.out, want), 1e-13);
  }
}

TEST(LinearChunk, ConstantDecaysHaveClosedForms) {
  // d = 1 and q = k = v = 1: the output is a geometric sum.
  for (const double decay : {0.0, 0.5, 0.99, 1.0}) {
    Shape shape = Shape::of_heads(1);
    shape.tokens = 200, shape.d = shape.dv = 1, shape.decay = Decay::constant, shape.initial_state = false;
    shape.scale = 1;
    Case made(shape, 13);
    for (Tensor* tensor : {&made.q, &made.k, &made.v}) tensor->fill([] { return 1.0; });
    made.log_decay.set(0, 0, 0, 0, std::log(decay));
    made.forward();
    for (int64_t t = 0; t < 200; ++t) {
      const double steps = static_cast<double>(t + 1);
      const double want = decay == 1 ? steps : (1 - std::pow(decay, steps)) / (1 - decay);
      EXPECT_NEAR(made.out.at(0, 0, t, 0), want, 1e-5 * want);
    }
  }
}

// Sums of 2^s v_s, divided by 2^t when they are read, leave float32 after 128 tokens.
TEST(LinearChunk, StatesStayFiniteWhereScaledSumsDoNot) {
  constexpr int64_t kTokens = 100000;
  Shape shape = Shape::of_heads(1);
  shape.tokens = kTokens, shape.d = shape.dv = 1, shape.decay = Decay::constant, shape.initial_state = false;
  shape.scale = 1;
  Case made(shape, 17);
  for (Tensor* tensor : {&made.q, &made.k}) tensor->fill([] { return 1.0; });
  made.log_decay.set(0, 0, 0, 0, std::log(0.5));
  made.forward();
  float scaled = 0;
  double exact = 0;
  int64_t overflow = kTokens;
  for (int64_t t = 0; t < kTokens; ++t) {
    const double v = made.v.at(0, 0, t, 0);
    exact = 0.5 * exact + v;
    ASSERT_TRUE(std::isfinite(made.out.at(0, 0, t, 0))) << t;
    // Each sum is of terms that halve; rounding errors do, too.
    EXPECT_NEAR(made.out.at(0, 0, t, 0), exact, 2e-5) << t;
    if (t >= overflow) continue;
    scaled += std::ldexp(static_cast<float>(v), static_cast<int>(t));
    if (!std::isfinite(scaled))
      overflow = t;
    else
      EXPECT_NEAR(std::ldexp(scaled, -static_cast<int>(t)), exact, 2e-5) << t;
  }
  EXPECT_GE(overflow, 120);
  EXPECT_LE(overflow, 135);
}

// One head of one sequence, long enough to be cut unasked.
TEST(LinearChunk, SegmentsThatShapesChooseDoNotDependOnThreads) {
  const int before = num_threads();
  for (const Decay decay : kDecays) {
    Shape shape = Shape::of_heads(1);
    shape.tokens = 4999, shape.d = 20, shape.dv = 24, shape.decay = decay, shape.strength = 0.05;
    SCOPED_TRACE(shape.text());
    Case one(shape, 19), two(shape, 19), whole(shape, 19);
    set_num_threads(1);
    one.forward();
    one.backward();
    set_num_threads(2);
    expect_matches_reference(two);
    whole.shape.segment = shape.tokens;
    whole.forward();
    const auto first = one.tensors(), second = two.tensors();
    for (size_t i = 0; i < first.size(); ++i)
      EXPECT_TRUE(first[i].second->same_bits(*second[i].second)) << first[i].first;
    // Decays may leave nothing to carry.
    if (decay == Decay::none) {
      EXPECT_FALSE(one.out.same_bits(whole.out)) << "nothing was cut";
    }
  }
  set_num_threads(before);
}

TEST(LinearChunk, BadProblemsAreNamed) {
  Shape shape = Shape::of_heads(4);
  shape.tokens = 9, shape.decay = Decay::scalar;
  const Case made(shape, 16);
  const auto refuses = [&](const char* word, const auto& spoil) {
    LinearChunkParams p = made.params();
    spoil(p);
    expect_refusal(word, [&] { linear_chunk(p); });
  };
  refuses("chunks of 0", [](auto& p) { p.chunk = 0; });
  refuses("chunks of 513", [](auto& p) { p.chunk = 513; });
  refuses("segments of -1", [](auto& p) { p.segment = -1; });
  refuses("scale is nan", [](auto& p) { p.scale = std::nan(""); });
  refuses("k is float16", [](auto& p) { p.k.dtype = DType::f16; });
  refuses("q is int8", [](auto& p) { p.q.dtype = p.k.dtype = p.v.dtype = DType::i8; });
  refuses("k has 3 heads", [](auto& p) { p.k.size[1] = 3; });
  refuses("v is [1, 4, 8, 8]", [](auto& p) { p.v.size[2] = 8; });
  refuses("log_decay is [1, 4, 9, 3]", [](auto& p) { p.log_decay.size[3] = 3; });
  refuses("log_decay is float64", [](auto& p) { p.log_decay.dtype = DType::f64; });
  refuses("initial_state is [1, 4, 8, 7]", [](auto& p) { p.initial_state.size[3] = 7; });
  refuses("out is float16", [](auto& p) { p.out.dtype = DType::f16; });
  refuses("q has stride 2", [](auto& p) { p.q.stride[3] = 2; });
  refuses("q has no data", [](auto& p) { p.q.data = nullptr; });
  static const int64_t falling[] = {0, 6, 4, 9}, short_of[] = {0, 8};
  refuses("cu_seqlens fall", [](auto& p) { p.cu_seqlens = falling, p.num_sequences = 3; });
  refuses("cu_seqlens go from 0 to 8", [](auto& p) { p.cu_seqlens = short_of, p.num_sequences = 1; });
  for (const Decay decay : {Decay::constant, Decay::scalar, Decay::channel}) {
    for (const int64_t tokens : {1, 40}) {
      shape.decay = decay, shape.tokens = tokens;
      Case growing(shape, 17);
      growing.log_decay.set(0, 2, growing.log_decay.size()[2] - 1, 0, 0.5);
      EXPECT_THROW(growing.forward(), Error);
      EXPECT_THROW(growing.backward(), Error);
    }
  }
}

}  // namespace
}  // namespace heed::testing::linear_chunk_test
