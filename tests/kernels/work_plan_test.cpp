#include "heed/kernels/work_plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "heed/error.h"
#include "heed/kernels/decode.h"
#include "heed/kernels/runtime.h"
#include "support/decode_case.h"

namespace heed::testing::work_plan_test {
namespace {

using namespace kernels;
using Split = WorkPlan::Split;

std::vector<int64_t> random_lengths(std::mt19937_64& random) {
  std::vector<int64_t> lengths(random() % 12);
  for (int64_t& length : lengths) length = random() % 3 == 0 ? 0 : static_cast<int64_t>(random() % 3000);
  return lengths;
}

TEST(WorkPlan, EveryUnitOnceAndOneHostARow) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    HEED_SEED(random, seed);
    const std::vector<int64_t> lengths = random_lengths(random);
    const int64_t tile = 1 + static_cast<int64_t>(random() % 256);
    const int workers = 1 + static_cast<int>(random() % 64);
    for (Split split : {Split::stream_k, Split::fixed, Split::none}) {
      const WorkPlan plan = make_work_plan(lengths, tile, workers, split);
      ASSERT_EQ(plan.workers.size(), static_cast<size_t>(workers));
      ASSERT_EQ(plan.rows, static_cast<int64_t>(lengths.size()));
      std::vector<std::vector<int>> done(lengths.size());
      std::vector<int> hosts(lengths.size(), 0), pieces(lengths.size(), 0);
      int64_t total = 0, least = INT64_MAX, most = 0;
      for (size_t row = 0; row < lengths.size(); ++row) {
        done[row].assign((lengths[row] + tile - 1) / tile, 0);
        total += static_cast<int64_t>(done[row].size());
      }
      for (const auto& segments : plan.workers) {
        int64_t own = 0;
        for (const auto& segment : segments) {
          ASSERT_LT(segment.begin, segment.end);
          for (int64_t unit = segment.begin; unit < segment.end; ++unit) ++done[segment.row].at(unit);
          hosts[segment.row] += segment.begin == 0 ? 1 : 0;
          ++pieces[segment.row];
          own += segment.end - segment.begin;
        }
        least = std::min(least, own), most = std::max(most, own);
      }
      for (size_t row = 0; row < lengths.size(); ++row) {
        for (int count : done[row]) ASSERT_EQ(count, 1);
        ASSERT_EQ(hosts[row], lengths[row] > 0 ? 1 : 0);
        if (split == Split::none) {
          ASSERT_LE(pieces[row], 1);
        }
      }
      ASSERT_EQ(plan.units, total);
      if (split == Split::stream_k) {
        ASSERT_LE(most - least, 1);
      }
      const double efficiency = total == 0 ? 1.0 : static_cast<double>(total) / static_cast<double>(workers * most);
      ASSERT_DOUBLE_EQ(plan.efficiency(), efficiency);
    }
  }
}

TEST(WorkPlan, EfficiencyOfThirteenUnitsOnFourWorkers) {
  const WorkPlan plan = make_work_plan({13 * 128}, 128, 4);
  EXPECT_EQ(plan.units, 13);
  EXPECT_DOUBLE_EQ(plan.efficiency(), 13.0 / 16);
}

TEST(WorkPlan, StreamKBeatsWholeRowsWhereRowsAreFewOrRagged) {
  EXPECT_DOUBLE_EQ(make_work_plan({4096}, 128, 8).efficiency(), 1);
  EXPECT_DOUBLE_EQ(make_work_plan({4096}, 128, 8, Split::fixed).efficiency(), 1);
  EXPECT_DOUBLE_EQ(make_work_plan({4096}, 128, 8, Split::none).efficiency(), 1.0 / 8);
  const std::vector<int64_t> ragged{4096, 128, 128, 128};
  EXPECT_GT(make_work_plan(ragged, 128, 4).efficiency(), 0.97);
  EXPECT_LT(make_work_plan(ragged, 128, 4, Split::fixed).efficiency(), 0.3);
}

TEST(WorkPlan, RefusesWhatMakesNoSense) {
  EXPECT_THROW(make_work_plan({1, -2}, 128, 1), Error);
  EXPECT_THROW(make_work_plan({1}, 0, 1), Error);
  EXPECT_THROW(make_work_plan({1}, 128, 0), Error);
}

// Relative to the norm, over plans, splits, tiles and threads.
TEST(WorkPlan, ResultsDoNotDependOnThePlan) {
  DecodeSetup s;
  s.batch = 3, s.kv_heads = 2, s.group = 3, s.d = s.dv = 64, s.capacity = 2500, s.lengths = s.head_lengths = true;
  s.sink = true, s.synthetic = 3, s.column_sum = 1, s.arg_max = true, s.q = DType::f16;
  HEED_SEED(random, 21);
  DecodeCase c(s, random_seed);
  c.lengths[1] = 0, c.lengths[3] = 2500;
  kernels::reference::decode(c.params());
  const Tensor dense = c.out;
  const std::vector<int64_t> arg_max = c.arg_max;
  c.clear_outputs();
  decode(c.params(), make_work_plan(c.lengths, 128, 1, Split::none));
  const Tensor out = c.out, lse = c.lse, column_sum = c.column_sum;
  EXPECT_LE(relative_error(out, dense), 2e-5);
  for (int workers = 1; workers <= 64; ++workers) {
    for (Split split : {Split::stream_k, Split::fixed}) {
      c.clear_outputs();
      set_num_threads(1 + workers % 2);
      decode(c.params(), make_work_plan(c.lengths, workers % 3 == 0 ? 96 : 128, workers, split));
      ASSERT_LE(relative_error(c.out, out), 1e-6) << workers;
      ASSERT_LE(relative_error(c.lse, lse), 1e-6) << workers;
      ASSERT_LE(relative_error(c.column_sum, column_sum), 1e-6) << workers;
      ASSERT_EQ(c.arg_max, arg_max) << workers;
      c.check_guards();
    }
  }
  const auto run_with = [&](int threads) {
    c.clear_outputs();
    set_num_threads(threads);
    decode(c.params());
    return c.out;
  };
  EXPECT_TRUE(run_with(1).same_bits(run_with(3))) << "a plan is a function of the shapes";
}

TEST(WorkPlan, AForeignPlanIsRefused) {
  DecodeSetup s;
  s.kv_heads = 2, s.capacity = 300;
  DecodeCase c(s, 1);
  EXPECT_THROW(decode(c.params(), make_work_plan({300}, 128, 2)), Error);
  EXPECT_THROW(decode(c.params(), make_work_plan({300, 500}, 128, 2)), Error);
  EXPECT_THROW(decode(c.params(), make_work_plan({300, 100}, 128, 2)), Error);
  WorkPlan doubled = make_work_plan({300, 300}, 128, 2);
  doubled.workers[1] = doubled.workers[0];
  EXPECT_THROW(decode(c.params(), doubled), Error);
  EXPECT_NO_THROW(decode(c.params(), make_work_plan({300, 300}, 64, 7)));
}

}  // namespace
}  // namespace heed::testing::work_plan_test
