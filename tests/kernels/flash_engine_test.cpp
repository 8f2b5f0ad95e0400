// What the engine promises beyond its formula: bitwise independence of threads, block lists, dtypes, bounds, refusals.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/kernels/flash.h"
#include "heed/kernels/runtime.h"
#include "support/flash_case.h"
#include "support/flash_features.h"

namespace heed::testing::flash_engine_test {
namespace {

using namespace kernels;

class EngineOnIsa : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa(GetParam()); }
  void TearDown() override {
    set_isa("");
    set_num_threads(threads_);
  }
  const int threads_ = num_threads();
};
INSTANTIATE_TEST_SUITE_P(All, EngineOnIsa, ::testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return info.param; });

void run_both(FlashCase& made) {
  flash_forward(made.params());
  flash_backward(made.params(), made.grads());
}

void expect_same_bits(FlashCase& a, FlashCase& b) {
  for (bool backward : {false, true}) {
    auto left = a.outputs(backward), right = b.outputs(backward);
    for (size_t t = 0; t < left.size(); ++t) EXPECT_TRUE(left[t].second->same_bits(*right[t].second)) << left[t].first;
  }
}

TEST_P(EngineOnIsa, ResultsDoNotDependOnTheThreads) {
  HEED_SEED(random, 21);
  for (FlashFeatures feature : flash_features()) {
    const FlashShape shape{1, 4, 2, 1, 900, 300, 20, 12};
    FlashCase one(shape, feature, DType::f32, random());
    FlashCase several = one;
    set_num_threads(1);
    run_both(one);
    for (int threads : {2, 5}) {
      set_num_threads(threads);
      run_both(several);
      expect_same_bits(one, several);
    }
  }
}

/// A block list with random or all blocks, and the predicate that says the same.
struct Blocks {
  std::vector<int64_t> offsets{0};
  std::vector<int32_t> columns;
  BlockList list;

  Blocks(const FlashShape& shape, int64_t query_block, int64_t key_block, double density, std::mt19937_64& random,
         bool shared) {
    list.query_block = query_block, list.key_block = key_block;
    list.query_blocks = (shape.queries + query_block - 1) / query_block,
    list.key_blocks = (shape.keys + key_block - 1) / key_block;
    list.batch = shared ? 1 : shape.batch, list.heads = shared ? 1 : shape.q_heads;
    std::bernoulli_distribution keep(density);
    for (int64_t r = 0; r < list.batch * list.heads * list.query_blocks; ++r) {
      for (int64_t c = 0; c < list.key_blocks; ++c) {
        if (keep(random)) columns.push_back(static_cast<int32_t>(c));
      }
      offsets.push_back(static_cast<int64_t>(columns.size()));
    }
    list.offsets = offsets.data(), list.columns = columns.data();
  }
  Blocks(const Blocks&) = delete;

  static bool visible(const void* context, int64_t b, int64_t h, int64_t i, int64_t j) {
    const auto& self = *static_cast<const Blocks*>(context);
    const int64_t lb = self.list.batch == 1 ? 0 : b, lh = self.list.heads == 1 ? 0 : h;
    const int64_t row = (lb * self.list.heads + lh) * self.list.query_blocks + i / self.list.query_block;
    for (int64_t c = self.offsets[row]; c < self.offsets[row + 1]; ++c) {
      if (self.columns[c] == j / self.list.key_block) return true;
    }
    return false;
  }
};

