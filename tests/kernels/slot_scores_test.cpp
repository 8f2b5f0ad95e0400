#include "heed/kernels/slot_scores.h"

#include <gtest/gtest.h>

#include <numeric>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "support/decode_case.h"

namespace heed::testing::slot_scores_test {
namespace {

using namespace kernels;

constexpr double kTolerance = 2e-5;

/// The queries, keys and lengths of a decode case, and scores to write.
struct ScoresCase {
  ScoresCase(DecodeSetup setup, HeadReduction heads, int64_t score_heads, uint64_t seed)
      : decode(without_values(setup), seed), reduction(heads) {
    const DecodeSetup& s = decode.s;
    const int64_t slots = s.capacity + 3;
    size = {s.batch, heads == HeadReduction::none ? s.kv_heads * s.group : score_heads, s.rows, slots};
    if (score_heads == 1 && heads != HeadReduction::none) {
      for (int64_t r = 0; r < s.batch * s.kv_heads; ++r)
        decode.lengths[r] = decode.lengths[r / s.kv_heads * s.kv_heads];
    }
  }
  static DecodeSetup without_values(DecodeSetup s) {
    s.v = DType::f32, s.dv = 1, s.v_page = 0, s.slot_bias = s.sink = s.alibi = s.slot_positions = s.arg_max = false;
    s.synthetic = s.column_sum = 0, s.softcap = 0, s.v_zero = false;
    return s;
  }
  SlotScoresParams params(Tensor& scores) {
    const DecodeParams from = decode.params();
    SlotScoresParams p;
    p.q = from.q, p.k = from.k, p.num_kv_heads = from.num_kv_heads, p.scale = from.scale, p.rotation = from.rotation;
    p.lengths = from.lengths, p.lengths_stride_b = from.lengths_stride_b, p.lengths_stride_h = from.lengths_stride_h;
    p.begin = begin, p.exclude_last = exclude_last, p.softmax = softmax, p.heads = reduction;
    if (!limits.empty()) p.row_limits = limits.data();
    scores = Tensor(DType::f32, size, layout);
    p.scores = scores.view().as<float>();
    return p;
  }
  void expect_reference() {
    Tensor want, got;
    reference::slot_scores(params(want));
    slot_scores(params(got));
    got.check_guards("scores");
    EXPECT_LE(relative_error(got, want), kTolerance);
  }

  DecodeCase decode;
  HeadReduction reduction;
  std::array<int64_t, 4> size{};
  Layout layout = Layout::dense;
  int64_t begin = 0, exclude_last = 0;
  bool softmax = false;
  std::vector<int64_t> limits;
};

class SlotScoresOnEveryIsa : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(""); }
};
INSTANTIATE_TEST_SUITE_P(Isa, SlotScoresOnEveryIsa, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return info.param; });

TEST_P(SlotScoresOnEveryIsa, RandomCallsEqualTheReference) {
  const uint64_t first = 1000 * std::accumulate(GetParam().begin(), GetParam().end(), uint64_t{0});
  for (uint64_t seed = first; seed < first + 80; ++seed) {
    HEED_SEED(random, seed);
    const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
    const DecodeSetup setup = random_setup(random);
    SCOPED_TRACE(::testing::Message() << setup);
    const auto heads = static_cast<HeadReduction>(below(4));
    ScoresCase c(setup, heads, below(2) == 0 ? 1 : setup.kv_heads, seed);
    c.softmax = below(2) == 0;
    if (below(2) == 0) c.begin = below(20), c.exclude_last = below(20);
    if (below(3) == 0) {
      for (int64_t n = 0; n < setup.rows; ++n) c.limits.push_back(below(setup.capacity + 5) - 2);
    }
    if (below(3) == 0) c.layout = Layout::sliced;
    c.expect_reference();
    if (HasFailure()) break;
  }
}

TEST_P(SlotScoresOnEveryIsa, LongCachesOfEveryStorage) {
  for (DType type : {DType::f32, DType::f16, DType::bf16, DType::i8}) {
    for (const bool softmax : {false, true}) {
      for (const HeadReduction heads : {HeadReduction::none, HeadReduction::mean, HeadReduction::sum}) {
        DecodeSetup s;
        s.kv_heads = 2, s.group = 4, s.d = 128, s.capacity = 2300, s.k = type, s.q = DType::f16;
        ScoresCase c(s, heads, heads == HeadReduction::sum ? 1 : 2, 3);
        c.softmax = softmax, c.begin = 130, c.exclude_last = 70;
        c.expect_reference();
      }
    }
  }
}

