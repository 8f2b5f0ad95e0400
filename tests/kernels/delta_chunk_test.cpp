// The chunked delta rule against the step recurrence, that against the matrix form and central differences.
#include "heed/kernels/delta_chunk.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "support/recurrence_case.h"

namespace heed::testing {
namespace {

using namespace kernels;
using Case = RecurrenceCase<DeltaChunkParams, DeltaChunkGrads>;
using Shape = RecurrenceShape;
using Decay = Shape::Decay;

constexpr Decay kDecays[] = {Decay::none, Decay::constant, Decay::scalar};

class DeltaChunkOnIsa : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(""); }
};
INSTANTIATE_TEST_SUITE_P(All, DeltaChunkOnIsa, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return info.param; });

TEST_P(DeltaChunkOnIsa, MatchesReferenceOverRandomShapes) {
  HEED_SEED(random, 20240610);
  const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
  const Layout layouts[] = {Layout::dense, Layout::heads_last, Layout::sliced, Layout::reversed};
  for (int round = 0; round < 32; ++round) {
    Shape shape;
    const int64_t group = 1 + below(3);
    shape.heads = 2 * group;
    for (int64_t* heads : {&shape.q_heads, &shape.k_heads, &shape.v_heads, &shape.gate_heads})
      *heads = below(2) == 0 ? shape.heads : below(2) == 0 ? 2 : 1;
    shape.batch = 1 + below(2), shape.tokens = below(200), shape.d = 1 + below(40), shape.dv = 1 + below(70);
    shape.decay = kDecays[round % 3], shape.layout = layouts[below(4)];
    shape.strength = std::pow(10.0, below(3) - 1);
    shape.initial_state = below(2) == 0;
    shape.chunk = 1 + below(80);
    if (below(3) == 0) {
      shape.batch = 1;
      shape.packed = {below(90), 0, 1, below(90), 1, 17};
      shape.tokens = 0;
      for (int64_t length : shape.packed) shape.tokens += length;
    }
    SCOPED_TRACE(shape.text());
    Case made(shape, random());
    expect_matches_reference(made);
  }
}

TEST_P(DeltaChunkOnIsa, ChunksOfAnySizeAgree) {
  for (const Decay decay : kDecays) {
    for (const int64_t chunk : {1, 7, 16, 64, 150}) {
      Shape shape = Shape::of_heads(2);
      shape.tokens = 150, shape.d = 20, shape.dv = 33, shape.decay = decay, shape.chunk = chunk;
      SCOPED_TRACE(shape.text());
      Case made(shape, 3);
      expect_matches_reference(made);
    }
  }
}

TEST_P(DeltaChunkOnIsa, GatesOfAnyStrengthMatchReference) {
  for (const Decay decay : {Decay::constant, Decay::scalar}) {
    for (const double strength : {0.1, 1.0, 10.0}) {
      for (const int64_t tokens : {63, 1000}) {
        Shape shape = Shape::of_heads(1);
        shape.tokens = tokens, shape.d = 16, shape.dv = 24, shape.decay = decay, shape.strength = strength;
        SCOPED_TRACE(shape.text());
        Case made(shape, 4);
        expect_matches_reference(made);
      }
    }
  }
}

TEST_P(DeltaChunkOnIsa, StepsAndPartsEqualTheWhole) {
  for (const Decay decay : kDecays) {
    Shape shape = Shape::of_heads(2);
    shape.batch = 2, shape.tokens = 75, shape.d = 19, shape.dv = 21, shape.decay = decay;
    SCOPED_TRACE(shape.text());
    Case whole(shape, 5);
    expect_cuts_agree(whole, {40, 75});
    expect_cuts_agree(whole, {1, 2, 3, 70, 71, 74, 75});
  }
}

TEST_P(DeltaChunkOnIsa, TheFutureDoesNotMoveThePast) {
  for (const Decay decay : kDecays) {
    Shape shape = Shape::of_heads(2);
    shape.tokens = 140, shape.d = 24, shape.dv = 40, shape.decay = decay;
    SCOPED_TRACE(shape.text());
    const Case made(shape, 6);
    for (const int64_t t : {5, 64, 83}) {
      expect_causal(made, t, 3);
      expect_causal(made, t, std::numeric_limits<double>::quiet_NaN());
    }
  }
}

TEST_P(DeltaChunkOnIsa, ThreadsDoNotChangeABit) {
  const int before = num_threads();
  for (const Decay decay : kDecays) {
    for (const int64_t heads : {1, 4}) {  // of one head the columns are cut
      for (const int64_t tokens : {1, 130}) {
        Shape shape = Shape::of_heads(heads);
        shape.k_heads = (heads + 1) / 2, shape.tokens = tokens, shape.d = 64, shape.dv = 72, shape.decay = decay;
        Case one(shape, 7), two(shape, 7);
        set_num_threads(1);
        one.forward();
        one.backward();
        set_num_threads(2);
        two.forward();
        two.backward();
        const auto first = one.tensors(), second = two.tensors();
        for (size_t i = 0; i < first.size(); ++i)
          EXPECT_TRUE(first[i].second->same_bits(*second[i].second)) << first[i].first;
      }
    }
  }
  set_num_threads(before);
}

