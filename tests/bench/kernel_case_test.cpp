// Cases: their work against counting, their names, their checks.
#include "heed/bench/kernel_case.h"

#include <gtest/gtest.h>

#include <set>

#include "bench/kernel_problem.h"
#include "heed/bench/kernel_bench.h"
#include "heed/bench/measure.h"
#include "heed/kernels/mask_text.h"

namespace heed::bench::kernel_case_test {
namespace {

using kernels::DType;
using Call = KernelCase::Call;

KernelCase some_case(Call call, const std::string& mask, const std::string& pattern = "") {
  KernelCase c;
  c.call = call;
  c.name = call == Call::backward ? "backward" : "forward";
  c.mask = mask;
  c.pattern = pattern;
  c.q_heads = 4;
  c.kv_heads = 2;
  c.queries = c.keys = 150;
  c.d = 24;
  c.block = 16;
  return c;
}

int64_t counted_pairs(const KernelCase& c) {
  const auto mask = kernels::parse_mask(c.mask);
  int64_t pairs = 0;
  for (int64_t i = 0; i < c.queries; ++i)
    for (int64_t j = 0; j < c.keys; ++j) {
      const int64_t row = i / c.block, column = j / c.block, difference = row ^ column;
      const bool listed = c.pattern.empty() || (difference & (difference - 1)) == 0;
      pairs += listed && mask.visible({0, 0, c.queries, c.keys}, i, j);
    }
  return pairs * c.batch * c.q_heads;
}

TEST(KernelCase, CountsTheWorkOfTheVisiblePairs) {
  for (const char* mask : {"", "causal", "causal & window(20)", "causal & (window(9) | sinks(4))", "window(5, 7)"}) {
    for (const char* pattern : {"", "butterfly"}) {
      for (const auto& [queries, keys] : {std::pair<int64_t, int64_t>{150, 150}, {33, 150}}) {
        auto c = some_case(Call::forward, mask, pattern);
        if (*pattern && queries != keys) continue;  // lists of queries and keys that start together
        c.queries = queries;
        c.keys = keys;
        const auto pairs = counted_pairs(c);
        EXPECT_EQ(c.pairs(), pairs) << mask << " " << pattern;
        EXPECT_EQ(c.flops(), 4.0 * 24 * double(pairs));
        c.call = Call::backward;
        EXPECT_EQ(c.flops(), 10.0 * 24 * double(pairs));
      }
    }
  }
}

TEST(KernelCase, ReadsKeysAndValuesOnce) {
  KernelCase c;
  c.call = Call::decode;
  c.kv_heads = 8;
  c.q_heads = 64;
  c.queries = 1;
  c.keys = 16384;
  c.d = 128;
  c.dtype = DType::f16;
  EXPECT_EQ(c.kv_bytes(), 2.0 * 8 * 16384 * 128 * 2);
  c.dtype = DType::i8;
  EXPECT_EQ(c.kv_bytes(), 2.0 * 8 * 16384 * 128);
  c.call = Call::scores;
  EXPECT_EQ(c.kv_bytes(), 8.0 * 16384 * 128);
  c.call = Call::bounds;
  c.block = 16;
  EXPECT_EQ(c.kv_bytes(), 8.0 * 16384 * 128 / 8);
}

TEST(KernelCase, EveryCaseIsNamedOnceAndKnowsItsPartner) {
  for (const bool quick : {true, false}) {
    std::set<std::string> ids, kernels;
    const auto cases = kernel_cases(quick);
    for (const auto& c : cases) {
      EXPECT_TRUE(ids.insert(c.id()).second) << c.id() << " stands twice";
      kernels.insert(c.kernel());
      const bool backward = c.call == Call::backward || c.call == Call::selective_scan_backward ||
                            c.call == Call::softmax_scan_backward || c.call == Call::linear_chunk_backward ||
                            c.call == Call::delta_chunk_backward;
      EXPECT_NE(c.name.find(backward ? "backward" : "forward"), std::string::npos) << c.id();
      EXPECT_EQ(c.name.find("window") != std::string::npos, c.mask.find("window") != std::string::npos) << c.id();
    }
    for (const auto& c : cases)
      EXPECT_TRUE(c.compared == KernelCase::Compared::no || ids.count(c.partner)) << c.id() << " has no " << c.partner;
    EXPECT_EQ(kernels,
              (std::set<std::string>{"flash", "block_sparse", "decode", "slot_scores", "page_bounds", "neighborhood",
                                     "selective_scan", "softmax_scan", "linear_chunk", "delta_chunk"}));
  }
}

TEST(KernelCase, FiltersByWordsOfTheRow) {
  KernelCase c = some_case(Call::forward, "causal");
  c.name = "causal forward";
  c.queries = 4096;
  c.d = 64;
  EXPECT_TRUE(c.matches(""));
  EXPECT_TRUE(c.matches("flash causal"));
  EXPECT_TRUE(c.matches("float32 D=64 N=4096"));
  EXPECT_FALSE(c.matches("D=6"));
  EXPECT_FALSE(c.matches("N=409"));
  EXPECT_FALSE(c.matches("flash backward"));
}

/// Sampled rows and all rows alike.
TEST(KernelCheck, PassesWhatIsRightOnAnyNumberOfRows) {
  for (const double work : {1.0, 1e12}) {
    for (const Call call : {Call::forward, Call::backward}) {
      for (const char* mask : {"", "causal", "causal & window(20)"}) {
        for (const char* pattern : {"", "butterfly"}) {
          KernelProblem problem(some_case(call, mask, pattern));
          const auto result = problem.check(work);
          EXPECT_TRUE(result.passed()) << mask << " " << pattern << ": " << result.error;
          EXPECT_GT(result.error, 0);
        }
      }
    }
  }
}

KernelCase some_neighborhood(Call call) {
  KernelCase c = some_case(call, "");
  kernels::Neighborhood around;
  around.rank = 2;
  around.axes[0] = {15, 5, 2}, around.axes[1] = {10, 3, 1, 2};
  c.around = around;
  return c;
}

TEST(KernelCase, CountsThePairsOfNeighbourhoods) {
  const auto c = some_neighborhood(Call::forward);
  EXPECT_EQ(c.kernel(), "neighborhood");
  EXPECT_EQ(c.pairs(), 4 * 150 * 15);
  EXPECT_EQ(c.flops(), 4.0 * 24 * 4 * 150 * 15);
  EXPECT_GT(c.useful_in_tiles(), 0);
  EXPECT_LT(c.useful_in_tiles(), 1);
}

TEST(KernelCheck, PassesNeighbourhoodsOnAnyNumberOfRows) {
  for (const double work : {1.0, 1e12}) {
    for (const Call call : {Call::forward, Call::backward}) {
      KernelProblem problem(some_neighborhood(call));
      const auto result = problem.check(work);
      EXPECT_TRUE(result.passed()) << result.error;
      EXPECT_GT(result.error, 0);
    }
  }
  const auto result = measure_kernel(some_neighborhood(Call::forward));
  EXPECT_GT(result.share(), 0);
  EXPECT_LE(result.share(), 1);
}

TEST(KernelCheck, PassesEveryTypeOfCache) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::i8}) {
    auto c = some_case(Call::decode, "causal");
    c.queries = 1;
    c.dtype = dtype;
    KernelProblem problem(c, int64_t{4} << 20);
    EXPECT_GE(double(problem.caches()) * c.kv_bytes(), double(int64_t{4} << 20));
    EXPECT_TRUE(problem.check().passed()) << name_of(dtype);
  }
}