// Pooled queries against pooled keys: as many rows as slots.
TEST_P(SlotScoresOnEveryIsa, ManyRowsWithLimits) {
  DecodeSetup s;
  s.kv_heads = 2, s.group = 3, s.rows = 70, s.d = 64, s.capacity = 70;
  for (const HeadReduction heads : {HeadReduction::none, HeadReduction::max}) {
    ScoresCase c(s, heads, 2, 5);
    c.softmax = heads == HeadReduction::none;
    for (int64_t n = 0; n < s.rows; ++n) c.limits.push_back(n + 1);
    c.expect_reference();
  }
}

TEST(SlotScores, VotesOfAllHeadsSumToTheirNumber) {
  DecodeSetup s;
  s.batch = 3, s.kv_heads = 2, s.group = 4, s.d = 40, s.capacity = 3000, s.k = DType::bf16, s.k_page = 16;
  ScoresCase c(s, HeadReduction::sum, 1, 9);
  c.softmax = true, c.begin = 128, c.exclude_last = 512;
  Tensor votes;
  slot_scores(c.params(votes));
  for (int64_t b = 0; b < 3; ++b) {
    double sum = 0;
    for (int64_t j = 0; j < c.size[3]; ++j) {
      sum += votes.at(b, 0, 0, j);
      if (j < 128 || j >= 3000 - 512) {
        ASSERT_EQ(votes.at(b, 0, 0, j), 0);
      }
    }
    EXPECT_NEAR(sum, 8, 8 * kTolerance);
  }
}

TEST(SlotScores, ThreadsAndNeighboursChangeNothing) {
  DecodeSetup s;
  s.batch = 3, s.kv_heads = 2, s.group = 3, s.rows = 2, s.d = 72, s.capacity = 2500, s.k = DType::f16, s.k_page = 4,
  s.lengths = s.head_lengths = true;
  const int threads = num_threads();
  for (const bool softmax : {false, true}) {
    ScoresCase c(s, HeadReduction::mean, 2, 21);
    c.softmax = softmax;
    Tensor one, many;
    set_num_threads(1);
    slot_scores(c.params(one));
    set_num_threads(7);
    slot_scores(c.params(many));
    set_num_threads(threads);
    EXPECT_TRUE(one.same_bits(many));
    // A sequence alone.
    SlotScoresParams p = c.params(many);
    for (int64_t b = 0; b < 3; ++b) {
      SlotScoresParams alone = p;
      Tensor scores(DType::f32, {1, c.size[1], c.size[2], c.size[3]});
      alone.q.size[0] = 1;
      alone.q.data = static_cast<char*>(p.q.data) + b * p.q.stride[0] * static_cast<int64_t>(size_of(p.q.dtype));
      alone.k.table += b * p.num_kv_heads * p.k.table_stride;
      alone.lengths += b * p.lengths_stride_b;
      alone.scores = scores.view().as<float>();
      slot_scores(alone);
      scores.each([&](int64_t, int64_t h, int64_t n, int64_t j) {
        const double x = scores.at(0, h, n, j), y = one.at(b, h, n, j);
        ASSERT_TRUE(x == y) << b << " " << h << " " << n << " " << j;
      });
    }
  }
}

TEST(SlotScores, WhatIsNoCandidateNeverMatters) {
  DecodeSetup s;
  s.kv_heads = 1, s.group = 2, s.capacity = 300, s.lengths = true;
  for (const bool softmax : {false, true}) {
    ScoresCase c(s, HeadReduction::none, 2, 4);
    c.decode.lengths = {250};
    c.softmax = softmax, c.begin = 5, c.exclude_last = 30;
    c.decode.k.data.each([&](int64_t b, int64_t h, int64_t n, int64_t d) {
      if (n < 5 || n >= 220) c.decode.k.data.set(b, h, n, d, NAN);
    });
    Tensor scores;
    slot_scores(c.params(scores));
    scores.each([&](int64_t, int64_t h, int64_t, int64_t j) {
      const double x = scores.at(0, h, 0, j);
      if (j >= 5 && j < 220) {
        ASSERT_TRUE(std::isfinite(x));
      } else {
        ASSERT_EQ(x, softmax ? 0 : -INFINITY);
      }
    });
  }
}

