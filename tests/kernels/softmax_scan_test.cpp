// The softmax scan: its reference against the formula and central differences, the kernel against the reference, and
// what every recurrence must hold.
#include "heed/kernels/softmax_scan.h"

#include <gtest/gtest.h>

#include <numeric>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "support/scan_case.h"

namespace heed::testing::softmax_scan_test {
namespace {

using namespace kernels;
using Shape = SoftmaxScanSetup;

TEST(SoftmaxScan, ReferenceIsSoftmaxOfEveryPrefix) {
  for (const bool initial : {false, true}) {
    Shape s;
    s.batch = 2, s.score_heads = 4, s.value_heads = 2, s.type = DType::f64, s.initial = initial;
    SoftmaxScanCase c(s, 3);
    reference::softmax_scan(c.params());
    c.out.each([&](int64_t b, int64_t h, int64_t t, int64_t d) {
      double sum = 0, weighted = 0;
      if (initial) {
        const double unit = std::exp(c.initial.at(b, h, 0, 0));
        sum = unit * c.initial.at(b, h, 0, 1), weighted = unit * c.initial.at(b, h, 0, d + 2);
      }
      for (int64_t j = 0; j <= t; ++j) {
        const double weight = std::exp(c.scores.at(b, h, j));
        sum += weight, weighted += weight * c.v.at(b, h / 2, j, d);
      }
      EXPECT_NEAR(c.out.at(b, h, t, d), weighted / sum, 1e-12);
      EXPECT_NEAR(c.lse.at(b, h, t), std::log(sum), 1e-12);
    });
  }
}

TEST(SoftmaxScan, ReferenceGradientsAreDifferences) {
  for (const auto& [score_heads, value_heads] : {std::pair<int64_t, int64_t>{2, 2}, {4, 2}, {1, 2}}) {
    Shape s;
    s.batch = 2, s.score_heads = score_heads, s.value_heads = value_heads, s.tokens = 6, s.type = DType::f64;
    s.initial = true;
    SoftmaxScanCase c(s, 5);
    reference::softmax_scan(c.params());
    reference::softmax_scan_backward(c.params(), c.grads());
    expect_differences(c, [&] { reference::softmax_scan(c.params()); });
  }
}

TEST(SoftmaxScan, PackedSequencesGradientsAreDifferences) {
  Shape s;
  s.tokens = 9, s.type = DType::f64, s.cu_seqlens = {0, 4, 4, 5, 9}, s.initial = true;
  SoftmaxScanCase c(s, 6);
  reference::softmax_scan(c.params());
  reference::softmax_scan_backward(c.params(), c.grads());
  expect_differences(c, [&] { reference::softmax_scan(c.params()); });
}

/// Of storage in the type, two roundings a number.
double rounding_of(DType type) {
  return type == DType::f16 ? 2 * std::ldexp(1, -11) : type == DType::bf16 ? 2 * std::ldexp(1, -8) : 0;
}

/// What the rounding of `out`, which the backward reads, can do to the gradients, relative to one rounding: the norms
/// of p_t sum_{i >= t} exp(lse_t - lse_i) |d_out_i| |out_i| over tokens, and over initial states.
struct OutputShare {
  double scores = 0, initial = 0;
};
OutputShare output_share(const SoftmaxScanCase& c) {
  OutputShare norms;
  for (int64_t sequence = 0; sequence < c.s.sequences(); ++sequence) {
    const bool packed = !c.s.cu_seqlens.empty();
    const int64_t b = packed ? 0 : sequence, begin = packed ? c.s.cu_seqlens[sequence] : 0,
                  end = packed ? c.s.cu_seqlens[sequence + 1] : c.s.tokens;
    for (int64_t h = 0; h < c.s.heads(); ++h) {
      double share = 0, lse = INFINITY;
      for (int64_t t = end - 1; t >= begin; --t) {
        const double behind = lse;
        lse = c.lse.at(b, h, t);
        if (lse == -INFINITY) break;  // nothing before has weight either
        double gradient = 0, output = 0;
        for (int64_t d = 0; d < c.s.width; ++d) {
          gradient += c.d_out.at(b, h, t, d) * c.d_out.at(b, h, t, d);
          output += c.out.at(b, h, t, d) * c.out.at(b, h, t, d);
        }
        share = std::sqrt(gradient * output) + std::exp(std::min(0.0, lse - behind)) * share;
        const double weight = std::exp(c.scores.at(b, h * c.s.score_heads / c.s.heads(), t) - lse);
        norms.scores += weight * weight * share * share;
      }
      if (!c.s.initial || begin == end || lse == -INFINITY) continue;
      // Of u, and of m through u.
      const double weight = std::exp(c.initial.at(sequence, h, 0, 0) - lse) * (1 + c.initial.at(sequence, h, 0, 1));
      norms.initial += weight * weight * share * share;
    }
  }
  return {std::sqrt(norms.scores), std::sqrt(norms.initial)};
}

/// Forward and backward of a case against the reference on the same inputs.
void expect_reference(SoftmaxScanCase& c) {
  SoftmaxScanCase want = c;
  reference::softmax_scan(want.params());
  reference::softmax_scan_backward(want.params(), want.grads());
  softmax_scan(c.params());
  softmax_scan_backward(c.params(), c.grads());
  EXPECT_LE(relative_error(c.out, want.out), 2e-5 + rounding_of(c.s.type));
  EXPECT_LE(relative_error(c.lse, want.lse), 2e-5);
  EXPECT_LE(relative_error(c.final, want.final), 2e-5);
  c.out.check_guards("out"), c.lse.check_guards("lse"), c.final.check_guards("final_state");
  const auto got = c.pairs(), wanted = want.pairs();
  const OutputShare shares = output_share(want);
  for (size_t i = 0; i < got.size(); ++i) {
    const double own = norm(*wanted[i].gradient), rounding = rounding_of(got[i].gradient->view().dtype);
    const double share = got[i].gradient == &c.d_scores ? shares.scores
                         : got[i].gradient == &c.d_v    ? 0
                                                        : shares.initial;
    const double error =
        own == 0 ? norm(*got[i].gradient) : own * relative_error(*got[i].gradient, *wanted[i].gradient);
    EXPECT_LE(error, (1e-4 + rounding) * own + rounding_of(c.s.type) * share) << got[i].name;
    got[i].gradient->check_guards(got[i].name);
  }
}

class SoftmaxScanOnEveryIsa : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(""); }
};
INSTANTIATE_TEST_SUITE_P(Isa, SoftmaxScanOnEveryIsa, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return info.param; });

