#include "heed/kernels/decode.h"

#include <gtest/gtest.h>

#include <numeric>

#include "heed/error.h"
#include "heed/kernels/flash.h"
#include "heed/kernels/runtime.h"
#include "support/decode_case.h"

namespace heed::testing::decode_test {
namespace {

using namespace kernels;

constexpr double kTolerance = 2e-5;

// The double reference with outputs in float, and the kernel, on the same inputs.
struct Answers {
  Tensor out, lse, column_sum;
  std::vector<int64_t> arg_max;
};
Answers answers_of(DecodeCase& c, bool reference) {
  const bool float_out = c.s.float_out;
  if (reference) c.s.float_out = true;
  c.clear_outputs();
  if (reference) {
    kernels::reference::decode(c.params());
  } else {
    decode(c.params());
    c.check_guards();
  }
  c.s.float_out = float_out;
  return {c.out, c.lse, c.column_sum, c.arg_max};
}

void expect_equal(DecodeCase& c, const Answers& want, const Answers& got) {
  const double out_tolerance = kTolerance + (c.s.float_out ? 0 : rounding_of(c.s.q));
  EXPECT_LE(relative_error(got.out, want.out), out_tolerance);
  if (c.s.lse) {
    EXPECT_LE(relative_error(got.lse, want.lse), kTolerance);
  }
  if (c.s.column_sum != 0) {
    EXPECT_LE(relative_error(got.column_sum, want.column_sum), kTolerance);
  }
  if (c.s.arg_max) {
    EXPECT_EQ(got.arg_max, want.arg_max);
  }
}

void expect_reference(const DecodeSetup& setup, uint64_t seed) {
  SCOPED_TRACE(::testing::Message() << "seed " << seed << ": " << setup);
  DecodeCase c(setup, seed);
  expect_equal(c, answers_of(c, true), answers_of(c, false));
}

class DecodeOnEveryIsa : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(""); }
};
INSTANTIATE_TEST_SUITE_P(Isa, DecodeOnEveryIsa, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return info.param; });

TEST_P(DecodeOnEveryIsa, RandomCallsEqualTheReference) {
  // Other calls on each instruction set.
  const uint64_t first = 1000 * std::accumulate(GetParam().begin(), GetParam().end(), uint64_t{0});
  for (uint64_t seed = first; seed < first + 120; ++seed) {
    std::mt19937_64 random(seed);
    expect_reference(random_setup(random), seed);
    if (HasFailure()) break;
  }
}

TEST_P(DecodeOnEveryIsa, LongCachesOfEveryStorage) {
  for (DType type : {DType::f32, DType::f16, DType::bf16, DType::i8}) {
    for (int64_t group : {1, 4, 8}) {
      DecodeSetup s;
      s.kv_heads = 2, s.group = group, s.d = s.dv = 128, s.capacity = 1500, s.k = s.v = type, s.q = DType::f16;
      expect_reference(s, 7 * group);
    }
  }
}

TEST_P(DecodeOnEveryIsa, ManyQueryRows) {
  for (int64_t rows : {7, 16, 33}) {
    DecodeSetup s;
    s.kv_heads = 1, s.group = 4, s.rows = rows, s.d = 64, s.dv = 48, s.capacity = 200;
    expect_reference(s, 90 + rows);
  }
}

TEST(Decode, EveryScaleAxisOfQuantisedPages) {
  for (int axis = 0; axis < 5; ++axis) {
    for (bool zero : {false, true}) {
      for (int64_t page : {0, 16}) {
        DecodeSetup s;
        s.kv_heads = 2, s.group = 3, s.d = s.dv = 64, s.capacity = 150, s.k = s.v = DType::i8;
        s.k_page = s.v_page = page, s.k_axis = s.v_axis = static_cast<ScaleAxis>(axis), s.k_zero = s.v_zero = zero;
        expect_reference(s, 10 * axis + zero);
      }
    }
  }
}