// A NaN key reaches its own score, or with softmax every weight of the rows that see it.
TEST(SlotScores, NanAndInfinity) {
  for (const double value : {static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
    for (const HeadReduction heads : {HeadReduction::none, HeadReduction::max, HeadReduction::mean}) {
      for (const bool softmax : {false, true}) {
        DecodeSetup s;
        s.kv_heads = 2, s.group = 2, s.capacity = 2000;
        ScoresCase c(s, heads, 2, 4);
        c.softmax = softmax;
        for (int64_t d = 0; d < s.d; ++d) c.decode.k.data.set(0, 1, 1200, d, value);
        c.decode.q.each([&](int64_t b, int64_t h, int64_t n, int64_t d) {
          c.decode.q.set(b, h, n, d, std::fabs(c.decode.q.at(b, h, n, d)) + 0.1);
        });
        c.expect_reference();
        Tensor scores;
        slot_scores(c.params(scores));
        const int64_t head = heads == HeadReduction::none ? 3 : 1;
        EXPECT_TRUE(std::isfinite(scores.at(0, 0, 0, 1200)));
        EXPECT_EQ(std::isnan(scores.at(0, head, 0, 7)), softmax);
        EXPECT_FALSE(std::isfinite(scores.at(0, head, 0, 1200)));
      }
    }
  }
}

TEST(SlotScores, RowsWithoutCandidates) {
  DecodeSetup s;
  s.batch = 2, s.group = 2, s.capacity = 9, s.lengths = true;
  for (const bool softmax : {false, true}) {
    ScoresCase c(s, HeadReduction::mean, 1, 1);
    c.decode.lengths = {0, 9};
    c.softmax = softmax, c.begin = 4, c.exclude_last = 5;
    Tensor scores;
    slot_scores(c.params(scores));
    scores.each(
        [&](int64_t b, int64_t h, int64_t n, int64_t j) { EXPECT_EQ(scores.at(b, h, n, j), softmax ? 0 : -INFINITY); });
  }
}

TEST(SlotScores, BadInputIsNamed) {
  DecodeSetup s;
  s.batch = 2, s.kv_heads = 2, s.group = 2, s.capacity = 20;
  ScoresCase c(s, HeadReduction::mean, 2, 1);
  Tensor scores;
  const SlotScoresParams good = c.params(scores);
  EXPECT_NO_THROW(slot_scores(good));
  const auto message = [&](const auto& spoil) -> std::string {
    SlotScoresParams p = good;
    spoil(p);
    try {
      slot_scores(p);
    } catch (const Error& e) {
      return e.what();
    }
    return "nothing";
  };
  EXPECT_EQ(message([](auto& p) { p.num_kv_heads = 3; }),
            "slot_scores: 4 query heads over 3 KV heads; a multiple is accepted");
  EXPECT_EQ(message([](auto& p) { p.begin = -1; }),
            "slot_scores: -1 slots at the beginning and 0 at the end are left out; at least 0 is accepted");
  EXPECT_EQ(message([](auto& p) { p.scores.size[1] = 4; }),
            "slot_scores: scores are [2, 4, 1, 23]; [2, 2 or 1, 1, slots] is accepted");
  EXPECT_EQ(message([](auto& p) { p.heads = HeadReduction::none; }),
            "slot_scores: scores are [2, 2, 1, 23]; [2, 4, 1, slots] is accepted");
  EXPECT_EQ(message([](auto& p) { p.scores.size[3] = 19; }),
            "slot_scores: sequence 0, head 0 has 20 slots and the scores 19");
  EXPECT_EQ(message([](auto& p) { p.scores.stride[3] = 2; }),
            "slot_scores: the last dimension of the scores has stride 2; 1 is accepted");
  const std::vector<int64_t> ragged{20, 20, 20, 19};
  EXPECT_EQ(message([&](auto& p) { p.scores.size[1] = 1, p.lengths = ragged.data(); }),
            "slot_scores: sequence 1 has 19 slots in head 1 and 20 in head 0; scores over all heads need equal "
            "lengths");
}

}  // namespace
}  // namespace heed::testing::slot_scores_test