TEST_P(SoftmaxScanOnEveryIsa, RandomCallsEqualTheReference) {
  const uint64_t first = 1000 * std::accumulate(GetParam().begin(), GetParam().end(), uint64_t{0});
  for (uint64_t seed = first; seed < first + 80; ++seed) {
    HEED_SEED(random, seed);
    const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
    const DType types[] = {DType::f32, DType::f32, DType::f16, DType::bf16};
    const Layout layouts[] = {Layout::dense, Layout::heads_last, Layout::sliced, Layout::reversed};
    const int64_t lengths[] = {0, 1, 63, 65, 100, 150}, widths[] = {1, 8, 16, 40, 64, 100};
    const int64_t chunks[] = {0, 0, 1, 7, 64, 100};
    const std::pair<int64_t, int64_t> heads[] = {{1, 1}, {2, 2}, {4, 2}, {2, 6}, {3, 1}};
    Shape s;
    s.batch = 1 + below(2), s.tokens = lengths[below(6)], s.width = widths[below(6)];
    std::tie(s.score_heads, s.value_heads) = heads[below(5)];
    s.initial = below(2) == 0, s.type = types[below(4)], s.layout = layouts[below(4)], s.chunk = chunks[below(6)];
    s.score_size = below(2) == 0 ? 1 : 8;
    if (below(3) == 0) {
      s.batch = 1;
      s.cu_seqlens = {0, s.tokens / 3, s.tokens / 3, s.tokens / 2, s.tokens};
    }
    SCOPED_TRACE(::testing::Message() << s);
    SoftmaxScanCase c(s, seed);
    expect_reference(c);
    if (HasFailure()) break;
  }
}