TEST_P(EngineOnIsa, ARowsBitsDoNotDependOnTheRowsBesideIt) {
  HEED_SEED(random, 26);
  // Small logits stay with the first reference, large ones move it again and again; both kinds stand side by side.
  for (double size : {0.1, 5.0, 40.0, 1000.0}) {
    FlashCase made({1, 1, 1, 1, 75, 400, 24, 16}, {.logit_size = size}, DType::f32, random());
    for (int64_t i = 0; i < 75; i += 3) {
      for (int64_t d = 0; d < 24; ++d) made.q.set(0, 0, i, d, made.q.at(0, 0, i, d) * 1e-3);
    }
    flash_forward(made.params());
    Tensor out(DType::f32, {1, 1, 1, 16}), lse(DType::f32, {1, 1, 1, 1});
    for (int64_t i = 0; i < 75; ++i) {
      FlashParams one = made.params();
      one.q.data = static_cast<float*>(one.q.data) + i * one.q.stride[2];
      one.q.size[2] = 1;
      one.out = out, one.lse = lse;
      flash_forward(one);
      for (int64_t d = 0; d < 16; ++d) ASSERT_EQ(out.at(0, 0, 0, d), made.out.at(0, 0, i, d)) << size << ", row " << i;
      ASSERT_EQ(lse.at(0, 0, 0, 0), made.lse.at(0, 0, i, 0)) << size << ", row " << i;
    }
  }
}

TEST_P(EngineOnIsa, AListOfEverythingIsFlashBitForBit) {
  HEED_SEED(random, 22);
  for (auto [query_block, key_block] : {std::pair<int64_t, int64_t>{64, 64}, {1000, 1000}, {17, 5}, {48, 128}}) {
    const FlashShape shape{1, 2, 1, 1, 250, 333, 24, 16};
    FlashCase dense(shape, {.mask = Causal{}}, DType::f32, random());
    FlashCase listed = dense;
    const Blocks blocks(shape, query_block, key_block, 1.0, random, true);
    listed.blocks = &blocks.list;
    flash_forward(dense.params());
    flash_forward(listed.params());
    EXPECT_TRUE(dense.out.same_bits(listed.out)) << query_block << " x " << key_block;
    EXPECT_TRUE(dense.lse.same_bits(listed.lse)) << query_block << " x " << key_block;
  }
}

TEST_P(EngineOnIsa, ARandomListIsDenseWithThatMask) {
  HEED_SEED(random, 23);
  const std::tuple<int64_t, int64_t, double, bool> cases[] = {
      {32, 16, 0.3, false}, {7, 13, 0.5, false}, {64, 64, 0.1, true}, {1, 1, 0.2, false}};
  for (const auto& [query_block, key_block, density, shared] : cases) {
    SCOPED_TRACE(fmt::format("{} x {}", query_block, key_block));
    const FlashShape shape{2, 2, 1, 1, 101, 155, 12, 10};
    FlashCase listed(shape, {.mask = Window{60, 30}, .sink = true, .lengths = true, .bias = {{1, 1, 0}}}, DType::f32,
                     random());
    FlashCase expected = listed;
    const Blocks blocks(shape, query_block, key_block, density, random, shared);
    listed.blocks = &blocks.list;
    run_both(listed);
    listed.check_guards();
    FlashParams p = expected.params();
    p.mask = p.mask & Predicate{Blocks::visible, &blocks};
    reference::flash_forward(p);
    reference::flash_backward(p, expected.grads());
    for (bool backward : {false, true}) {
      auto got = listed.outputs(backward), want = expected.outputs(backward);
      for (size_t t = 0; t < got.size(); ++t) {
        EXPECT_LE(relative_error(*got[t].second, *want[t].second), backward ? 1e-4 : 2e-5) << got[t].first;
      }
    }
  }
}

// Short blocks that a panel sees whole are copied side by side; those at the diagonal are not. Queries of very
// different sizes make rows leave the range of their first reference.
TEST_P(EngineOnIsa, ListsOfShortBlocksAreDenseWithThatMask) {
  HEED_SEED(random, 24);
  for (const auto& [query_block, key_block] : {std::pair<int64_t, int64_t>{32, 2}, {70, 5}, {130, 63}}) {
    for (const double largest : {1.0, 8.0}) {
      SCOPED_TRACE(fmt::format("{} x {}, queries up to {}", query_block, key_block, largest));
      const FlashShape shape{1, 2, 1, 1, 130, 900, 20, 12};
      FlashCase listed(shape, {.mask = Causal{}}, DType::f32, random());
      for (int64_t i = 0; i < shape.queries; i += 2) {
        for (int64_t d = 0; d < shape.d; ++d) listed.q.set(0, 1, i, d, listed.q.at(0, 1, i, d) * largest);
      }
      FlashCase expected = listed;
      const Blocks blocks(shape, query_block, key_block, 0.6, random, false);
      listed.blocks = &blocks.list;
      flash_forward(listed.params());
      listed.check_guards();
      FlashParams p = expected.params();
      p.mask = p.mask & Predicate{Blocks::visible, &blocks};
      reference::flash_forward(p);
      EXPECT_LE(relative_error(listed.out, expected.out), 2e-5);
      EXPECT_LE(relative_error(listed.lse, expected.lse), 2e-5);
    }
  }
}

