#include "heed/tasks/mixture.h"

#include <cmath>
#include <map>

#include "support/test_files.h"

namespace heed::tasks::mixture_test {
namespace {

class MixtureTest : public testing::Test {
 protected:
  MixtureTest() {
    std::string text;
    for (int i = 0; i < 3000; ++i) text += fmt::format("This is sentence {} of a book. ", i);
    spill(folder_ / "book.txt", text);
    corpus_ = Corpus::read({folder_ / "book.txt"});
  }

  TemporaryDirectory folder_;
  Corpus corpus_;
};

constexpr std::string_view kAll =
    "text=2,niah=1,niah_multikey=1,niah_single_1=1,niah_multikey_2=1,kv_lookup=1,assoc_recall=1,copy=1,selective_copy="
    "1,induction=1,repeat=1";

TEST_F(MixtureTest, WindowsHaveTheirSizeAndWeights) {
  const Mixture mixture(kAll, &corpus_, 512);
  for (uint64_t i = 0; i < 300; ++i) {
    const auto window = mixture.window(Split::train, i);
    SCOPED_TRACE(fmt::format("{} {}", window.source, i));
    ASSERT_EQ(window.tokens.size(), 513u);
    ASSERT_EQ(window.weights.size(), 512u);
    std::map<float, int> weights;
    double total = 0;
    for (const float w : window.weights) {
      ASSERT_GE(w, 0);
      ASSERT_LE(w, 16);
      ++weights[w];
      total += w;
    }
    EXPECT_GT(total, 0);
    if (window.source == "text") {
      EXPECT_EQ(weights[1.0f], 512);
    } else {
      EXPECT_LE(total - weights[1.0f], 128 + 1e-3);  // a task's bytes share a quarter
    }
  }
}

TEST(MixtureParts, ThoseThatFitAContextAreKept) {
  constexpr std::string_view kSpec = "induction=1,niah_single_1=2,niah_multikey_2=0.5";
  EXPECT_EQ(Mixture::fitting(kSpec, 64), "induction=1");
  EXPECT_EQ(Mixture::fitting(kSpec, 100), "induction=1,niah_single_1=2");
  EXPECT_EQ(Mixture::fitting(kSpec, 512), kSpec);
  EXPECT_EQ(Mixture::fitting("text=1,no_such=2", 8), "text=1,no_such=2");  // unknown names are for the constructor
  EXPECT_THROW(Mixture::fitting("niah_single_1=2", 64), Error);
}

TEST_F(MixtureTest, SharesAreKept) {
  const Mixture mixture("text=7,niah=2,copy=1", &corpus_, 256);
  constexpr int n = 4000;
  std::map<std::string, int> counts;
  for (uint64_t i = 0; i < n; ++i) ++counts[std::string(mixture.window(Split::train, i).source)];
  const auto expect = [&](const char* name, double p) {
    EXPECT_NEAR(counts[name], n * p, 4 * std::sqrt(n * p * (1 - p)));
  };
  expect("text", 0.7);
  expect("niah_single", 0.2);
  expect("copy", 0.1);
}

TEST_F(MixtureTest, IsAFunctionOfTheIndex) {
  const Mixture one(kAll, &corpus_, 300), two(kAll, &corpus_, 300), other(kAll, &corpus_, 300, 1);
  int different = 0;
  for (uint64_t i = 50; i-- > 0;) {
    const auto a = one.window(Split::train, i), b = two.window(Split::train, i);
    EXPECT_EQ(a.tokens, b.tokens);
    EXPECT_EQ(a.weights, b.weights);
    different += a.tokens != other.window(Split::train, i).tokens;
    EXPECT_NE(a.tokens, one.window(Split::valid, i).tokens);
  }
  EXPECT_EQ(different, 50);
}

// Every byte of weight is the byte a sample asks for: of a needle, the value that stands in the haystack before it.
TEST_F(MixtureTest, WeightsLieOnAnswers) {
  const Mixture mixture("niah=1", &corpus_, 400);
  int answers = 0;
  for (uint64_t i = 0; i < 100; ++i) {
    const auto window = mixture.window(Split::train, i);
    const std::string text(window.tokens.begin(), window.tokens.end());
    for (size_t at = 0; at + 4 <= window.weights.size(); ++at) {
      if (window.weights[at] <= 1 || (at > 0 && window.weights[at - 1] > 1)) continue;
      const size_t value = at + 1;
      const size_t question = text.rfind("the number of ", value);
      const std::string statement = text.substr(question, value - question);
      EXPECT_TRUE(statement.ends_with(" is ")) << statement;
      EXPECT_EQ(text[value + 4], '\0');
      const size_t needle = text.find(statement);
      ASSERT_LT(needle, question);
      EXPECT_EQ(text.substr(needle + statement.size(), 4), text.substr(value, 4));
      ++answers;
    }
  }
  EXPECT_GE(answers, 100);
}

TEST_F(MixtureTest, WorksWithoutText) {
  const Mixture mixture("copy=1,niah=1", nullptr, 128);
  for (uint64_t i = 0; i < 50; ++i) EXPECT_EQ(mixture.window(Split::test, i).tokens.size(), 129u);
}

TEST_F(MixtureTest, SaysWhatIsWrong) {
  const auto refused = [&](std::string_view spec, const Corpus* corpus, int64_t context, std::string_view expected) {
    const auto message = error_of([&] { Mixture(spec, corpus, context); });
    EXPECT_NE(message.find(expected), message.npos) << message;
  };
  refused("", &corpus_, 512, "an empty mixture");
  refused("text", &corpus_, 512, "'text' is no name=share");
  refused("text=x", &corpus_, 512, "accepted: a number above 0");
  refused("text=0", &corpus_, 512, "accepted: a number above 0");
  refused("text=nan", &corpus_, 512, "accepted: a number above 0");
  refused("text=1,,copy=1", &corpus_, 512, "'' is no name=share");
  refused("text=1,text=1", &corpus_, 512, "stands twice");
  refused("text=1,cpy=1", &corpus_, 512, "copy");
  refused("text=1,mqar=1", &corpus_, 512, "unknown part 'mqar'");
  refused("text=1", nullptr, 512, "no text was given");
  refused("niah=1", &corpus_, 64, "needs a context of 96");
}

}  // namespace
}  // namespace heed::tasks::mixture_test