TEST(KernelCheck, PassesScoresAndBounds) {
  for (const Call call : {Call::scores, Call::bounds}) {
    for (const DType dtype : {DType::f32, DType::f16}) {
      auto c = some_case(call, "");
      c.queries = 1;
      c.block = 16;
      c.dtype = dtype;
      KernelProblem problem(c, int64_t{1} << 20);
      const auto result = problem.check();
      EXPECT_TRUE(result.passed()) << name_of(dtype) << ": " << result.error;
      EXPECT_GT(result.error, 0);
    }
  }
}

KernelCase some_scan(Call call) {
  KernelCase c;
  c.call = call;
  c.name = "forward";
  c.q_heads = 24;
  c.kv_heads = call == Call::softmax_scan || call == Call::softmax_scan_backward ? 24 : 1;
  c.queries = c.keys = 150;
  c.d = 12;
  return c;
}

TEST(KernelCheck, PassesScansOnAnyNumberOfChannels) {
  for (const Call call :
       {Call::selective_scan, Call::selective_scan_backward, Call::softmax_scan, Call::softmax_scan_backward}) {
    for (const double work : {1.0, 1e12}) {
      KernelProblem problem(some_scan(call));
      const auto result = problem.check(work);
      EXPECT_TRUE(result.passed()) << problem.shape().id() << ": " << result.error;
      EXPECT_GT(result.error, 0);
    }
  }
}