// The plain formula with every intermediate rounded to the dtype: what a 16-bit implementation without care gives.
Tensor plain_formula(const FlashCase& made, DType dtype) {
  const auto round = [dtype](double x) {
    alignas(8) unsigned char element[8];
    store_element(element, dtype, 0, x);
    return load_element(element, dtype, 0);
  };
  const FlashShape& s = made.shape();
  Tensor out(dtype, made.out.size());
  const double scale = 1 / std::sqrt(static_cast<double>(s.d));
  std::vector<double> p(s.keys);
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t h = 0; h < s.q_heads; ++h) {
      const int64_t kv = h * s.k_heads / s.q_heads;
      for (int64_t i = 0; i < s.queries; ++i) {
        double top = -1e300, sum = 0;
        for (int64_t j = 0; j < s.keys; ++j) {
          double dot = 0;
          for (int64_t d = 0; d < s.d; ++d) dot += made.q.at(b, h, i, d) * made.k.at(b, kv, j, d);
          p[j] = round(round(dot) * scale), top = std::max(top, p[j]);
        }
        for (double& x : p) x = round(std::exp(x - top)), sum += x;
        for (int64_t d = 0; d < s.dv; ++d) {
          double o = 0;
          for (int64_t j = 0; j < s.keys; ++j) o += round(p[j] / sum) * made.v.at(b, kv, j, d);
          out.set(b, h, i, d, o);
        }
      }
    }
  }
  return out;
}

TEST_P(EngineOnIsa, SixteenBitErrorIsThatOfRounding) {
  HEED_SEED(random, 24);
  for (DType dtype : {DType::bf16, DType::f16}) {
    for (Layout layout : {Layout::dense, Layout::heads_last}) {
      FlashCase made({2, 2, 1, 1, 70, 90, 40, 33}, {}, dtype, random(), layout);
      FlashCase exact = made;
      exact.q = made.q.as(DType::f64), exact.k = made.k.as(DType::f64), exact.v = made.v.as(DType::f64);
      exact.d_out = made.d_out.as(DType::f64), exact.d_lse = made.d_lse.as(DType::f64);
      exact.out = Tensor(DType::f64, made.out.size()), exact.lse = Tensor(DType::f64, made.lse.size());
      exact.d_q = Tensor(DType::f64, made.q.size()), exact.d_k = Tensor(DType::f64, made.k.size()),
      exact.d_v = Tensor(DType::f64, made.v.size());
      reference::flash_forward(exact.params());
      reference::flash_backward(exact.params(), exact.grads());
      run_both(made);
      made.check_guards();
      const double unit =
          dtype == DType::bf16 ? std::ldexp(1, -8) : std::ldexp(1, -11);  // half a unit in the last place
      EXPECT_LE(relative_error(made.out, exact.out), 2 * relative_error(plain_formula(made, dtype), exact.out) + unit);
      EXPECT_LE(relative_error(made.out, exact.out), unit);  // one rounding, accumulation in float32
      EXPECT_LE(relative_error(made.lse, exact.lse), 2e-5);
      // The backward reads the rounded output: its share of each gradient is of the order of one more rounding.
      for (auto [got, want] : {std::pair{&made.d_q, &exact.d_q}, {&made.d_k, &exact.d_k}, {&made.d_v, &exact.d_v}}) {
        EXPECT_LE(relative_error(*got, *want), 2 * unit);
      }
    }
  }
}