// Angles far from zero, and positions that jump between the periods of the tables.
TEST(Decode, RotationWhenReadEqualsKeysRotatedBefore) {
  DecodeSetup s;
  s.kv_heads = 2, s.group = 2, s.d = 64, s.capacity = 600, s.rotation = true, s.rotation_positions = true;
  DecodeCase c(s, 5);
  for (int64_t& position : c.rotations) position = position * 7 % 1000003 - 1000;
  const Answers want = answers_of(c, true), got = answers_of(c, false);
  expect_equal(c, want, got);

  Tensor rotated(DType::f32, c.k.data.size());
  const DecodeParams p = c.params();
  rotated.each([&](int64_t b, int64_t h, int64_t n, int64_t d) {
    const int64_t half = p.rotation.rotated / 2, i = d % half;
    if (d >= p.rotation.rotated) return rotated.set(b, h, n, d, c.k.data.at(b, h, n, d));
    const double angle = static_cast<double>(c.rotations[(b * 2 + h) * 600 + n]) * c.frequencies[i];
    const double x = c.k.data.at(b, h, n, i), y = c.k.data.at(b, h, n, i + half);
    rotated.set(b, h, n, d,
                d < half ? x * std::cos(angle) - y * std::sin(angle) : x * std::sin(angle) + y * std::cos(angle));
  });
  c.k.data = rotated;
  c.s.rotation = false;
  EXPECT_LE(relative_error(got.out, answers_of(c, true).out), kTolerance);
}

TEST(Decode, EqualsTheLastRowsOfTheFlashReference) {
  for (int64_t rows : {1, 3}) {
    DecodeSetup s;
    s.batch = 2, s.kv_heads = 2, s.group = 3, s.rows = rows, s.d = 40, s.dv = 24, s.capacity = 77, s.softcap = 4,
    s.alibi = true, s.sink = true, s.mask = MaskKind::streaming;
    DecodeCase c(s, 3);
    const int64_t queries = 20;
    Tensor q(DType::f32, {2, 6, queries, 40}), out(DType::f32, {2, 6, queries, 24}),
        lse(DType::f32, {2, 6, queries, 1});
    std::mt19937_64 random(11);
    q.normal(random);
    c.q.each(
        [&](int64_t b, int64_t h, int64_t n, int64_t d) { c.q.set(b, h, n, d, q.at(b, h, queries - rows + n, d)); });
    const DecodeParams p = c.params();
    decode(p);
    FlashParams f;
    f.q = q, f.k = c.k.data, f.v = c.v.data, f.out = out, f.lse = lse, f.mask = p.mask;
    f.scores.softcap = s.softcap, f.scores.alibi_slopes = c.slopes.data(), f.normalizer.sink_logit = c.sink;
    kernels::reference::flash_forward(f);
    Tensor last(DType::f32, {2, 6, rows, 24}), last_lse(DType::f32, {2, 6, rows, 1});
    last.each(
        [&](int64_t b, int64_t h, int64_t n, int64_t d) { last.set(b, h, n, d, out.at(b, h, queries - rows + n, d)); });
    last_lse.each([&](int64_t b, int64_t h, int64_t n, int64_t d) {
      last_lse.set(b, h, n, d, lse.at(b, h, queries - rows + n));
    });
    EXPECT_LE(relative_error(c.out, last), kTolerance);
    EXPECT_LE(relative_error(c.lse, last_lse), kTolerance);
  }
}

