#include "heed/kernels/page_scores.h"

#include <gtest/gtest.h>

#include <numeric>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "heed/kernels/select.h"
#include "support/decode_case.h"

namespace heed::testing::page_scores_test {
namespace {

using namespace kernels;

constexpr double kTolerance = 2e-5;

/// Keys of a decode case and their summaries.
struct SummaryCase {
  SummaryCase(DecodeSetup setup, int64_t slots_a_page, uint64_t seed) : decode(setup, seed), page_slots(slots_a_page) {
    clear();
  }
  void clear() {
    const DecodeSetup& s = decode.s;
    const int64_t pages = (s.capacity + page_slots - 1) / page_slots + 1;
    extremes = Tensor(s.k == DType::i8 ? DType::f32 : s.k, {s.batch, s.kv_heads, pages, 2 * s.d}, s.layout);
    means = Tensor(DType::f32, {s.batch, s.kv_heads, pages, s.d}, Layout::sliced);
    if (s.layout == Layout::reversed) extremes = Tensor(extremes.view().dtype, extremes.size());
  }
  KeySummaryParams params() {
    const DecodeParams from = decode.params();
    KeySummaryParams p;
    p.k = from.k, p.num_kv_heads = from.num_kv_heads;
    p.lengths = from.lengths, p.lengths_stride_b = from.lengths_stride_b, p.lengths_stride_h = from.lengths_stride_h;
    p.page_slots = page_slots, p.extremes = extremes, p.means = means;
    return p;
  }
  PageBoundsParams bounds(Tensor& to, HeadReduction heads) {
    const DecodeParams from = decode.params();
    const DecodeSetup& s = decode.s;
    PageBoundsParams p;
    p.q = from.q, p.extremes = extremes, p.lengths = from.lengths, p.lengths_stride_b = from.lengths_stride_b;
    p.lengths_stride_h = from.lengths_stride_h, p.page_slots = page_slots, p.scale = from.scale, p.heads = heads;
    const int64_t score_heads = heads == HeadReduction::none ? s.kv_heads * s.group : s.kv_heads;
    to = Tensor(DType::f32, {s.batch, score_heads, s.rows, extremes.size()[2]}, Layout::sliced);
    p.bounds = to.view().as<float>();
    return p;
  }

  DecodeCase decode;
  int64_t page_slots;
  Tensor extremes, means;
};

DecodeSetup random_keys(std::mt19937_64& random) {
  DecodeSetup s = random_setup(random);
  s.v = DType::f32, s.dv = 1, s.rotation = false;
  return s;
}

class PageScoresOnEveryIsa : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override { set_isa(""); }
};
INSTANTIATE_TEST_SUITE_P(Isa, PageScoresOnEveryIsa, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return info.param; });

TEST_P(PageScoresOnEveryIsa, SummariesAndBoundsEqualTheReference) {
  const uint64_t first = 1000 * std::accumulate(GetParam().begin(), GetParam().end(), uint64_t{0});
  for (uint64_t seed = first; seed < first + 80; ++seed) {
    HEED_SEED(random, seed);
    const DecodeSetup setup = random_keys(random);
    SCOPED_TRACE(::testing::Message() << setup);
    const int64_t pages[] = {1, 3, 16, 200};
    SummaryCase c(setup, pages[random() % 4], seed);
    reference::summarize_keys(c.params());
    const Tensor extremes = c.extremes, means = c.means;
    c.clear();
    summarize_keys(c.params());
    c.extremes.check_guards("extremes"), c.means.check_guards("means");
    if (setup.k == DType::i8) {
      EXPECT_LE(relative_error(c.extremes, extremes), kTolerance);
    } else {
      EXPECT_TRUE(c.extremes.same_bits(extremes));
    }
    EXPECT_LE(relative_error(c.means, means), kTolerance);

    const auto heads = static_cast<HeadReduction>(random() % 4);
    Tensor want, got;
    reference::page_bounds(c.bounds(want, heads));
    page_bounds(c.bounds(got, heads));
    got.check_guards("bounds");
    EXPECT_LE(relative_error(got, want), kTolerance);
    if (HasFailure()) break;
  }
}

