#include "heed/kernels/runtime.h"

#include <gtest/gtest.h>

#include <cmath>

#include "heed/error.h"
#include "heed/kernels/limits.h"

namespace heed::testing::runtime_test {
namespace {

using namespace kernels;

TEST(Runtime, CapsTheInstructionSet) {
  const auto isas = supported_isas();
  ASSERT_FALSE(isas.empty());
  EXPECT_EQ(isas.back(), "scalar");
  for (const std::string& isa : isas) {
    set_isa(isa);
    EXPECT_EQ(current_isa(), isa);
  }
  set_isa("");
  EXPECT_EQ(current_isa(), isas.front());
  EXPECT_EQ(supported_isas(), isas) << "a cap must not change what the machine has";
}

TEST(Runtime, NamesWhatIsAcceptedForAWrongInstructionSet) {
  try {
    set_isa("mmx");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("mmx"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("scalar"), std::string::npos);
  }
}

TEST(Runtime, OwnsTheNumberOfThreads) {
  const int before = num_threads();
  EXPECT_GE(before, 1);
  set_num_threads(3);
  EXPECT_EQ(num_threads(), 3);
  EXPECT_THROW(set_num_threads(0), Error);
  EXPECT_EQ(num_threads(), 3);
  set_num_threads(before);
}

TEST(Limits, AreMeasuredOnEveryInstructionSet) {
  for (const std::string& isa : supported_isas()) {
    set_isa(isa);
    for (int threads : {1, 2}) {
      const double peak = measure_peak_gflops(threads);
      EXPECT_TRUE(std::isfinite(peak) && peak > 0) << isa;
    }
  }
  set_isa("");
  const double rate = measure_read_gbps(2);
  EXPECT_TRUE(std::isfinite(rate) && rate > 0);
}

}  // namespace
}  // namespace heed::testing::runtime_test