TEST(Decode, NothingVisibleIsZeroOrTheSink) {
  for (bool sink : {false, true}) {
    DecodeSetup s;
    s.batch = 2, s.group = 2, s.capacity = 9, s.sink = sink, s.arg_max = true, s.column_sum = 1;
    DecodeCase c(s, 1);
    c.lengths = {0, 4};
    decode(c.params());
    for (int64_t h = 0; h < 2; ++h) {
      for (int64_t d = 0; d < s.dv; ++d) EXPECT_EQ(c.out.at(0, h, 0, d), 0);
      EXPECT_EQ(c.lse.at(0, h, 0), sink ? c.sink.at(0, h, 0) : -INFINITY);
      EXPECT_EQ(c.arg_max[h], -1);
      EXPECT_NE(c.out.at(1, h, 0, 0), 0);
    }
    for (int64_t j = 0; j < 9; ++j) EXPECT_EQ(c.column_sum.at(0, 0, 0, j), 0);
    for (int64_t j = 4; j < 9; ++j) EXPECT_EQ(c.column_sum.at(1, 0, 0, j), 0);
  }
}

TEST(Decode, HiddenSlotsNeverMatter) {
  for (int64_t rows : {1, 4}) {
    for (MaskKind mask : {MaskKind::window, MaskKind::by_head, MaskKind::causal}) {
      DecodeSetup s;
      s.group = 3, s.rows = rows, s.capacity = 300, s.mask = mask, s.d = 24;
      DecodeCase c(s, 2);
      c.lengths = {250};
      const Answers clean = answers_of(c, true);
      // NaN beyond the length, and wherever no row looks.
      const Mask visible = c.params().mask;
      const auto seen = [&](int64_t j) {
        bool any = false;
        for (int64_t h = 0; h < 3; ++h) {
          for (int64_t i = 0; i < rows; ++i) any |= j < 250 && visible.visible({0, h, rows, 250}, i, j);
        }
        return any;
      };
      for (CacheCase* cache : {&c.k, &c.v}) {
        cache->data.each([&](int64_t b, int64_t h, int64_t n, int64_t d) {
          if (!seen(n)) cache->data.set(b, h, n, d, NAN);
        });
      }
      expect_equal(c, clean, answers_of(c, false));
    }
  }
}

// A key that some rows of a group see and others do not: NaN reaches exactly those that do.
TEST(Decode, NaNReachesTheRowsThatSeeIt) {
  DecodeSetup s;
  s.group = 2, s.rows = 3, s.capacity = 140;
  for (auto [in_value, cap] : {std::pair{false, 0.0}, {true, 0.0}, {false, 5.0}}) {
    s.softcap = cap;
    DecodeCase c(s, 8);
    (in_value ? c.v : c.k).data.set(0, 0, 138, 5, NAN);  // the last slot but one: rows 1 and 2 see it
    const Answers want = answers_of(c, true), got = answers_of(c, false);
    expect_equal(c, want, got);
    EXPECT_TRUE(std::isnan(got.out.at(0, 1, 1, 5)));
    EXPECT_FALSE(std::isnan(got.out.at(0, 1, 0, 5)));
    EXPECT_EQ(std::isnan(got.out.at(0, 1, 1, 4)), !in_value);
  }
  s.softcap = 0;
  DecodeCase c(s, 8);
  c.q.set(0, 1, 2, 0, NAN);
  const Answers got = answers_of(c, false);
  got.out.each([&](int64_t b, int64_t h, int64_t n, int64_t d) {
    EXPECT_EQ(std::isnan(got.out.at(b, h, n, d)), h == 1 && n == 2);
  });
}

// Every bit pattern of a NaN stays one when it is rounded to 16 bits.
TEST_P(DecodeOnEveryIsa, NaNSurvivesRounding) {
  for (DType type : {DType::f16, DType::bf16}) {
    DecodeSetup s;
    s.q = type, s.float_out = false, s.capacity = 20, s.dv = 40;
    DecodeCase c(s, 3);
    for (int64_t d = 0; d < 40; ++d) {
      const uint32_t bits = d % 2 == 0 ? 0x7FFFFFFFu : 0x7F800001u;
      float nan;
      std::memcpy(&nan, &bits, sizeof nan);
      c.v.data.view().as<float>().at(0, 0, 4, d) = nan;
    }
    const Answers got = answers_of(c, false);
    for (int64_t d = 0; d < 40; ++d) EXPECT_TRUE(std::isnan(got.out.at(0, 0, 0, d))) << name_of(type) << " " << d;
  }
}

