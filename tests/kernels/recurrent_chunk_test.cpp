// What the chunked recurrences have in common, each against its step recurrence and central differences.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "support/recurrence_case.h"

namespace heed::testing::recurrent_chunk_test {
namespace {

using namespace kernels;
using Shape = RecurrenceShape;
using Decay = Shape::Decay;

template <class Case>
class RecurrentChunk : public ::testing::Test {
 protected:
  static std::vector<Decay> decays() {
    std::vector<Decay> all = gated();
    all.insert(all.begin(), Decay::none);
    return all;
  }
  /// Decays that a token may close. DeltaNet's are of whole heads.
  static std::vector<Decay> gated() {
    auto all = closing();
    all.insert(all.begin(), Decay::constant);
    return all;
  }
  static std::vector<Decay> closing() {
    return Case::kDelta ? std::vector{Decay::scalar} : std::vector{Decay::scalar, Decay::channel};
  }
  template <class Body>
  static void on_each_isa(const Body& body) {
    for (const auto& isa : supported_isas()) {
      SCOPED_TRACE(isa);
      set_isa(isa);
      body();
    }
    set_isa("");
  }
};

struct KernelNames {
  template <class Case>
  static std::string GetName(int) {
    return Case::kDelta ? "delta" : "linear";
  }
};
using Kernels = ::testing::Types<LinearChunkCase, DeltaChunkCase>;
TYPED_TEST_SUITE(RecurrentChunk, Kernels, KernelNames);

TYPED_TEST(RecurrentChunk, MatchesReferenceOverRandomShapes) {
  this->on_each_isa([&] {
    const auto decays = this->decays();
    HEED_SEED(random, 20231211);
    const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
    const Layout layouts[] = {Layout::dense, Layout::heads_last, Layout::sliced, Layout::reversed};
    for (int round = 0; round < 32; ++round) {
      Shape shape;
      const int64_t group = 1 + below(3);
      shape.heads = 2 * group;
      for (int64_t* heads : {&shape.q_heads, &shape.k_heads, &shape.v_heads, &shape.gate_heads})
        *heads = below(2) == 0 ? shape.heads : below(2) == 0 ? 2 : 1;
      shape.batch = 1 + below(2), shape.tokens = below(200), shape.d = 1 + below(40), shape.dv = 1 + below(70);
      shape.decay = decays[static_cast<size_t>(round) % decays.size()], shape.layout = layouts[below(4)];
      shape.strength = std::pow(10.0, below(3) - 1);
      shape.initial_state = below(2) == 0;
      shape.chunk = 1 + below(80), shape.segment = below(2) * (1 + below(90));
      if (below(3) == 0) {
        shape.batch = 1;
        shape.packed = {below(90), 0, 1, below(90), 1, 17};
        shape.tokens = 0;
        for (int64_t length : shape.packed) shape.tokens += length;
      }
      SCOPED_TRACE(shape.text());
      TypeParam made(shape, random());
      expect_matches_reference(made);
    }
  });
}

TYPED_TEST(RecurrentChunk, ChunksOfAnySizeAgree) {
  this->on_each_isa([&] {
    for (const Decay decay : this->decays()) {
      for (const int64_t chunk : {1, 7, 16, 64, 150}) {
        Shape shape = Shape::of_heads(2);
        shape.tokens = 150, shape.d = 20, shape.dv = 33, shape.decay = decay, shape.chunk = chunk;
        SCOPED_TRACE(shape.text());
        TypeParam made(shape, 3);
        expect_matches_reference(made);
      }
    }
  });
}

TYPED_TEST(RecurrentChunk, GatesOfAnyStrengthMatchReference) {
  this->on_each_isa([&] {
    for (const Decay decay : this->gated()) {
      for (const double strength : {0.1, 1.0, 10.0}) {
        for (const int64_t tokens : {63, 1000}) {
          Shape shape = Shape::of_heads(1);
          shape.tokens = tokens, shape.d = 16, shape.dv = 24, shape.decay = decay, shape.strength = strength;
          SCOPED_TRACE(shape.text());
          TypeParam made(shape, 4);
          expect_matches_reference(made);
        }
      }
    }
  });
}

TYPED_TEST(RecurrentChunk, StepsAndPartsEqualTheWhole) {
  this->on_each_isa([&] {
    for (const Decay decay : this->decays()) {
      Shape shape = Shape::of_heads(2);
      shape.batch = 2, shape.tokens = 75, shape.d = 19, shape.dv = 21, shape.decay = decay;
      SCOPED_TRACE(shape.text());
      TypeParam whole(shape, 5);
      expect_cuts_agree(whole, {40, 75});
      expect_cuts_agree(whole, {1, 2, 3, 70, 71, 74, 75});
    }
  });
}

TYPED_TEST(RecurrentChunk, TheFutureDoesNotMoveThePast) {
  this->on_each_isa([&] {
    for (const Decay decay : this->decays()) {
      Shape shape = Shape::of_heads(2);
      shape.tokens = 140, shape.d = 24, shape.dv = 40, shape.decay = decay;
      SCOPED_TRACE(shape.text());
      const TypeParam made(shape, 6);
      for (const int64_t t : {5, 64, 83}) {
        expect_causal(made, t, 3);
        expect_causal(made, t, std::numeric_limits<double>::quiet_NaN());
      }
    }
  });
}

TYPED_TEST(RecurrentChunk, ThreadsDoNotChangeABit) {
  this->on_each_isa([&] {
    const int before = num_threads();
    for (const Decay decay : this->decays()) {
      for (const int64_t heads : {1, 4}) {  // of one head the columns are cut
        for (const int64_t tokens : {1, 130}) {
          Shape shape = Shape::of_heads(heads);
          shape.k_heads = (heads + 1) / 2, shape.tokens = tokens, shape.d = 64, shape.dv = 72, shape.decay = decay;
          TypeParam one(shape, 7), two(shape, 7);
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
  });
}

TYPED_TEST(RecurrentChunk, PackedSequencesAreSeparateRuns) {
  this->on_each_isa([&] {
    for (const Decay decay : this->decays()) {
      Shape shape = Shape::of_heads(2);
      shape.packed = {70, 0, 1, 29}, shape.tokens = 100, shape.d = 16, shape.dv = 16, shape.decay = decay;
      shape.initial_state = false;
      SCOPED_TRACE(shape.text());
      TypeParam packed(shape, 8);
      packed.forward();
      shape.packed.clear();
      const TypeParam whole(shape, 8);  // the same tensors, as one sequence
      int64_t begin = 0, s = 0;
      for (const int64_t length : {70, 0, 1, 29}) {
        Tensor zero(DType::f32, {1, 2, 16, 16});
        zero.fill([] { return 0.0; });
        TypeParam alone = tokens_of(whole, begin, begin + length, zero);
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
  });
}

TYPED_TEST(RecurrentChunk, AClosedGateForgetsExactly) {
  this->on_each_isa([&] {
    for (const Decay decay : this->closing()) {
      for (const double closed : {-1e4, -std::numeric_limits<double>::infinity()}) {
        Shape shape = Shape::of_heads(1);
        shape.tokens = 100, shape.d = 16, shape.dv = 8, shape.decay = decay, shape.strength = 0.2;
        TypeParam made(shape, 9);
        const int64_t t = 37;
        for (int64_t c = 0; c < made.log_decay.size()[3]; ++c) made.log_decay.set(0, 0, t, c, closed);
        made.forward();
        Tensor zero(DType::f32, {1, 1, 16, 8});
        zero.fill([] { return 0.0; });
        TypeParam after = tokens_of(made, t, 100, zero);
        after.forward();
        Tensor rest(DType::f32, after.out.size());
        rest.each(
            [&](int64_t b, int64_t h, int64_t n, int64_t c) { rest.set(b, h, n, c, made.out.at(b, h, t + n, c)); });
        EXPECT_LE(relative_error(rest, after.out), kRecurrenceTolerance) << closed;
        made.backward();
        for (auto& [name, tensor] : made.gradients())
          tensor->each([&](int64_t b, int64_t h, int64_t n, int64_t c) {
            ASSERT_TRUE(std::isfinite(tensor->at(b, h, n, c))) << name << " " << closed;
          });
      }
    }
  });
}

TYPED_TEST(RecurrentChunk, SixteenBitTypesRoundOnce) {
  this->on_each_isa([&] {
    for (const DType type : {DType::bf16, DType::f16}) {
      const double unit = type == DType::bf16 ? std::exp2(-8) : std::exp2(-11);
      for (const Decay decay : this->decays()) {
        for (const int64_t tokens : {1, 90}) {
          Shape shape = Shape::of_heads(2);
          shape.k_heads = 1, shape.tokens = tokens, shape.d = 24, shape.dv = 20, shape.decay = decay,
          shape.dtype = type;
          SCOPED_TRACE(shape.text());
          TypeParam made(shape, 10), expected = made.in_double();
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
  });
}

TYPED_TEST(RecurrentChunk, GradientsAreCentralDifferences) {
  for (const Decay decay : this->decays()) {
    Shape shape = Shape::of_heads(2);
    shape.k_heads = 1, shape.gate_heads = decay == Decay::scalar ? 1 : 2;
    shape.batch = 2, shape.tokens = 7, shape.d = 3, shape.dv = 4, shape.decay = decay, shape.dtype = DType::f64;
    SCOPED_TRACE(shape.text());
    TypeParam made(shape, 12);
    expect_central_differences(made);
  }
}

TYPED_TEST(RecurrentChunk, OutputsThatNobodyAsksForMayBeLeftOut) {
  Shape shape = Shape::of_heads(2);
  shape.tokens = 70, shape.decay = Decay::scalar;
  TypeParam made(shape, 14);
  made.backward();
  const Tensor d_v = made.d_v;
  auto p = made.params();
  p.out.data = nullptr, p.final_state = {};
  decltype(made.grads()) g;
  g.d_out = made.d_out, g.d_v = made.d_v, g.d_final_state = made.d_final_state;
  made.d_v.fill([] { return 0.0; });
  TypeParam::run_backward(p, g);
  EXPECT_TRUE(made.d_v.same_bits(d_v));
}

TYPED_TEST(RecurrentChunk, TheStateMayBeUpdatedInPlace) {
  for (const int64_t tokens : {1, 70}) {
    Shape shape = Shape::of_heads(2);
    shape.tokens = tokens, shape.decay = Decay::scalar;
    TypeParam made(shape, 15);
    made.forward();
    const Tensor out = made.out;
    auto p = made.params();
    p.final_state = p.initial_state;
    TypeParam::run(p);
    EXPECT_TRUE(made.out.same_bits(out));
    EXPECT_TRUE(made.initial_state.same_bits(made.final_state));
  }
}

}  // namespace
}  // namespace heed::testing::recurrent_chunk_test
