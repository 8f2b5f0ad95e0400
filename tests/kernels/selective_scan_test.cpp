// The selective scan: its reference against the formula and central differences, the kernel against the reference, and
// what every recurrence must hold.
#include "heed/kernels/selective_scan.h"

#include <gtest/gtest.h>

#include <complex>
#include <numeric>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "support/scan_case.h"

namespace heed::testing::selective_scan_test {
namespace {

using namespace kernels;
using Shape = SelectiveScanSetup;

/// y_t = C_t sum_j exp(A (Delta_{j+1} + ... + Delta_t)) Delta_j x_j B_j, without any recurrence.
double formula(const SelectiveScanCase& c, int64_t b, int64_t t, int64_t d) {
  const Shape& s = c.s;
  const auto number = [&](const Tensor& from, int64_t i, int64_t h, int64_t row, int64_t n) -> std::complex<double> {
    if (!s.complex) return from.at(i, h, row, n);
    return {from.at(i, h, row, 2 * n), from.at(i, h, row, 2 * n + 1)};
  };
  const auto step = [&](int64_t i) {
    const double raw = c.delta.at(b, 0, i, d) + (s.bias ? c.delta_bias.at(0, 0, 0, d) : 0);
    return s.softplus ? std::log1p(std::exp(raw)) : raw;
  };
  std::complex<double> sum = 0;
  for (int64_t n = 0; n < s.states; ++n) {
    const auto a = number(c.a, 0, 0, d, n), row = number(c.c, b, d * s.c_groups / s.channels, t, n);
    double ahead = 0;
    for (int64_t j = t; j >= 0; ahead += step(j), --j) {
      sum +=
          row * std::exp(a * ahead) * step(j) * c.x.at(b, 0, j, d) * number(c.b, b, d * s.b_groups / s.channels, j, n);
    }
    if (s.initial) sum += row * std::exp(a * ahead) * number(c.initial, b, 0, d, n);
  }
  double y = (s.complex ? 2 : 1) * sum.real();
  if (s.skip) y += c.skip.at(0, 0, 0, d) * c.x.at(b, 0, t, d);
  if (s.gate) y *= c.z.at(b, 0, t, d) / (1 + std::exp(-c.z.at(b, 0, t, d)));
  return y;
}

Shape everything(bool complex) {
  Shape s;
  s.batch = 2, s.tokens = 7, s.channels = 4, s.states = 2, s.b_groups = 2, s.complex = complex, s.softplus = true;
  s.skip = s.gate = s.bias = s.initial = true;
  return s;
}

TEST(SelectiveScan, ReferenceIsTheFormula) {
  for (const bool complex : {false, true}) {
    Shape s = everything(complex);
    s.type = DType::f64;
    SelectiveScanCase c(s, 3);
    reference::selective_scan(c.params());
    c.out.each([&](int64_t b, int64_t, int64_t t, int64_t d) {
      EXPECT_NEAR(c.out.at(b, 0, t, d), formula(c, b, t, d), 1e-12) << b << " " << t << " " << d;
    });
  }
}

TEST(SelectiveScan, ReferenceGradientsAreDifferences) {
  for (const bool complex : {false, true}) {
    for (const bool softplus : {false, true}) {
      Shape s = everything(complex);
      s.type = DType::f64, s.softplus = softplus, s.delta_size = 1;
      SelectiveScanCase c(s, 5);
      reference::selective_scan_backward(c.params(), c.grads());
      expect_differences(c, [&] { reference::selective_scan(c.params()); });
    }
  }
}

TEST(SelectiveScan, PackedSequencesGradientsAreDifferences) {
  Shape s = everything(false);
  s.type = DType::f64, s.batch = 1, s.tokens = 9, s.cu_seqlens = {0, 4, 4, 5, 9};
  SelectiveScanCase c(s, 6);
  reference::selective_scan_backward(c.params(), c.grads());
  expect_differences(c, [&] { reference::selective_scan(c.params()); });
}

/// Relative error of float32 sums of products and exponentials against the reference, and of storage in 16 bits.
double tolerance_of(DType type, bool gradient) {
  const double accumulated = gradient ? 1e-4 : 2e-5;
  if (type == DType::f16) return accumulated + 2 * std::ldexp(1, -11);
  if (type == DType::bf16) return accumulated + 2 * std::ldexp(1, -8);
  return accumulated;
}

/// Forward and backward of a case against the reference on the same inputs.
void expect_reference(SelectiveScanCase& c) {
  SelectiveScanCase want = c;
  reference::selective_scan(want.params());
  reference::selective_scan_backward(want.params(), want.grads());
  selective_scan(c.params());
  selective_scan_backward(c.params(), c.grads());
  EXPECT_LE(relative_error(c.out, want.out), tolerance_of(c.s.type, false));
  EXPECT_LE(relative_error(c.final, want.final), tolerance_of(DType::f32, false));
  c.out.check_guards("out"), c.final.check_guards("final_state");
  const auto got = c.pairs(), wanted = want.pairs();
  for (size_t i = 0; i < got.size(); ++i) {
    // What a channel's bias sums over tokens may cancel; its error is relative to what is summed.
    const double summed = got[i].gradient == &c.d_bias ? norm(want.d_delta) : 0, own = norm(*wanted[i].gradient);
    const double error =
        own == 0 ? norm(*got[i].gradient) : own * relative_error(*got[i].gradient, *wanted[i].gradient);
    EXPECT_LE(error, tolerance_of(got[i].gradient->view().dtype, true) * (own + summed)) << got[i].name;
    got[i].gradient->check_guards(got[i].name);
  }
}

class SelectiveScanOnEveryIsa : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(""); }
};
INSTANTIATE_TEST_SUITE_P(Isa, SelectiveScanOnEveryIsa, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return info.param; });