TEST(Decode, InfiniteLogits) {
  DecodeSetup s;
  s.slot_bias = true, s.capacity = 150, s.arg_max = true;
  DecodeCase hidden(s, 4);
  for (int64_t j : {0, 70, 149}) hidden.slot_bias.set(0, 0, 0, j, -INFINITY);
  expect_equal(hidden, answers_of(hidden, true), answers_of(hidden, false));
  for (int64_t j = 0; j < 150; ++j) hidden.slot_bias.set(0, 0, 0, j, -INFINITY);
  expect_equal(hidden, answers_of(hidden, true), answers_of(hidden, false));
  EXPECT_EQ(hidden.arg_max[0], -1);
  DecodeCase infinite(s, 4);
  infinite.slot_bias.set(0, 0, 0, 70, INFINITY);
  EXPECT_TRUE(std::isnan(answers_of(infinite, false).out.at(0, 0, 0, 0)));
}

TEST(Decode, ColumnSumsCountEveryRowOnce) {
  DecodeSetup s;
  s.batch = 2, s.kv_heads = 2, s.group = 3, s.rows = 2, s.capacity = 400, s.column_sum = 1;
  DecodeCase c(s, 6);
  const Answers got = answers_of(c, false);
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t h = 0; h < 2; ++h) {
      double sum = 0;
      for (int64_t j = 0; j < 400; ++j) sum += got.column_sum.at(b, h, 0, j);
      EXPECT_NEAR(sum, 6, 6e-5);
    }
  }
}

TEST(Decode, ReadsOnlySlotsThatARowSees) {
  DecodeSetup s;
  s.kv_heads = 2, s.group = 2, s.capacity = 2000, s.mask = MaskKind::streaming;
  DecodeCase c(s, 1);
  int64_t read = -1;
  DecodeParams p = c.params();
  p.slots_read = &read;
  decode(p);
  EXPECT_EQ(read, 2 * 43);
  c.s.mask = MaskKind::causal;
  p = c.params();
  p.slots_read = &read;
  decode(p);
  EXPECT_EQ(read, 2 * 2000);
}

TEST(Decode, AGatherOfSlotsEqualsThoseSlotsAlone) {
  DecodeSetup s;
  s.kv_heads = 2, s.group = 2, s.capacity = 90;
  DecodeCase c(s, 9);
  std::vector<int32_t> table;
  std::vector<int64_t> lengths{30, 21};
  Tensor k(DType::f32, {1, 2, 30, 16}), v(DType::f32, {1, 2, 30, 16});
  for (int64_t h = 0; h < 2; ++h) {
    for (int64_t i = 0; i < 30; ++i) {
      const int64_t slot = (i * 37 + h) % 90;
      table.push_back(static_cast<int32_t>(h * 90 + slot));
      for (int64_t d = 0; d < 16; ++d) {
        k.set(0, h, i, d, c.k.data.at(0, h, slot, d));
        v.set(0, h, i, d, c.v.data.at(0, h, slot, d));
      }
    }
  }
  DecodeParams p = c.params();
  for (CacheView* cache : {&p.k, &p.v}) {
    cache->data.size = {180, 1, 1, 16};
    cache->data.stride = dense_strides(cache->data.size);
    cache->table = table.data(), cache->table_stride = 30, cache->page_size = 1;
  }
  p.lengths = lengths.data();
  decode(p);
  const Tensor gathered = c.out;
  c.clear_outputs();
  p = c.params();
  p.k.data = k, p.v.data = v, p.lengths = lengths.data();
  decode(p);
  EXPECT_TRUE(c.out.same_bits(gathered));
}