TEST_P(SoftmaxScanOnEveryIsa, ScoresOfHundredsStayFinite) {
  Shape s;
  s.tokens = 200, s.width = 24;
  for (const int64_t chunk : {0, 32}) {
    s.chunk = chunk;
    SoftmaxScanCase c(s, 4);
    c.scores.each(
        [&](int64_t b, int64_t h, int64_t t, int64_t d) { c.scores.set(b, h, t, d, t % 3 == 0 ? 100 : -100); });
    expect_reference(c);
    c.out.each([&](auto... i) { ASSERT_TRUE(std::isfinite(c.out.at(i...))); });
  }
}

TEST(SoftmaxScan, ChunksOfAnySizeAreOneScan) {
  Shape s;
  s.tokens = 150, s.width = 20, s.initial = true;
  s.chunk = s.tokens;
  SoftmaxScanCase whole(s, 21);
  softmax_scan(whole.params());
  softmax_scan_backward(whole.params(), whole.grads());
  for (const int64_t chunk : {1, 7, 16, 64, 149, 1000}) {
    s.chunk = chunk;
    SoftmaxScanCase cut(s, 21);
    softmax_scan(cut.params());
    softmax_scan_backward(cut.params(), cut.grads());
    EXPECT_LE(relative_error(cut.out, whole.out), 1e-6) << chunk;
    EXPECT_LE(relative_error(cut.final, whole.final), 1e-6) << chunk;
    const auto got = cut.pairs(), want = whole.pairs();
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_LE(relative_error(*got[i].gradient, *want[i].gradient), 2e-5) << chunk << " " << got[i].name;
  }
}

TEST(SoftmaxScan, TheFutureChangesNothingAndNanStays) {
  for (const int64_t chunk : {0, 16}) {
    Shape s;
    s.tokens = 90, s.chunk = chunk;
    SoftmaxScanCase c(s, 9), changed(s, 9);
    softmax_scan(c.params());
    const int64_t from = 41;
    changed.scores.set(0, 0, from, 0, NAN), changed.v.set(0, 1, from, 2, INFINITY);
    softmax_scan(changed.params());
    c.out.each([&](int64_t b, int64_t h, int64_t t, int64_t d) {
      const double is = changed.out.at(b, h, t, d);
      if (t < from || (h == 1 && d != 2)) {
        ASSERT_EQ(c.out.at(b, h, t, d), is);
      } else {
        ASSERT_TRUE(h == 0 ? std::isnan(is) : std::isinf(is)) << h << " " << t << " " << d;
      }
    });
    EXPECT_TRUE(std::isnan(changed.lse.at(0, 0, 89)));
  }
}

TEST(SoftmaxScan, PrefixesWithoutWeight) {
  Shape s;
  s.tokens = 70, s.width = 16;
  for (const int64_t chunk : {0, 8}) {
    s.chunk = chunk;
    SoftmaxScanCase c(s, 5);
    for (int64_t t = 0; t < 70; ++t) c.scores.set(0, 1, t, 0, -INFINITY);
    for (int64_t t = 0; t < 30; ++t) c.scores.set(0, 0, t, 0, -INFINITY);
    expect_reference(c);
    EXPECT_EQ(c.out.at(0, 0, 29, 3), 0);
    EXPECT_EQ(c.lse.at(0, 1, 69), -INFINITY);
    EXPECT_NEAR(c.out.at(0, 0, 30, 3), c.v.at(0, 0, 30, 3), 1e-6);
    EXPECT_EQ(c.d_v.at(0, 1, 5, 0), 0);
  }
}

TEST(SoftmaxScan, ThreadsChangeNothing) {
  const int threads = num_threads();
  for (const int64_t chunk : {0, 50}) {
    Shape s;
    s.batch = 2, s.score_heads = 6, s.value_heads = 3, s.tokens = 300, s.width = 64, s.chunk = chunk;
    SoftmaxScanCase one(s, 30), many(s, 30);
    set_num_threads(1);
    softmax_scan(one.params());
    softmax_scan_backward(one.params(), one.grads());
    set_num_threads(7);
    softmax_scan(many.params());
    softmax_scan_backward(many.params(), many.grads());
    set_num_threads(threads);
    EXPECT_TRUE(one.out.same_bits(many.out) && one.lse.same_bits(many.lse) && one.final.same_bits(many.final));
    EXPECT_TRUE(one.d_v.same_bits(many.d_v) && one.d_scores.same_bits(many.d_scores));
  }
}