// Appended slot by slot or in chunks: the same extremes, and means up to the rounding of as many steps.
TEST_P(PageScoresOnEveryIsa, AppendingEqualsRecomputing) {
  for (const int64_t chunk : {1, 5, 16, 37}) {
    for (const DType type : {DType::f32, DType::bf16, DType::i8}) {
      DecodeSetup s;
      s.batch = 2, s.kv_heads = 2, s.d = 40, s.capacity = 100, s.k = type, s.k_page = 4,
      s.lengths = s.head_lengths = true;
      SummaryCase whole(s, 16, 7), grown(s, 16, 7);
      summarize_keys(whole.params());
      const std::vector<int64_t> lengths = grown.decode.lengths;
      std::vector<int64_t> seen(lengths.size(), 0);
      while (seen != lengths) {
        for (size_t r = 0; r < seen.size(); ++r) grown.decode.lengths[r] = std::min(seen[r] + chunk, lengths[r]);
        KeySummaryParams p = grown.params();
        p.summarized = seen.data();
        summarize_keys(p);
        seen = grown.decode.lengths;
      }
      EXPECT_TRUE(whole.extremes.same_bits(grown.extremes));
      EXPECT_LE(relative_error(grown.means, whole.means), kTolerance);
    }
  }
}

// What lies behind the last slot, in its page or after it, never enters.
TEST(PageScores, PaddingOfTheLastPageNeverMatters) {
  DecodeSetup s;
  s.group = 2, s.d = 16, s.capacity = 64, s.lengths = true;
  SummaryCase c(s, 16, 3);
  c.decode.lengths = {37};
  c.decode.k.data.each([&](int64_t b, int64_t h, int64_t n, int64_t d) {
    if (n >= 37) c.decode.k.data.set(b, h, n, d, n % 2 == 0 ? NAN : 1e30);
  });
  summarize_keys(c.params());
  Tensor bounds;
  page_bounds(c.bounds(bounds, HeadReduction::none));
  for (int64_t h = 0; h < 2; ++h) {
    for (int64_t page = 0; page < bounds.size()[3]; ++page) {
      if (page < 3) {
        EXPECT_LT(std::fabs(bounds.at(0, h, 0, page)), 1e3);
      } else {
        EXPECT_EQ(bounds.at(0, h, 0, page), -INFINITY);
      }
    }
  }
  for (int64_t d = 0; d < 16; ++d) EXPECT_TRUE(std::isnan(c.means.at(0, 0, 3, d))) << "a page that does not exist";
}

TEST(PageScores, NoKeyScoresAboveTheBoundOfItsPage) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    HEED_SEED(random, seed);
    DecodeSetup s = random_keys(random);
    if (s.k == DType::i8) s.k = DType::f16;
    SummaryCase c(s, 16, seed);
    summarize_keys(c.params());
    Tensor bounds, scores(DType::f32, {s.batch, s.kv_heads * s.group, s.rows, s.capacity});
    const PageBoundsParams b = c.bounds(bounds, HeadReduction::none);
    page_bounds(b);
    SlotScoresParams p;
    p.q = b.q, p.k = c.decode.params().k, p.num_kv_heads = s.kv_heads, p.lengths = b.lengths;
    p.lengths_stride_b = b.lengths_stride_b, p.lengths_stride_h = b.lengths_stride_h, p.scale = b.scale;
    p.scores = scores.view().as<float>();
    slot_scores(p);
    // Both sums are rounded, each by at most eps times the sum of their terms' sizes.
    const double slack = 2 * static_cast<double>(s.d) * std::ldexp(1, -23) * 40;
    scores.each([&](int64_t i, int64_t h, int64_t n, int64_t j) {
      ASSERT_LE(scores.at(i, h, n, j), bounds.at(i, h, n, j / 16) + slack);
    });
  }
}

TEST(PageScores, PagesOfOneSlotBoundExactly) {
  DecodeSetup s;
  s.kv_heads = 2, s.group = 2, s.d = 64, s.capacity = 90;
  SummaryCase c(s, 1, 5);
  summarize_keys(c.params());
  Tensor bounds, scores(DType::f32, {1, 4, 1, 91});
  const PageBoundsParams b = c.bounds(bounds, HeadReduction::none);
  page_bounds(b);
  SlotScoresParams p;
  p.q = b.q, p.k = c.decode.params().k, p.num_kv_heads = 2, p.lengths = b.lengths;
  p.lengths_stride_b = b.lengths_stride_b, p.lengths_stride_h = b.lengths_stride_h;
  p.scores = scores.view().as<float>();
  slot_scores(p);
  EXPECT_LE(relative_error(bounds, scores), kTolerance);
}