TEST(KernelBench, MeasuresScansBelowTheirLimits) {
  for (const Call call : {Call::selective_scan, Call::softmax_scan}) {
    const auto result = measure_kernel(some_scan(call));
    EXPECT_GT(result.share(), 0);
    EXPECT_LE(result.share(), 1);
  }
  const auto peers = measure_peers(some_scan(Call::selective_scan));
  ASSERT_EQ(peers.size(), 1u);
  EXPECT_GT(peers[0].ratio(), 0);
}

KernelCase some_chunk(Call call, const char* decay) {
  KernelCase c;
  c.call = call;
  c.name = "forward";
  c.q_heads = c.kv_heads = 2;
  c.queries = c.keys = 256;
  c.d = 24;
  c.decay = decay;
  return c;
}

TEST(KernelCase, CountsTheProductsOfChunks) {
  // Token by token: pairs inside its chunk, and products with the state.
  const auto counted = [](int64_t chunk, double with_own, double without, double state) {
    double flops = 0;
    for (int64_t t = 0; t < 256; ++t) {
      const auto before = double(t % chunk);
      flops += 2 * 24 * (with_own * (before + 1) + without * before) + 2 * 24 * 24 * state;
    }
    return 2 * flops;
  };
  EXPECT_EQ(some_chunk(Call::linear_chunk, "scalar").flops(), counted(64, 2, 0, 2));
  EXPECT_EQ(some_chunk(Call::linear_chunk, "channel").flops(), counted(16, 2, 0, 2));
  EXPECT_EQ(some_chunk(Call::linear_chunk_backward, "").flops(), counted(64, 5, 0, 5));
  EXPECT_EQ(some_chunk(Call::delta_chunk, "").flops(), counted(64, 2, 2, 3));
  EXPECT_EQ(some_chunk(Call::delta_chunk_backward, "scalar").flops(), counted(64, 5, 6, 8));
}

TEST(KernelCheck, PassesChunksOnAnyNumberOfTokens) {
  for (const Call call :
       {Call::linear_chunk, Call::linear_chunk_backward, Call::delta_chunk, Call::delta_chunk_backward}) {
    for (const char* decay : {"", "constant", "scalar", "channel"}) {
      if (call >= Call::delta_chunk && std::string(decay) == "channel") continue;
      for (const double work : {1.0, 1e12}) {
        KernelProblem problem(some_chunk(call, decay));
        const auto result = problem.check(work);
        EXPECT_TRUE(result.passed()) << problem.shape().id() << " " << decay << ": " << result.error;
        EXPECT_GT(result.error, 0);
      }
    }
  }
}

TEST(KernelBench, MeasuresChunksBelowThePeak) {
  for (const Call call : {Call::linear_chunk, Call::delta_chunk}) {
    const auto result = measure_kernel(some_chunk(call, "scalar"));
    EXPECT_GT(result.share(), 0);
    EXPECT_LE(result.share(), 1);
  }
}