TEST_P(SelectiveScanOnEveryIsa, RandomCallsEqualTheReference) {
  const uint64_t first = 1000 * std::accumulate(GetParam().begin(), GetParam().end(), uint64_t{0});
  for (uint64_t seed = first; seed < first + 60; ++seed) {
    HEED_SEED(random, seed);
    const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
    const DType types[] = {DType::f32, DType::f32, DType::f16, DType::bf16};
    const Layout layouts[] = {Layout::dense, Layout::heads_last, Layout::sliced, Layout::reversed};
    const int64_t lengths[] = {0, 1, 31, 33, 63, 100}, channels[] = {1, 6, 16, 36, 80, 132};
    const int64_t chunks[] = {0, 0, 1, 7, 32, 64};
    Shape s;
    s.batch = 1 + below(2), s.tokens = lengths[below(6)], s.channels = channels[below(6)], s.states = 1 + below(18);
    s.complex = below(3) == 0, s.softplus = below(2) == 0, s.skip = below(2) == 0, s.gate = below(2) == 0;
    s.bias = below(2) == 0, s.initial = below(2) == 0;
    const int64_t groups[] = {1, 2, s.channels};
    s.b_groups = groups[s.channels % 2 == 0 ? below(3) : 0], s.c_groups = groups[s.channels % 2 == 0 ? below(3) : 0];
    s.type = types[below(4)], s.layout = layouts[below(4)], s.chunk = chunks[below(6)];
    if (below(3) == 0) {
      s.batch = 1;
      s.cu_seqlens = {0, s.tokens / 3, s.tokens / 3, s.tokens / 2, s.tokens};
    }
    SCOPED_TRACE(::testing::Message() << s);
    SelectiveScanCase c(s, seed);
    expect_reference(c);
    if (HasFailure()) break;
  }
}

TEST_P(SelectiveScanOnEveryIsa, StepsFromTinyToLarge) {
  for (const bool complex : {false, true}) {
    for (const double size : {1e-4, 0.1, 1.0, 10.0}) {
      Shape s = everything(complex);
      s.tokens = 70, s.channels = 20, s.b_groups = 1, s.states = 5, s.softplus = false, s.bias = false;
      s.delta_size = size;
      SCOPED_TRACE(::testing::Message() << s << " delta " << size);
      SelectiveScanCase c(s, 11);
      expect_reference(c);
    }
  }
}

// Decays of almost 1 multiply up over thousands of tokens: their errors must not all point the same way.
TEST_P(SelectiveScanOnEveryIsa, LongMemoriesKeepTheirPrecision) {
  Shape s;
  s.tokens = 20000, s.channels = 3, s.states = 2, s.delta_size = 0.05;
  SelectiveScanCase c(s, 14);
  for (int64_t d = 0; d < 3; ++d)
    for (int64_t n = 0; n < 2; ++n) c.a.set(0, 0, d, n, -1e-4 * static_cast<double>(1 + d + n));
  expect_reference(c);
}

TEST(SelectiveScan, ChunksOfAnySizeAreOneScan) {
  for (const bool complex : {false, true}) {
    Shape s = everything(complex);
    s.tokens = 150, s.channels = 24, s.states = 6;
    SelectiveScanCase whole(s, 21);
    s.chunk = s.tokens;
    selective_scan(whole.params());
    selective_scan_backward(whole.params(), whole.grads());
    // Decays of many tokens are products here and the exponential of a sum there.
    for (const int64_t chunk : {1, 7, 16, 64, 149, 1000}) {
      s.chunk = chunk;
      SelectiveScanCase cut(s, 21);
      selective_scan(cut.params());
      selective_scan_backward(cut.params(), cut.grads());
      EXPECT_LE(relative_error(cut.out, whole.out), 2e-5) << chunk;
      EXPECT_LE(relative_error(cut.final, whole.final), 2e-5) << chunk;
      const auto got = cut.pairs(), want = whole.pairs();
      for (size_t i = 0; i < got.size(); ++i)
        EXPECT_LE(relative_error(*got[i].gradient, *want[i].gradient), 1e-4) << chunk << " " << got[i].name;
    }
  }
}