TEST(PageScores, PooledBlocksEqualTheReferenceAndTheMask) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    HEED_SEED(random, seed);
    const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
    BlockScoresParams p;
    p.queries = 1 + below(300), p.keys = 1 + below(300), p.query_block = 1 + below(70), p.key_block = 1 + below(70);
    p.causal = below(3) != 0, p.softmax = below(2) == 0, p.heads = static_cast<HeadReduction>(below(4));
    const int64_t group = 1 + below(3), kv_heads = 1 + below(2), d = 1 + below(40), batch = 1 + below(2);
    const int64_t nq = (p.queries + p.query_block - 1) / p.query_block, nk = (p.keys + p.key_block - 1) / p.key_block;
    Tensor q(DType::f32, {batch, kv_heads * group, nq, d}), k(DType::f32, {batch, kv_heads, nk, d}, Layout::sliced);
    q.normal(random), k.normal(random);
    const std::array<int64_t, 4> size{batch, p.heads == HeadReduction::none ? kv_heads * group : kv_heads, nq, nk};
    Tensor want(DType::f32, size), got(DType::f32, size, Layout::sliced);
    p.q_means = q, p.k_means = k;
    p.scores = want.view().as<float>();
    reference::block_scores(p);
    p.scores = got.view().as<float>();
    block_scores(p);
    got.check_guards("scores");
    EXPECT_LE(relative_error(got, want), kTolerance);
    // A block pair scores iff the causal mask shows some pair of it.
    const Mask mask = p.causal ? Mask(Causal{}) : Mask();
    got.each([&](int64_t b, int64_t h, int64_t i, int64_t j) {
      const int64_t i1 = std::min((i + 1) * p.query_block, p.queries), j1 = std::min((j + 1) * p.key_block, p.keys);
      const bool seen =
          mask.classify({b, h, p.queries, p.keys}, i * p.query_block, i1, j * p.key_block, j1) != Coverage::empty;
      ASSERT_EQ(got.at(b, h, i, j) != (p.softmax ? 0 : -INFINITY), seen);
    });
  }
}

TEST(PageScores, BadInputIsNamed) {
  DecodeSetup s;
  s.batch = 2, s.kv_heads = 2, s.group = 2, s.capacity = 20;
  SummaryCase c(s, 8, 1);
  const KeySummaryParams good = c.params();
  const auto message = [](const auto& params, const auto& spoil, const auto& call) -> std::string {
    auto p = params;
    spoil(p);
    try {
      call(p);
    } catch (const Error& e) {
      return e.what();
    }
    return "nothing";
  };
  const auto summarize = [](const auto& p) { summarize_keys(p); };
  EXPECT_EQ(message(
                good, [](auto& p) { p.page_slots = 0; }, summarize),
            "summarize_keys: pages of 0 slots; at least 1 is accepted");
  EXPECT_EQ(message(
                good, [](auto& p) { p.extremes.size[3] = 16; }, summarize),
            "summarize_keys: extremes are [2, 2, 4, 16]; [2, 2, pages, 32] is accepted");
  EXPECT_EQ(message(
                good, [](auto& p) { p.means.size[2] = 2; }, summarize),
            "summarize_keys: sequence 0, head 0 has 3 pages and the summaries 2");
  const std::vector<int64_t> seen{20, 20, 21, 20};
  EXPECT_EQ(message(
                good, [&](auto& p) { p.summarized = seen.data(); }, summarize),
            "summarize_keys: sequence 1, head 0 has 20 slots of which 21 are summarised; 0 to 20 is accepted");
  EXPECT_EQ(message(
                good, [](auto& p) { p.extremes = {}, p.means = {}; }, summarize),
            "summarize_keys: neither extremes nor means are asked for");

  Tensor to;
  const PageBoundsParams bounds = c.bounds(to, HeadReduction::max);
  const auto bound = [](const auto& p) { page_bounds(p); };
  EXPECT_EQ(message(
                bounds, [](auto& p) { p.scale = -1; }, bound),
            "page_bounds: the scale is -1; 0 (the default) or a positive number is accepted");
  EXPECT_EQ(message(
                bounds, [](auto& p) { p.extremes.size[3] = 16; }, bound),
            "page_bounds: extremes are [2, 2, 4, 16] for queries of head size 16; [2, heads, pages, 32] is accepted");
  const std::vector<int64_t> negative{20, 20, -5, 20};
  EXPECT_EQ(message(
                bounds, [&](auto& p) { p.lengths = negative.data(); }, bound),
            "page_bounds: the length of sequence 1, head 0 is -5; at least 0 is accepted");
  EXPECT_EQ(message(
                bounds, [](auto& p) { p.bounds.size[3] = 2; }, bound),
            "page_bounds: sequence 0, head 0 has 3 slots and the scores 2");

  BlockScoresParams blocks;
  blocks.q_means = c.means, blocks.k_means = c.means, blocks.queries = 20, blocks.keys = 20;
  EXPECT_EQ(message(
                blocks, [](auto&) {}, [](const auto& p) { block_scores(p); }),
            "block_scores: 4 and 4 pooled rows of 20 queries in blocks of 64 and 20 keys in blocks of 64; 1 and 1 are "
            "accepted");
}

}  // namespace
}  // namespace heed::testing::page_scores_test