// A slot of bias log(n) counts as n equal slots; the merge of two halves by their lse is the whole.
TEST(Decode, SyntheticSlotsAndPartialResultsCompose) {
  DecodeSetup s;
  s.capacity = 60, s.group = 2;
  DecodeCase c(s, 12);
  for (int64_t d = 0; d < 16; ++d) {
    for (int64_t j = 56; j < 60; ++j)
      c.k.data.set(0, 0, j, d, c.k.data.at(0, 0, 56, d)), c.v.data.set(0, 0, j, d, c.v.data.at(0, 0, 56, d));
  }
  const Answers whole = answers_of(c, false);
  Tensor k(DType::f32, {1, 1, 1, 16}), v(DType::f32, {1, 1, 1, 16}), bias(DType::f32, {1, 1, 1, 1});
  for (int64_t d = 0; d < 16; ++d)
    k.set(0, 0, 0, d, c.k.data.at(0, 0, 56, d)), v.set(0, 0, 0, d, c.v.data.at(0, 0, 56, d));
  bias.set(0, 0, 0, 0, std::log(4.0));
  c.clear_outputs();
  c.lengths = {56};
  DecodeParams p = c.params();
  p.synthetic_k = k.view().as<const float>(), p.synthetic_v = v.view().as<const float>(),
  p.synthetic_bias = bias.view().as<const float>();
  decode(p);
  EXPECT_LE(relative_error(c.out, whole.out), 1e-6);
  EXPECT_LE(relative_error(c.lse, whole.lse), 1e-6);
}

TEST(Decode, BadInputNamesTheValue) {
  DecodeSetup s;
  s.kv_heads = 2, s.k_page = 4;
  const auto message = [&](const std::function<void(DecodeParams&)>& spoil) -> std::string {
    DecodeCase c(s, 1);
    DecodeParams p = c.params();
    spoil(p);
    try {
      decode(p);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  };
  const int32_t far_page[] = {99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99};
  const int64_t negative[] = {-3, 1}, too_long[] = {41, 1};
  EXPECT_EQ(message([](DecodeParams&) {}), "accepted");
  EXPECT_NE(message([](DecodeParams& p) { p.num_kv_heads = 3; }).find("2 query heads over 3 KV heads"),
            std::string::npos);
  EXPECT_NE(message([&](DecodeParams& p) { p.k.table = far_page; }).find("page 99"), std::string::npos);
  EXPECT_NE(message([&](DecodeParams& p) { p.lengths = negative; }).find("-3"), std::string::npos);
  EXPECT_NE(message([&](DecodeParams& p) { p.lengths = too_long; }).find("needs 11 pages"), std::string::npos);
  EXPECT_NE(message([](DecodeParams& p) { p.softcap = -1; }).find("soft cap is -1"), std::string::npos);
  EXPECT_NE(message([](DecodeParams& p) { p.k.data.dtype = DType::i8; }).find("without a scale"), std::string::npos);
  EXPECT_NE(message([](DecodeParams& p) { p.out.size[3] = 5; }).find("out is [1, 2, 1, 5]"), std::string::npos);
  EXPECT_NE(message([](DecodeParams& p) { p.context_lengths = p.lengths; }).find("slot_positions"), std::string::npos);
  EXPECT_NE(message([](DecodeParams& p) {
              p.rotation = {reinterpret_cast<const float*>(p.q.data), 7};
            }).find("7 dimensions"),
            std::string::npos);
}

TEST(Decode, DoubleGoesToTheReference) {
  DecodeSetup s;
  s.q = s.k = s.v = DType::f64, s.float_out = false;
  DecodeCase c(s, 3);
  c.lse = Tensor(DType::f64, {1, 1, 1, 1});
  decode(c.params());
  EXPECT_TRUE(std::isfinite(c.out.at(0, 0, 0, 0)));
  EXPECT_TRUE(std::isfinite(c.lse.at(0, 0, 0)));
}

}  // namespace
}  // namespace heed::testing::decode_test