TEST(KernelCheck, NoticesAWrongResult) {
  // The reference is asked for another call than the kernel ran: values that changed between the two.
  KernelProblem problem(some_case(Call::backward, "causal"));
  const auto v = problem.flash().v;
  static_cast<float*>(v.data)[0] += 1;  // the stored forward is now of other values
  EXPECT_FALSE(problem.check(1e12).passed());
  EXPECT_FALSE((CheckResult{std::nan(""), 1}.passed()));
}

TEST(Measure, RefusesWhatLiesAboveTheLimit) {
  EXPECT_NO_THROW(refuse_above_limit("x", 99.9, 100, "GB/s"));
  try {
    refuse_above_limit("decode forward", 101, 100, "GB/s");
    FAIL();
  } catch (const Refused& refused) {
    const std::string text = refused.what();
    EXPECT_NE(text.find("decode forward"), std::string::npos);
    EXPECT_NE(text.find("101.0 GB/s"), std::string::npos);
  }
}

TEST(Measure, TheMedianIsTheMiddle) {
  EXPECT_EQ(median({}), 0);
  EXPECT_EQ(median({3}), 3);
  EXPECT_EQ(median({9, 1, 5}), 5);
  EXPECT_EQ(median({9, 1, 5, 3}), 4);
}

TEST(KernelBench, ARowHoldsWhatItsReaderNeeds) {
  KernelResult result;
  result.shape = some_case(Call::forward, "causal");
  result.time_ms = 2;
  result.limit = 200;
  result.rate = 50;
  const auto row = to_json(result);
  const char* keys[] = {"kernel", "case", "dtype",   "B",     "Hq",    "Hkv",         "N",
                        "M",      "D",    "time_ms", "limit", "share", "extra_bytes", "checked"};
  auto key = row.begin();
  for (const char* expected : keys) {
    ASSERT_NE(key, row.end());
    EXPECT_EQ(key.key(), expected);
    ++key;
  }
  EXPECT_EQ(row["share"], 0.25);
  EXPECT_EQ(row["checked"], true);
  EXPECT_NE(row["command"].get<std::string>().find(result.shape.id()), std::string::npos);
}

TEST(KernelBench, MeasuresACheckedCaseBelowItsLimit) {
  auto c = some_case(Call::forward, "causal");
  const auto result = measure_kernel(c);
  EXPECT_GT(result.time_ms, 0);
  EXPECT_GT(result.share(), 0);
  EXPECT_LE(result.share(), 1);
  EXPECT_GT(result.extra_bytes, 0);
  EXPECT_LT(result.error, 2e-5);
}

TEST(KernelBench, ExtraMemoryDoesNotGrowWithTheSquare) {
  const auto small = measure_memory(512), large = measure_memory(2048);
  EXPECT_NEAR(double(small.formula_bytes), double(small.measured_bytes), 16384);
  EXPECT_NEAR(double(large.formula_bytes), double(large.measured_bytes), 16384);
  EXPECT_LE(large.measured_bytes, 4 * small.measured_bytes);
}

TEST(KernelBench, PeersRunOrSayWhyNot) {
  const auto dense = measure_peers(some_case(Call::forward, "causal & window(20)"));
  ASSERT_EQ(dense.size(), 2u);
  for (const auto& peer : dense) {
    EXPECT_EQ(peer.skipped, "");
    EXPECT_GT(peer.ratio(), 0);
  }
  for (const auto& peer : measure_peers(some_case(Call::forward, "", "butterfly"))) EXPECT_NE(peer.skipped, "");
  auto huge = some_case(Call::forward, "");
  huge.queries = huge.keys = int64_t{1} << 22;
  for (const auto& peer : measure_peers(huge)) EXPECT_NE(peer.skipped.find("GB"), std::string::npos);
}

}  // namespace
}  // namespace heed::bench::kernel_case_test
