// The chunked delta rule against the step recurrence, that against the matrix form and central differences.
#include "heed/kernels/delta_chunk.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "support/recurrence_case.h"

namespace heed::testing::delta_chunk_test {
namespace {

using namespace kernels;
using Case = DeltaChunkCase;
using Shape = RecurrenceShape;
using Decay = Shape::Decay;

constexpr Decay kDecays[] = {Decay::none, Decay::constant, Decay::scalar};

TEST(DeltaChunkReference, IsTheMatrixForm) {
  for (const Decay decay : kDecays) {
    Shape shape = Shape::of_heads(2);
    shape.batch = 2, shape.tokens = 23, shape.d = 5, shape.dv = 4, shape.decay = decay, shape.dtype = DType::f64;
    Case made(shape, 11);
    made.forward();
    Tensor want(DType::f64, made.out.size());
    for (int64_t b = 0; b < 2; ++b) {
      for (int64_t h = 0; h < 2; ++h) {
        // S <- a (I - beta k^T k) S + beta k^T v, column by column of S.
        for (int64_t e = 0; e < shape.dv; ++e) {
          std::vector<double> state(shape.d), next(shape.d);
          for (int64_t c = 0; c < shape.d; ++c) state[c] = made.initial_state.at(b, h, c, e);
          for (int64_t t = 0; t < shape.tokens; ++t) {
            const double a = made.log_decay ? std::exp(made.log_decay.at(b, h, t)) : 1, beta = made.beta.at(b, h, t);
            double out = 0;
            for (int64_t c = 0; c < shape.d; ++c) {
              next[c] = beta * made.k.at(b, h, t, c) * made.v.at(b, h, t, e);
              for (int64_t f = 0; f < shape.d; ++f)
                next[c] += a * ((c == f) - beta * made.k.at(b, h, t, c) * made.k.at(b, h, t, f)) * state[f];
              out += shape.scale * made.q.at(b, h, t, c) * next[c];
            }
            want.set(b, h, t, e, out);
            state = next;
          }
        }
      }
    }
    EXPECT_LE(relative_error(made.out, want), 1e-13);
  }
}

TEST(DeltaChunk, TheLastValueOfAKeyIsRead) {
  // Unit keys that repeat, beta = 1: reading a key returns what was written under it last, up to 15 writes that each
  // round a difference of values below 5.
  constexpr double kRounding = 15 * 10 * 0x1p-24;
  Shape shape = Shape::of_heads(1);
  shape.tokens = 120, shape.d = 8, shape.dv = 6, shape.initial_state = false, shape.scale = 1;
  Case made(shape, 13);
  made.beta.fill([] { return 1.0; });
  for (int64_t t = 0; t < 120; ++t) {
    for (int64_t c = 0; c < 8; ++c) {
      made.k.set(0, 0, t, c, c == t * 5 % 8);
      made.q.set(0, 0, t, c, c == t * 3 % 8);
    }
  }
  made.forward();
  for (int64_t t = 7; t < 120; ++t) {
    int64_t last = t;
    while (last * 5 % 8 != t * 3 % 8) --last;
    for (int64_t e = 0; e < 6; ++e) EXPECT_NEAR(made.out.at(0, 0, t, e), made.v.at(0, 0, last, e), kRounding) << t;
  }
}

TEST(DeltaChunk, StrengthZeroWritesNothing) {
  Shape shape = Shape::of_heads(2);
  shape.tokens = 80;
  Case made(shape, 14);
  made.beta.fill([] { return 0.0; });
  made.forward();
  EXPECT_EQ(relative_error(made.final_state, made.initial_state), 0);
  expect_matches_reference(made);  // the gradient of beta is not zero
}

TEST(DeltaChunk, WithoutValuesTheStateDoesNotGrow) {
  Shape shape = Shape::of_heads(1);
  shape.tokens = 300, shape.d = 12, shape.dv = 5;
  Case made(shape, 15);
  made.v.fill([] { return 0.0; });
  const auto norm = [](const Tensor& state) {
    double sum = 0;
    state.each([&](int64_t b, int64_t h, int64_t c, int64_t e) { sum += std::pow(state.at(b, h, c, e), 2); });
    return std::sqrt(sum);
  };
  made.forward();
  EXPECT_LE(norm(made.final_state), norm(made.initial_state) * (1 + 1e-5));
}

// One head of one sequence, long enough for its columns of values to be split.
TEST(DeltaChunk, ALoneHeadDoesNotDependOnThreads) {
  const int before = num_threads();
  for (const Decay decay : kDecays) {
    Shape shape = Shape::of_heads(1);
    shape.tokens = 2100, shape.d = 24, shape.dv = 132, shape.decay = decay, shape.strength = 0.05;
    SCOPED_TRACE(shape.text());
    Case one(shape, 20), two(shape, 20);
    set_num_threads(1);
    one.forward();
    one.backward();
    set_num_threads(2);
    expect_matches_reference(two);
    const auto first = one.tensors(), second = two.tensors();
    for (size_t i = 0; i < first.size(); ++i)
      EXPECT_TRUE(first[i].second->same_bits(*second[i].second)) << first[i].first;
  }
  set_num_threads(before);
}

TEST(DeltaChunk, BadProblemsAreNamed) {
  Shape shape = Shape::of_heads(4);
  shape.tokens = 9, shape.decay = Decay::scalar;
  const Case made(shape, 16);
  const auto refuses = [&](const char* word, const auto& spoil) {
    DeltaChunkParams p = made.params();
    spoil(p);
    expect_refusal(word, [&] { delta_chunk(p); });
  };
  refuses("chunks of 0", [](auto& p) { p.chunk = 0; });
  refuses("chunks of 513", [](auto& p) { p.chunk = 513; });
  refuses("scale is nan", [](auto& p) { p.scale = std::nan(""); });
  refuses("k is float16", [](auto& p) { p.k.dtype = DType::f16; });
  refuses("q is int8", [](auto& p) { p.q.dtype = p.k.dtype = p.v.dtype = DType::i8; });
  refuses("k has 3 heads", [](auto& p) { p.k.size[1] = 3; });
  refuses("v is [1, 4, 8, 8]", [](auto& p) { p.v.size[2] = 8; });
  refuses("log_decay is [1, 4, 9, 8]", [](auto& p) { p.log_decay.size[3] = 8; });
  refuses("beta is [1, 4, 8, 1]", [](auto& p) { p.beta.size[2] = 8; });
  refuses("beta has 3 heads", [](auto& p) { p.beta.size[1] = 3; });
  refuses("beta has no data", [](auto& p) { p.beta.data = nullptr; });
  refuses("log_decay is float64", [](auto& p) { p.log_decay.dtype = DType::f64; });
  refuses("initial_state is [1, 4, 8, 7]", [](auto& p) { p.initial_state.size[3] = 7; });
  refuses("out is float16", [](auto& p) { p.out.dtype = DType::f16; });
  refuses("q has stride 2", [](auto& p) { p.q.stride[3] = 2; });
  refuses("q has no data", [](auto& p) { p.q.data = nullptr; });
  static const int64_t falling[] = {0, 6, 4, 9}, short_of[] = {0, 8};
  refuses("cu_seqlens fall", [](auto& p) { p.cu_seqlens = falling, p.num_sequences = 3; });
  refuses("cu_seqlens go from 0 to 8", [](auto& p) { p.cu_seqlens = short_of, p.num_sequences = 1; });
  for (const Decay decay : {Decay::constant, Decay::scalar}) {
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
}  // namespace heed::testing::delta_chunk_test
