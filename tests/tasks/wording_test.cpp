// Templates from a file: the same needles in other words.
#include <fmt/ranges.h>

#include "heed/tasks/task.h"
#include "support/test_files.h"

namespace heed::tasks::wording_test {
namespace {

class Wordings : public testing::Test {
 protected:
  std::string file(const std::string& text) const {
    spill(folder_ / "template.txt", text);
    return (folder_ / "template.txt").string();
  }

  TemporaryDirectory folder_;
};

TEST_F(Wordings, FrameTheHaystack) {
  // In the shape of RULER's own: an instruction before the text, the question and the answer's beginning behind it.
  const auto good = file(
      "Some {type_needle_v} are hidden, {}:\n{context}\nWhat are the {type_needle_v} of {query}? The {type_needle_v} "
      "of "
      "{query} are");
  const auto task = make_text_task("niah_multiquery", {{"template", good}, {"max_tokens", 1024}});
  const auto plain = make_text_task("niah_multiquery", {{"max_tokens", 1024}});
  for (uint64_t i = 0; i < 20; ++i) {
    const auto sample = task->sample(Split::test, i), same = plain->sample(Split::test, i);
    EXPECT_EQ(sample.answers, same.answers);
    EXPECT_TRUE(sample.prompt.starts_with("Some numbers are hidden, {}:\n"));
    const auto keys = sample.meta.at("keys").get<std::vector<std::string>>();
    EXPECT_TRUE(sample.prompt.ends_with(fmt::format("The numbers of {} are", fmt::join(keys, ", "))));
    EXPECT_EQ(sample.continuation, fmt::format(" {}", fmt::join(sample.answers, ", ")));
    EXPECT_LE(static_cast<int64_t>(sample.continuation.size()), task->answer_bytes());
    for (size_t a = 0; a < sample.answers.size(); ++a)
      EXPECT_EQ(sample.answer_spans[a].of(sample.prompt), sample.answers[a]);
    const auto size = sample.text().size();
    EXPECT_TRUE(size <= 1024 && size > 0.9 * 1024) << size;
    EXPECT_EQ(task->score(sample, sample.continuation), 1);
  }
}

TEST_F(Wordings, FrameWordsThatAreCounted) {
  const auto path = file("List:\n{context}\nAnswer: ");
  for (const char* name : {"cwe", "fwe", "vt", "passkey"}) {
    const auto task = make_text_task(name, {{"template", path}});
    const auto sample = task->sample(Split::test, 0);
    EXPECT_TRUE(sample.prompt.starts_with("List:\n") && sample.prompt.ends_with("\nAnswer: ")) << name;
    EXPECT_EQ(sample.continuation, fmt::format("{}", fmt::join(sample.answers, ", "))) << name;
    for (size_t a = 0; a < sample.answers.size(); ++a)
      EXPECT_EQ(sample.answer_spans[a].of(sample.prompt), sample.answers[a]) << name;
  }
}

TEST_F(Wordings, SayWhatIsWrong) {
  const auto refused = [&](const std::string& text, std::string_view expected) {
    const auto message = error_of([&] { make_text_task("cwe", {{"template", file(text)}})->sample(Split::test, 0); });
    EXPECT_NE(message.find(expected), message.npos) << message;
  };
  refused("no place for the text", "a template has {context} once");
  refused("{context} {context}", "a template has {context} once");
  refused("{context} {query}", "unknown field {query}, accepted: context, num_cw");
  refused(std::string(1 << 21, 'x'), "accepted for a template");
  EXPECT_NE(error_of([] {
              make_text_task("vt", {{"template", "/no/such/file"}});
            }).find("/no/such/file"),
            std::string::npos);
}

}  // namespace
}  // namespace heed::tasks::wording_test