TEST(SelectiveScan, HalvesAndStepsWithACarriedStateAreOneScan) {
  Shape s = everything(false);
  s.tokens = 40, s.channels = 33, s.b_groups = 1, s.states = 16;
  SelectiveScanCase c(s, 8);
  selective_scan(c.params());
  SelectiveScanCase parts(s, 8);
  const auto tokens = [](AnyView view, int64_t begin, int64_t count) {
    view.data = static_cast<char*>(view.data) + begin * view.stride[2] * static_cast<int64_t>(size_of(view.dtype));
    view.size[2] = count;
    return view;
  };
  int64_t begin = 0;
  for (const int64_t count : {17, 20, 1, 1, 1}) {
    auto p = parts.params();
    for (AnyView* view : {&p.x, &p.delta, &p.b, &p.c, &p.z, &p.out}) *view = tokens(*view, begin, count);
    // The state is carried in place.
    if (begin > 0) p.initial_state = p.final_state;
    selective_scan(p);
    begin += count;
  }
  EXPECT_LE(relative_error(parts.out, c.out), 1e-6);
  EXPECT_LE(relative_error(parts.final, c.final), 1e-6);
}

TEST(SelectiveScan, TheFutureChangesNothing) {
  for (const int64_t chunk : {0, 16}) {
    Shape s = everything(false);
    s.tokens = 90, s.chunk = chunk;
    SelectiveScanCase c(s, 9), changed(s, 9);
    selective_scan(c.params());
    const int64_t from = 41;
    changed.x.set(1, 0, from, 2, 5.0), changed.delta.set(0, 0, from, 1, NAN), changed.c.set(0, 0, from, 0, 3.0);
    selective_scan(changed.params());
    c.out.each([&](int64_t b, int64_t h, int64_t t, int64_t d) {
      if (t < from) {
        ASSERT_EQ(c.out.at(b, h, t, d), changed.out.at(b, h, t, d));
      }
    });
    EXPECT_TRUE(std::isnan(changed.out.at(0, 0, 89, 1)));
    EXPECT_EQ(c.out.at(0, 0, 89, 0), changed.out.at(0, 0, 89, 0));
  }
}

TEST(SelectiveScan, PackedSequencesAreSeparateRuns) {
  Shape s = everything(false);
  s.batch = 1, s.tokens = 60, s.cu_seqlens = {0, 25, 25, 60};
  SelectiveScanCase packed(s, 12);
  selective_scan(packed.params());
  selective_scan_backward(packed.params(), packed.grads());
  double d_a = 0, d_a_packed = 0;
  packed.d_a.each([&](auto... i) { d_a_packed += packed.d_a.at(i...); });
  for (int64_t sequence = 0; sequence < 3; ++sequence) {
    const int64_t begin = s.cu_seqlens[sequence], length = s.cu_seqlens[sequence + 1] - begin;
    Shape alone_shape = s;
    alone_shape.tokens = length, alone_shape.cu_seqlens = {};
    SelectiveScanCase alone(alone_shape, 1);
    const auto copy = [](const Tensor& from, Tensor& to, int64_t row0, int64_t n0) {
      to.each([&](int64_t b, int64_t h, int64_t n, int64_t d) { to.set(b, h, n, d, from.at(b + row0, h, n + n0, d)); });
    };
    for (const auto& [from, to] : {std::pair{&packed.x, &alone.x},
                                   {&packed.delta, &alone.delta},
                                   {&packed.b, &alone.b},
                                   {&packed.c, &alone.c},
                                   {&packed.z, &alone.z},
                                   {&packed.d_out, &alone.d_out}})
      copy(*from, *to, 0, begin);
    for (const auto& [from, to] :
         {std::pair{&packed.a, &alone.a}, {&packed.skip, &alone.skip}, {&packed.delta_bias, &alone.delta_bias}})
      copy(*from, *to, 0, 0);
    copy(packed.initial, alone.initial, sequence, 0), copy(packed.d_final, alone.d_final, sequence, 0);
    selective_scan(alone.params());
    selective_scan_backward(alone.params(), alone.grads());
    alone.out.each([&](int64_t b, int64_t h, int64_t t, int64_t d) {
      ASSERT_EQ(alone.out.at(b, h, t, d), packed.out.at(b, h, begin + t, d));
      ASSERT_EQ(alone.d_x.at(b, h, t, d), packed.d_x.at(b, h, begin + t, d));
    });
    alone.final.each([&](int64_t, int64_t, int64_t d, int64_t n) {
      ASSERT_EQ(alone.final.at(0, 0, d, n), packed.final.at(sequence, 0, d, n));
      ASSERT_EQ(alone.d_initial.at(0, 0, d, n), packed.d_initial.at(sequence, 0, d, n));
    });
    alone.d_a.each([&](auto... i) { d_a += alone.d_a.at(i...); });
  }
  EXPECT_NEAR(d_a, d_a_packed, 1e-4 * std::fabs(d_a_packed));
}

