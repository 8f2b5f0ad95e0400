#include "heed/formats/atomic_file.h"

#include <sys/stat.h>

#include "support/test_files.h"

namespace heed::formats::atomic_file_test {
namespace {
namespace fs = std::filesystem;

TEST(AtomicFile, AppearsWholeOnCommit) {
  const TemporaryDirectory folder;
  const auto path = folder / "x.json";
  spill(path, "old");
  {
    AtomicFile file(path);
    file.write("new ");
    file.write("contents");
    EXPECT_EQ(slurp(path), "old");
    file.commit();
    EXPECT_EQ(slurp(path), "new contents");
    EXPECT_NE(error_of([&] { file.write("more"); }).find("already committed"), std::string::npos);
  }
  EXPECT_EQ(slurp(path), "new contents");
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(AtomicFile, LeavesNothingWithoutCommit) {
  const TemporaryDirectory folder;
  { AtomicFile(folder / "x").write("half"); }
  EXPECT_EQ(folder.entries(), 0u);
}

TEST(CheckWritable, FindsOutWithoutATrace) {
  const TemporaryDirectory folder;
  spill(folder / "old", "as it was");
  for (const char* name : {"new", "old"}) check_writable(folder / name);
  for (const char* name : {"new/and/below", "."}) check_writable_directory(folder / name);
  check_writable("/dev/null");
  EXPECT_EQ(slurp(folder / "old"), "as it was");
  EXPECT_EQ(folder.entries(), 1u);
  EXPECT_NE(error_of([&] { check_writable(folder / "none/x"); }).find("no directory"), std::string::npos);
  EXPECT_NE(error_of([&] { check_writable(folder.path()); }).find("is a directory"), std::string::npos);
  EXPECT_NE(error_of([&] { check_writable_directory(folder / "old/x"); }).find("is none"), std::string::npos);
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(AtomicFile, KeepsPermissionsAndFollowsLinks) {
  const TemporaryDirectory folder;
  spill(folder / "real", "old");
  ::chmod((folder / "real").c_str(), 0640);
  fs::create_symlink("real", folder / "link");
  write_file(folder / "link", "new");
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(slurp(folder / "real"), "new");
  EXPECT_EQ(static_cast<unsigned>(fs::status(folder / "real").permissions()), 0640u);
}

TEST(AtomicFile, DevicesAreWrittenDirectly) {
  write_file("/dev/null", "gone");
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
}

TEST(AtomicFile, SaysWhatIsWrong) {
  const TemporaryDirectory folder;
  EXPECT_NE(error_of([&] { AtomicFile(folder / "no/such/x"); }).find("there is no directory"), std::string::npos);
  EXPECT_NE(error_of([&] { AtomicFile{folder.path()}; }).find("it is a directory"), std::string::npos);
  EXPECT_NE(error_of([&] { AtomicFile(fs::path{}); }).find("without a name"), std::string::npos);
}

TEST(AtomicDirectory, AppearsAndIsReplacedWhole) {
  const TemporaryDirectory folder;
  const auto path = folder / "checkpoint";
  for (const std::string_view contents : {"first", "second"}) {
    AtomicDirectory directory(path);
    spill(directory.staging() / "config.json", contents);
    directory.commit();
    EXPECT_EQ(slurp(path / "config.json"), contents);
  }
  { AtomicDirectory unfinished(path); }
  EXPECT_EQ(slurp(path / "config.json"), "second");
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(AtomicDirectory, LosesNobodysFiles) {
  const TemporaryDirectory folder;
  const auto path = folder / "home";
  fs::create_directory(path);
  spill(path / "thesis.tex", "years");
  {
    AtomicDirectory directory(path);
    spill(directory.staging() / "config.json", "{}");
    EXPECT_NE(error_of([&] { directory.commit(); }).find("'thesis.tex'"), std::string::npos);
  }
  EXPECT_EQ(slurp(path / "thesis.tex"), "years");
  EXPECT_EQ(folder.entries(), 1u);
  spill(folder / "file", "x");
  EXPECT_NE(error_of([&] { AtomicDirectory(folder / "file"); }).find("a file of that name"), std::string::npos);
}

}  // namespace
}  // namespace heed::formats::atomic_file_test