TEST(SoftmaxScan, PackedSequencesAreSeparateRuns) {
  Shape s;
  s.tokens = 60, s.cu_seqlens = {0, 25, 25, 60}, s.initial = true;
  SoftmaxScanCase packed(s, 12);
  softmax_scan(packed.params());
  softmax_scan_backward(packed.params(), packed.grads());
  for (int64_t sequence = 0; sequence < 3; ++sequence) {
    const int64_t begin = s.cu_seqlens[sequence], length = s.cu_seqlens[sequence + 1] - begin;
    Shape alone_shape = s;
    alone_shape.tokens = length, alone_shape.cu_seqlens = {};
    SoftmaxScanCase alone(alone_shape, 1);
    const auto copy = [](const Tensor& from, Tensor& to, int64_t b0, int64_t n0) {
      to.each([&](int64_t b, int64_t h, int64_t n, int64_t d) { to.set(b, h, n, d, from.at(b + b0, h, n + n0, d)); });
    };
    for (const auto& [from, to] : {std::pair{&packed.scores, &alone.scores},
                                   {&packed.v, &alone.v},
                                   {&packed.d_out, &alone.d_out},
                                   {&packed.d_lse, &alone.d_lse}})
      copy(*from, *to, 0, begin);
    copy(packed.initial, alone.initial, sequence, 0), copy(packed.d_final, alone.d_final, sequence, 0);
    softmax_scan(alone.params());
    softmax_scan_backward(alone.params(), alone.grads());
    alone.out.each([&](int64_t b, int64_t h, int64_t t, int64_t d) {
      ASSERT_EQ(alone.out.at(b, h, t, d), packed.out.at(b, h, begin + t, d));
      ASSERT_EQ(alone.d_v.at(b, h, t, d), packed.d_v.at(b, h, begin + t, d));
    });
    alone.final.each([&](int64_t, int64_t h, int64_t, int64_t d) {
      ASSERT_EQ(alone.final.at(0, h, 0, d), packed.final.at(sequence, h, 0, d));
      ASSERT_EQ(alone.d_initial.at(0, h, 0, d), packed.d_initial.at(sequence, h, 0, d));
    });
  }
}

TEST(SoftmaxScan, BadInputIsNamed) {
  Shape s;
  s.score_heads = 4, s.initial = true;
  SoftmaxScanCase c(s, 1);
  const auto message = [&](const auto& spoil) -> std::string {
    SoftmaxScanParams p = c.params();
    spoil(p);
    try {
      softmax_scan(p);
    } catch (const Error& e) {
      return e.what();
    }
    return "nothing";
  };
  EXPECT_EQ(message([](auto&) {}), "nothing");
  EXPECT_EQ(message([](auto& p) { p.scores.size[1] = 3; }),
            "softmax_scan: 3 heads of scores and 2 of v; one a multiple of the other is accepted");
  EXPECT_EQ(message([](auto& p) { p.scores.size[2] = 19; }),
            "softmax_scan: scores is [1, 4, 19, 1]; [1, 4, 20, 1] is accepted");
  EXPECT_EQ(message([](auto& p) { p.out.dtype = DType::f16; }), "softmax_scan: out is float16; float32 is accepted");
  EXPECT_EQ(message([](auto& p) { p.lse = {}; }), "softmax_scan: lse is [0, 0, 0, 0]; [1, 4, 20, 1] is accepted");
  EXPECT_EQ(message([](auto& p) { p.initial_state.size[3] = 5; }),
            "softmax_scan: initial_state is [1, 4, 1, 5]; [1, 4, 1, 7] is accepted");
  EXPECT_EQ(message([](auto& p) { p.chunk = -1; }),
            "softmax_scan: a chunk of -1 tokens; at least 1, or 0 for a choice by shapes, is accepted");
  const std::vector<int64_t> bounds{0, 12, 3, 20};
  EXPECT_EQ(message([&](auto& p) { p.cu_seqlens = bounds.data(), p.num_sequences = 3; }),
            "softmax_scan: cu_seqlens fall from 12 to 3 at sequence 1");
}

}  // namespace
}  // namespace heed::testing::softmax_scan_test