TEST_P(DeltaChunkOnIsa, PackedSequencesAreSeparateRuns) {
  for (const Decay decay : kDecays) {
    Shape shape = Shape::of_heads(2);
    shape.packed = {70, 0, 1, 29}, shape.tokens = 100, shape.d = 16, shape.dv = 16, shape.decay = decay;
    shape.initial_state = false;
    SCOPED_TRACE(shape.text());
    Case packed(shape, 8);
    packed.forward();
    shape.packed.clear();
    const Case whole(shape, 8);  // the same tensors, as one sequence
    int64_t begin = 0, s = 0;
    for (const int64_t length : {70, 0, 1, 29}) {
      Tensor zero(DType::f32, {1, 2, 16, 16});
      zero.fill([] { return 0.0; });
      Case alone = tokens_of(whole, begin, begin + length, zero);
      alone.forward();
      alone.out.each([&](int64_t b, int64_t h, int64_t n, int64_t c) {
        ASSERT_EQ(alone.out.at(b, h, n, c), packed.out.at(b, h, begin + n, c));
      });
      alone.final_state.each([&](int64_t, int64_t h, int64_t c, int64_t e) {
        ASSERT_EQ(alone.final_state.at(0, h, c, e), packed.final_state.at(s, h, c, e));
      });
      begin += length, ++s;
    }
  }
}

TEST_P(DeltaChunkOnIsa, AClosedGateForgetsExactly) {
  for (const Decay decay : {Decay::scalar}) {
    for (const double closed : {-1e4, -std::numeric_limits<double>::infinity()}) {
      Shape shape = Shape::of_heads(1);
      shape.tokens = 100, shape.d = 16, shape.dv = 8, shape.decay = decay, shape.strength = 0.2;
      Case made(shape, 9);
      const int64_t t = 37;
      for (int64_t c = 0; c < made.log_decay.size()[3]; ++c) made.log_decay.set(0, 0, t, c, closed);
      made.forward();
      Tensor zero(DType::f32, {1, 1, 16, 8});
      zero.fill([] { return 0.0; });
      Case after = tokens_of(made, t, 100, zero);
      after.forward();
      Tensor rest(DType::f32, after.out.size());
      rest.each([&](int64_t b, int64_t h, int64_t n, int64_t c) { rest.set(b, h, n, c, made.out.at(b, h, t + n, c)); });
      EXPECT_LE(relative_error(rest, after.out), kRecurrenceTolerance) << closed;
      made.backward();
      for (auto& [name, tensor] : made.gradients())
        tensor->each([&](int64_t b, int64_t h, int64_t n, int64_t c) {
          ASSERT_TRUE(std::isfinite(tensor->at(b, h, n, c))) << name << " " << closed;
        });
    }
  }
}

TEST_P(DeltaChunkOnIsa, SixteenBitTypesRoundOnce) {
  for (const DType type : {DType::bf16, DType::f16}) {
    const double unit = type == DType::bf16 ? std::exp2(-8) : std::exp2(-11);
    for (const Decay decay : kDecays) {
      for (const int64_t tokens : {1, 90}) {
        Shape shape = Shape::of_heads(2);
        shape.k_heads = 1, shape.tokens = tokens, shape.d = 24, shape.dv = 20, shape.decay = decay, shape.dtype = type;
        SCOPED_TRACE(shape.text());
        Case made(shape, 10), expected = made.in_double();
        expected.forward();
        expected.backward();
        made.forward();
        made.backward();
        EXPECT_LE(relative_error(made.out, expected.out), unit);
        EXPECT_LE(relative_error(made.final_state, expected.final_state), kRecurrenceTolerance);
        const auto got = made.gradients(), want = expected.gradients();
        for (size_t i = 0; i < got.size(); ++i)
          EXPECT_LE(relative_error(*got[i].second, *want[i].second), unit) << got[i].first;
      }
    }
  }
}

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

TEST(DeltaChunkReference, GradientsAreCentralDifferences) {
  for (const Decay decay : kDecays) {
    Shape shape = Shape::of_heads(2);
    shape.k_heads = 1, shape.gate_heads = decay == Decay::scalar ? 1 : 2;
    shape.batch = 2, shape.tokens = 7, shape.d = 3, shape.dv = 4, shape.decay = decay, shape.dtype = DType::f64;
    SCOPED_TRACE(shape.text());
    Case made(shape, 12);
    expect_central_differences(made);
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

TEST(DeltaChunk, OutputsThatNobodyAsksForMayBeLeftOut) {
  Shape shape = Shape::of_heads(2);
  shape.tokens = 70, shape.decay = Decay::scalar;
  Case made(shape, 14);
  made.backward();
  const Tensor d_v = made.d_v;
  DeltaChunkParams p = made.params();
  p.out.data = nullptr, p.final_state = {};
  DeltaChunkGrads g;
  g.d_out = made.d_out, g.d_v = made.d_v, g.d_final_state = made.d_final_state;
  made.d_v.fill([] { return 0.0; });
  delta_chunk_backward(p, g);
  EXPECT_TRUE(made.d_v.same_bits(d_v));
}

TEST(DeltaChunk, TheStateMayBeUpdatedInPlace) {
  for (const int64_t tokens : {1, 70}) {
    Shape shape = Shape::of_heads(2);
    shape.tokens = tokens, shape.decay = Decay::scalar;
    Case made(shape, 15);
    made.forward();
    const Tensor out = made.out;
    DeltaChunkParams p = made.params();
    p.final_state = p.initial_state;
    delta_chunk(p);
    EXPECT_TRUE(made.out.same_bits(out));
    EXPECT_TRUE(made.initial_state.same_bits(made.final_state));
  }
}

TEST(DeltaChunk, BadProblemsAreNamed) {
  Shape shape = Shape::of_heads(4);
  shape.tokens = 9, shape.decay = Decay::scalar;
  const Case made(shape, 16);
  const auto refuses = [&](const char* word, const auto& spoil) {
    DeltaChunkParams p = made.params();
    spoil(p);
    try {
      delta_chunk(p);
      ADD_FAILURE() << word << " was accepted";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
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
}  // namespace heed::testing
