#include "heed/tasks/corpus.h"

#include <cmath>
#include <set>

#include <zlib.h>

#include "support/test_files.h"
#include "tasks/roff.h"
#include "tasks/text_files.h"

namespace heed::tasks::corpus_test {
namespace {
namespace fs = std::filesystem;

void spill_gzip(const fs::path& path, std::string_view text) {
  gzFile file = ::gzopen(path.c_str(), "wb");
  ASSERT_EQ(::gzwrite(file, text.data(), static_cast<unsigned>(text.size())), static_cast<int>(text.size()));
  ASSERT_EQ(::gzclose(file), Z_OK);
}

// A name of the wanted split.
std::string named(Split split, int n) {
  for (int i = 0;; ++i) {
    const std::string name = fmt::format("document-{}.txt", i);
    if (split_of(name) == split && n-- == 0) return name;
  }
}

TEST(Corpus, ReadsFilesGzipAndFolders) {
  const TemporaryDirectory folder;
  fs::create_directory(folder / "deep");
  const std::string a = named(Split::train, 0), b = named(Split::valid, 0), c = named(Split::test, 0);
  spill(folder / a, "plain text\n");
  spill_gzip(folder / "deep/" / fs::path(b + ".gz"), "packed text\n");
  spill(folder / "deep" / c, "third\n");
  spill(folder / ("deep/." + a), "hidden\n");
  spill(folder / "binary", std::string("\x7f"
                                       "ELF\0\0",
                                       6));
  spill(folder / "copy-of-plain", "plain text\n");
  fs::create_symlink(folder.path(), folder / "deep/loop");
  const auto corpus = Corpus::read({folder.path()});
  EXPECT_EQ(corpus.report().documents, 3);
  EXPECT_EQ(corpus.report().binary, 1);
  EXPECT_EQ(corpus.report().duplicates, 1);
  EXPECT_EQ(corpus.stream(Split::valid), std::string_view("packed text\n\0", 13));
  EXPECT_EQ(corpus.stream(Split::test), std::string_view("third\n\0", 7));
  EXPECT_EQ(corpus.report().bytes[0], static_cast<int64_t>(corpus.stream(Split::train).size()));
}

TEST(Corpus, TheOrderOfInputsDoesNotMatter) {
  const TemporaryDirectory folder;
  for (int i = 0; i < 30; ++i) spill(folder / fmt::format("f{}", i), fmt::format("text number {}", i));
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder.path())) files.push_back(entry.path());
  const auto whole = Corpus::read({folder.path()});
  const auto forward = Corpus::read(files);
  std::reverse(files.begin(), files.end());
  const auto backward = Corpus::read(files);
  for (const Split split : {Split::train, Split::valid, Split::test}) {
    EXPECT_EQ(whole.stream(split), forward.stream(split));
    EXPECT_EQ(whole.stream(split), backward.stream(split));
  }
}

TEST(Corpus, SharesOfTheSplits) {
  std::array<double, 3> counts{};
  constexpr int n = 20'000;
  for (int i = 0; i < n; ++i) ++counts[static_cast<size_t>(split_of(fmt::format("name-{}.txt", i)))];
  const auto four_sigma = [](double p) { return 4 * std::sqrt(n * p * (1 - p)); };
  EXPECT_NEAR(counts[0], 0.90 * n, four_sigma(0.90));
  EXPECT_NEAR(counts[1], 0.05 * n, four_sigma(0.05));
  EXPECT_NEAR(counts[2], 0.05 * n, four_sigma(0.05));
  EXPECT_EQ(split_of("a/b/open.2.gz"), split_of("open.2"));
}

TEST(Corpus, OneFileIsCutFrontToBack) {
  const TemporaryDirectory folder;
  std::string text;
  for (int i = 0; i < 1000; ++i) text += static_cast<char>('a' + i % 26);
  spill(folder / "one.txt", text);
  const auto corpus = Corpus::read({folder / "one.txt"});
  const auto without_end = [&](Split split) {
    return std::string(corpus.stream(split).substr(0, corpus.stream(split).size() - 1));
  };
  EXPECT_EQ(corpus.stream(Split::train).size(), 901u);
  EXPECT_EQ(corpus.stream(Split::valid).size(), 51u);
  EXPECT_EQ(without_end(Split::train) + without_end(Split::valid) + without_end(Split::test), text);
}