TEST_P(EngineOnIsa, EveryHalfValueSurvivesTheRoundTrip) {
  for (DType dtype : {DType::f16, DType::bf16}) {
    constexpr int64_t kValues = 1 << 16;
    Tensor q(dtype, {1, 1, 1, 1}), k(dtype, {1, 1, 1, 1}), v(dtype, {1, 1, 1, kValues}), out(dtype, {1, 1, 1, kValues});
    q.set(0, 0, 0, 0, 0), k.set(0, 0, 0, 0, 0);
    auto* bits = static_cast<uint16_t*>(v.view().data);
    for (int64_t x = 0; x < kValues; ++x) bits[x] = static_cast<uint16_t>(x);
    FlashParams p;
    p.q = q, p.k = k, p.v = v, p.out = out;
    flash_forward(p);
    v.each([&](int64_t, int64_t, int64_t, int64_t x) {
      const double want = v.at(0, 0, 0, x), got = out.at(0, 0, 0, x);
      ASSERT_TRUE(got == want || (std::isnan(got) && std::isnan(want))) << name_of(dtype) << " " << x << ": " << got;
    });
  }
}

TEST_P(EngineOnIsa, ErrorFollowsTheSizeOfTheLogits) {
  HEED_SEED(random, 25);
  constexpr double kEpsilon = 1.1920929e-7;
  for (double size : {1.0, 10.0, 100.0, 1000.0}) {
    FlashCase made({1, 1, 1, 1, 60, 200, 64, 32}, {.logit_size = size}, DType::f32, random());
    FlashCase expected = made;
    flash_forward(made.params());
    reference::flash_forward(expected.params());
    double largest = 0;
    for (int64_t i = 0; i < 60; ++i) {
      for (int64_t j = 0; j < 200; ++j) {
        double dot = 0;
        for (int64_t d = 0; d < 64; ++d) dot += made.q.at(0, 0, i, d) * made.k.at(0, 0, j, d);
        largest = std::max(largest, std::fabs(dot) / 8);
      }
    }
    // A logit of D terms carries about sqrt(D) roundings of its size; a weight's relative error is its logit's absolute
    // one.
    EXPECT_LE(relative_error(made.out, expected.out), 8 * kEpsilon * (1 + largest)) << "largest logit " << largest;
  }
}

TEST(FlashScratch, GrowsWithRowsNotWithPairs) {
  const auto bytes = [](int64_t n, auto measure) {
    FlashParams p;
    static float one = 0;
    p.q = p.k = p.v = p.out = AnyView{&one, DType::f32, {1, 2, n, 64}, dense_strides({1, 2, n, 64})};
    p.lse = AnyView{&one, DType::f32, {1, 2, n, 1}, dense_strides({1, 2, n, 1})};
    return measure(p);
  };
  for (auto measure : {flash_forward_bytes, flash_backward_bytes}) {
    const int64_t small = bytes(8192, measure), large = bytes(65536, measure);
    EXPECT_GT(small, 0);
    EXPECT_LE(large, 8 * small + (1 << 20));
  }
}

template <class Change>
void expect_refused(const char* word, const Change& change) {
  FlashCase made({1, 4, 2, 2, 5, 6, 8, 3}, {.sink = true, .bias = {{0, 0, 0}}}, DType::f32, 1);
  FlashParams p = made.params();
  ASSERT_NO_THROW(check(p));
  change(p);
  try {
    flash_forward(p);
    FAIL() << "accepted: " << word;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
  }
}