TEST(SelectiveScan, ThreadsChangeNothing) {
  const int threads = num_threads();
  for (const int64_t chunk : {0, 50}) {
    Shape s = everything(false);
    s.tokens = 300, s.channels = 160, s.states = 16, s.chunk = chunk;
    SelectiveScanCase one(s, 30), many(s, 30);
    set_num_threads(1);
    selective_scan(one.params());
    selective_scan_backward(one.params(), one.grads());
    set_num_threads(7);
    selective_scan(many.params());
    selective_scan_backward(many.params(), many.grads());
    set_num_threads(threads);
    EXPECT_TRUE(one.out.same_bits(many.out));
    const auto a = one.pairs(), b = many.pairs();
    for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(a[i].gradient->same_bits(*b[i].gradient)) << a[i].name;
  }
}

TEST(SelectiveScan, GradientsAreComputedOnlyWhereAsked) {
  Shape s = everything(true);
  s.tokens = 40;
  SelectiveScanCase all(s, 2), some(s, 2);
  selective_scan_backward(all.params(), all.grads());
  auto g = some.grads();
  g.d_a = g.d_b = g.d_z = g.d_initial_state = {};
  selective_scan_backward(some.params(), g);
  EXPECT_TRUE(all.d_x.same_bits(some.d_x));
  EXPECT_TRUE(all.d_c.same_bits(some.d_c));
  EXPECT_TRUE(all.d_bias.same_bits(some.d_bias));
  // Without an output gradient only the final state speaks.
  g = all.grads();
  g.d_out = {};
  SelectiveScanCase want = all;
  reference::selective_scan_backward(want.params(), [&] {
    auto of = want.grads();
    of.d_out = {};
    return of;
  }());
  selective_scan_backward(all.params(), g);
  EXPECT_LE(relative_error(all.d_x, want.d_x), 1e-4);
  EXPECT_LE(relative_error(all.d_z, want.d_z), 0);
}

TEST(SelectiveScan, BadInputIsNamed) {
  Shape s = everything(false);
  SelectiveScanCase c(s, 1);
  const auto message = [&](const auto& spoil) -> std::string {
    SelectiveScanParams p = c.params();
    spoil(p);
    try {
      selective_scan(p);
    } catch (const Error& e) {
      return e.what();
    }
    return "nothing";
  };
  EXPECT_EQ(message([](auto&) {}), "nothing");
  EXPECT_EQ(message([](auto& p) { p.delta.size[2] = 6; }),
            "selective_scan: delta is [2, 1, 6, 4]; [2, 1, 7, 4] is accepted");
  EXPECT_EQ(message([](auto& p) { p.b.size[1] = 3; }),
            "selective_scan: B has 3 groups for 4 channels; a divisor is accepted");
  EXPECT_EQ(message([](auto& p) { p.c.size[3] = 5; }), "selective_scan: C is [2, 1, 7, 5]; [2, 1, 7, 2] is accepted");
  EXPECT_EQ(message([](auto& p) { p.a.dtype = DType::bf16; }), "selective_scan: A is bfloat16; float32 is accepted");
  EXPECT_EQ(message([](auto& p) { p.z.data = nullptr; }), "selective_scan: z has no data");
  EXPECT_EQ(message([](auto& p) { p.x.stride[3] = 2; }),
            "selective_scan: the last dimension of x has stride 2; 1 is accepted");
  EXPECT_EQ(message([](auto& p) { p.initial_state.size[0] = 1; }),
            "selective_scan: initial_state is [1, 1, 4, 2]; [2, 1, 4, 2] is accepted");
  EXPECT_EQ(message([](auto& p) { p.chunk = -1; }),
            "selective_scan: a chunk of -1 tokens; at least 1, or 0 for a choice by shapes, is accepted");
  EXPECT_EQ(message([](auto& p) { p.complex = true, p.a.size[3] = 3; }),
            "selective_scan: complex A has 3 floats a channel; pairs are accepted");
  const std::vector<int64_t> bounds{0, 5, 3, 7};
  EXPECT_EQ(message([&](auto& p) { p.cu_seqlens = bounds.data(), p.num_sequences = 3; }),
            "selective_scan: packed sequences in a batch of 2; a batch of 1 is accepted");
}

}  // namespace
}  // namespace heed::testing::selective_scan_test
