// What options refuse before any work: numbers without sense, files that cannot be written; and output that is lost.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>

#include "cli/heed_command.h"

namespace heed::hostile_options_test {
namespace {

void expect_refused(const std::string& arguments, const std::string& word) {
  const auto result = test::heed(arguments);
  EXPECT_EQ(result.status, 2) << arguments;
  EXPECT_NE(result.err.find(word), std::string::npos) << arguments << ": " << result.err;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << arguments << ": " << result.err;
  EXPECT_LT(result.err.size(), 250u) << result.err;
  EXPECT_EQ(result.out, "") << arguments;
}

TEST(HostileOptions, CountsAreWholeNumbersInARange) {
  for (const char* value : {"99999999999999999999", "-1", "1.5", "nan", "1e3", "''", "x"})
    expect_refused(std::string("generate --prompt x --max-tokens=") + value, "whole number from 0 to 16777216");
  expect_refused("probe heads --samples 4 --recent=0", "whole number from 1 to");
  expect_refused("generate --prompt x --seed=-1", "whole number from 0 to 18446744073709551615");
  expect_refused("generate --prompt x --seed=18446744073709551616", "whole number from 0 to");
  EXPECT_EQ(test::heed("generate --prompt x --max-tokens 1 --temperature 1 --seed 18446744073709551615").status, 0);
}

TEST(HostileOptions, ThresholdsAreFiniteNumbersInARange) {
  for (const char* value : {"nan", "inf", "-0.5", "1e400"}) {
    expect_refused(std::string("probe heads --threshold=") + value, "number from 0 to");
    expect_refused(std::string("eval suite niah_ruler --threshold=") + value, "number from 0 to 1");
    expect_refused(std::string("compare --policies --max-kl=") + value, "number from 0 to");
    expect_refused(std::string("train lm --out /tmp/x --text /tmp --lr=") + value, "number above 0");
  }
}

TEST(HostileOptions, OutputsThatCannotBeWrittenAreRefusedBeforeTheWork) {
  const TemporaryDirectory folder;
  const auto nowhere = (folder / "no/such/folder/x").string();
  const auto file = (folder / "file").string();
  spill(file, "");
  for (const auto& command :
       {std::string("eval niah --samples 10000 --html "), std::string("probe heads --samples 10000 --save-heads "),
        std::string("probe sinks --html "), std::string("compare --policies --samples 10000 --save-policy "),
        std::string("steer pairworld --steps 1000000 --json="), std::string("run op:flash --in x --out "),
        std::string("probe duo --steps 1000000 --save-heads ")}) {
    expect_refused(command + nowhere, "no directory");
    expect_refused(command + folder.path().string(), "directory");
  }
  expect_refused("train lm --text /usr/share/common-licenses --steps 1000000 --out " + file + "/below", "is none");
  expect_refused("surgery echo_att --out " + file, "is none");
  EXPECT_EQ(folder.entries(), 1u);
  if (::geteuid() == 0) return;  // root may write anywhere
  std::filesystem::permissions(folder.path(), std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  expect_refused("probe heads --html " + (folder / "page.html").string(), "cannot write");
  std::filesystem::permissions(folder.path(), std::filesystem::perms::owner_all);
}

TEST(HostileOptions, ACheckedOutputLeavesNothingBehind) {
  const TemporaryDirectory folder;
  expect_refused("probe heads --task no_such_task --html " + (folder / "a.html").string() + " --save-heads " +
                     (folder / "b.json").string() + " --json=" + (folder / "c.json").string(),
                 "no_such_task");
  EXPECT_EQ(folder.entries(), 0u);
}

TEST(HostileOptions, LostOutputIsAFailure) {
  for (const char* arguments : {"list >/dev/full", "list --json >/dev/full", "--help >/dev/full",
                                "generate --prompt x --max-tokens 1 >/dev/full"}) {
    const auto result = test::heed(arguments);
    EXPECT_EQ(result.status, 1) << arguments;
    EXPECT_NE(result.err.find("No space left"), std::string::npos) << arguments << ": " << result.err;
  }
}

}  // namespace
}  // namespace heed::hostile_options_test