TEST(FlashCheck, NamesWhatDoesNotFit) {
  expect_refused("k has shape", [](FlashParams& p) { p.k.size[3] = 7; });
  expect_refused("k has shape", [](FlashParams& p) { p.k.size[0] = 2; });
  expect_refused("v has shape", [](FlashParams& p) { p.v.size[2] = 5; });
  expect_refused("out has shape", [](FlashParams& p) { p.out.size[1] = 3; });
  expect_refused("lse has shape", [](FlashParams& p) { p.lse.size[2] = 4; });
  expect_refused("k is bfloat16", [](FlashParams& p) { p.k.dtype = DType::bf16; });
  expect_refused("int8", [](FlashParams& p) { p.q.dtype = DType::i8; });
  expect_refused("stride 2", [](FlashParams& p) { p.q.stride[3] = 2; });
  expect_refused("no data", [](FlashParams& p) { p.v.data = nullptr; });
  expect_refused("scale", [](FlashParams& p) { p.scale = NAN; });
  expect_refused("softcap", [](FlashParams& p) { p.scores.softcap = -1; });
  expect_refused("bias", [](FlashParams& p) { p.scores.bias.size[3] = 5; });
  expect_refused("bias", [](FlashParams& p) { p.scores.bias.size[1] = 3; });
  expect_refused("dropout", [](FlashParams& p) { p.dropout.probability = 1; });
  expect_refused("sink", [](FlashParams& p) { p.normalizer.kind = Normalizer::Kind::clipped_softmax; });
  expect_refused("gamma", [](FlashParams& p) {
    p.normalizer = {};
    p.normalizer.kind = Normalizer::Kind::clipped_softmax, p.normalizer.gamma = 0.1;
  });
  expect_refused("lse", [](FlashParams& p) {
    p.normalizer = {};
    p.normalizer.kind = Normalizer::Kind::sigmoid;
  });
  static const int32_t map[] = {0, 1, 2, 0};
  expect_refused("head of query head 2", [](FlashParams& p) { p.q_to_k_head = map; });
  static const int64_t lengths[] = {7};
  expect_refused("k_lengths[0] is 7", [](FlashParams& p) { p.k_lengths = lengths; });
  static const int64_t descending[] = {0, 4, 2};
  expect_refused("cu_q[2] is 2", [](FlashParams& p) { p.cu_q = p.cu_k = descending, p.num_sequences = 2; });
  static const int64_t offsets[] = {0, 2};
  static const int32_t columns[] = {1, 0};
  static const BlockList list{offsets, columns, 1, 1, 1, 2, 5, 3};
  expect_refused("not ascending", [](FlashParams& p) { p.blocks = &list; });
  static const BlockList short_list{offsets, columns, 1, 1, 2, 2, 5, 3};
  expect_refused("query blocks", [](FlashParams& p) { p.blocks = &short_list; });
}

TEST(FlashCheck, BackwardNeedsTheForwardsStatistics) {
  FlashCase made({1, 1, 1, 1, 4, 4, 4, 4}, {}, DType::f32, 1);
  FlashParams p = made.params();
  flash_forward(p);
  p.lse = {};
  EXPECT_THROW(flash_backward(p, made.grads()), Error);
  FlashGrads g = made.grads();
  g.d_sink = g.d_lse;
  EXPECT_THROW(flash_backward(made.params(), g), Error);
}

TEST(Flash, TakesEmptyTensors) {
  for (auto [b, n, m] : {std::tuple<int64_t, int64_t, int64_t>{0, 3, 3}, {1, 0, 3}, {1, 3, 0}, {2, 0, 0}}) {
    FlashCase made({b, 2, 1, 1, n, m, 4, 5}, {.mask = Causal{}}, DType::f32, 1);
    flash_forward(made.params());
    flash_backward(made.params(), made.grads());
    made.out.each([&](int64_t i, int64_t h, int64_t r, int64_t d) { EXPECT_EQ(made.out.at(i, h, r, d), 0); });
    made.d_q.each([&](int64_t i, int64_t h, int64_t r, int64_t d) { EXPECT_EQ(made.d_q.at(i, h, r, d), 0); });
    made.d_k.each([&](int64_t i, int64_t h, int64_t r, int64_t d) { EXPECT_EQ(made.d_k.at(i, h, r, d), 0); });
  }
}

}  // namespace
}  // namespace heed::testing::flash_engine_test