TEST(Corpus, WindowsArePureFunctionsAndReachEveryPlace) {
  const TemporaryDirectory folder;
  spill(folder / named(Split::train, 0), "0123456789");
  spill(folder / named(Split::train, 1), "abcdefghij");
  const auto corpus = Corpus::read({folder.path()});
  ASSERT_EQ(corpus.stream(Split::train).size(), 22u);
  std::set<const char*> places;
  for (uint64_t i = 0; i < 500; ++i) {
    const auto window = corpus.window(Split::train, i, 8);
    EXPECT_EQ(window.size(), 8u);
    EXPECT_EQ(window.data(), corpus.window(Split::train, i, 8).data());
    places.insert(window.data());
  }
  EXPECT_EQ(places.size(), 15u);
  const auto message = error_of([&] { corpus.window(Split::test, 0, 8); });
  EXPECT_NE(message.find("the test split has 0 bytes in 0 documents"), message.npos) << message;
}

TEST(Corpus, EvaluationWindowsCoverTheStreamOnce) {
  const TemporaryDirectory folder;
  spill(folder / named(Split::train, 0), std::string(40, 'x'));
  spill(folder / named(Split::train, 1), std::string(39, 'y'));
  const auto corpus = Corpus::read({folder.path()});
  const auto text = corpus.stream(Split::train);
  ASSERT_EQ(text.size(), 81u);
  ASSERT_EQ(corpus.evaluation_windows(Split::train, 16), 5);
  for (int64_t w = 0; w < 5; ++w) {
    const auto window = corpus.evaluation_window(Split::train, w, 16);
    EXPECT_EQ(window.size(), 17u);
    EXPECT_EQ(window.data(), text.data() + 16 * w);
  }
  EXPECT_NE(error_of([&] { corpus.evaluation_window(Split::train, 5, 16); }).find("accepted: 0 to 4"),
            std::string::npos);
}

TEST(Corpus, SaysWhatIsWrong) {
  const TemporaryDirectory folder;
  EXPECT_NE(error_of([&] { Corpus::read({}); }).find("no text was given"), std::string::npos);
  EXPECT_NE(error_of([&] { Corpus::read({folder / "gone"}); }).find("does not exist"), std::string::npos);
  EXPECT_NE(error_of([&] { Corpus::read({folder.path()}); }).find("no text in"), std::string::npos);
  spill_gzip(folder / "a.gz", std::string(5000, 'a') + "b");
  const std::string packed = slurp(folder / "a.gz");
  spill(folder / "a.gz", std::string_view(packed).substr(0, packed.size() / 2));
  EXPECT_NE(error_of([&] { Corpus::read({folder / "a.gz"}); }).find("cannot read"), std::string::npos);
  spill_gzip(folder / "a.gz", std::string(1 << 20, 'a'));
  EXPECT_NE(error_of([&] { read_maybe_gzip(folder / "a.gz", 1000); }).find("more than the accepted 1000"),
            std::string::npos);
}

TEST(Roff, BecomesText) {
  const std::string page = R"(.\" A comment
'\" t
.TH OPEN 2 2023-02-05 "Linux"
.SH NAME
open \- open a file
.SH "SEE ALSO"
The
.BR open ()
call \fIopens\fP a\(aqs \(lqfile\(rq,
and
.BI "int " flags ;
goes on.
.de XX
macro body
..
.PP
.nf
  keep   this
and this
.fi
.TS
l l.
one	two
_
.TE
.IP \(bu 3
item text \" gone
.B bold \
continued
path\e0 end\&.
)";
  EXPECT_TRUE(is_roff(page));
  EXPECT_EQ(strip_roff(page), R"(NAME
open - open a file

SEE ALSO
The open() call opens a's "file", and int flags; goes on.

  keep   this
and this
one	two

* item text bold continued path\0 end.
)");
  EXPECT_FALSE(is_roff("Some text\n.SH not a page\n"));
  EXPECT_FALSE(is_roff(""));
}

TEST(Roff, WrapsAndSurvivesAnything) {
  std::string words = ".SH X\n";
  for (int i = 0; i < 100; ++i) words += "word\n";
  const std::string text = strip_roff(words);
  size_t longest = 0;
  for (size_t i = 0, end; i < text.size(); i = end + 1) longest = std::max(longest, (end = text.find('\n', i)) - i);
  EXPECT_EQ(longest, 74u);  // 15 words of 4 and 14 blanks
  constexpr std::string_view kPieces = R"(\\\.."([]*fsTSEBRde nab
'-)";
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed, 0);
    std::string noise;
    for (int i = 0; i < 60; ++i) noise += kPieces[random.below(kPieces.size())];
    (void)strip_roff(noise);
  }
}

}  // namespace
}  // namespace heed::tasks::corpus_test
