// Every text task: solved by a program that sees the text alone, the same whatever the order, its spans and lengths
// right.
#include "heed/tasks/task.h"

#include <fmt/ranges.h>

#include <cmath>
#include <map>
#include <regex>
#include <set>

#include "heed/tasks/metrics.h"
#include "support/test_files.h"

namespace heed::tasks {
namespace {

using nlohmann::json;

struct Case {
  const char* name;
  json parameters;
};

const std::vector<Case>& text_cases() {
  static const std::vector<Case> cases = {
      {"niah_single", json::object()},
      {"niah_single", {{"max_tokens", 256}, {"filler", "prose"}}},
      {"niah_single", {{"max_tokens", 1000}, {"filler", "prose"}, {"value", "uuid"}, {"ids", "full"}}},
      {"niah_single", {{"max_tokens", 4096}, {"filler", "mixed"}, {"value", "word"}}},
      {"niah_single", {{"min_tokens", 256}, {"max_tokens", 2000}}},
      {"niah_multikey", json::object()},
      {"niah_multikey", {{"filler", "prose"}, {"ids", "full"}, {"max_tokens", 1024}}},
      {"niah_multikey", {{"key", "uuid"}, {"value", "uuid"}, {"max_tokens", 2048}}},
      {"passkeys", json::object()},
      {"passkeys", {{"max_tokens", 700}, {"min_tokens", 500}, {"passkeys", 3}, {"words", 4}, {"filler", "noise"}}},
      {"kv_lookup", json::object()},
      {"kv_lookup", {{"max_tokens", 2000}, {"key_length", 3}}},
      {"assoc_recall", json::object()},
      {"assoc_recall", {{"pairs", 40}, {"queries", 3}}},
      {"copy", json::object()},
      {"copy", {{"length", 50}, {"min_length", 1}, {"symbols", 62}}},
      {"selective_copy", json::object()},
      {"induction", json::object()},
      {"repeat", json::object()},
      {"repeat", {{"length", 1000}, {"cue", 5}}},
  };
  return cases;
}

// Reads the prompt as a person would, with nothing but the text to go by.
std::string solve(const std::string& task, const std::string& prompt) {
  if (task.starts_with("niah")) {
    static const std::regex question("the (number|code|word) of (\\S+) is $");
    std::smatch asked;
    EXPECT_TRUE(std::regex_search(prompt, asked, question)) << prompt;
    const std::string statement = asked[0];
    const size_t at = prompt.find(statement) + statement.size();
    return prompt.substr(at, prompt.find(". ", at) - at);
  }
  if (task == "passkeys") {
    const std::string statement = prompt.substr(prompt.rfind('\n') + 1);
    const size_t at = prompt.find(statement) + statement.size();
    return prompt.substr(at, prompt.find(". ", at) - at);
  }
  if (task == "kv_lookup") {
    const std::string key = prompt.substr(prompt.rfind('\n') + 1);
    const size_t at = prompt.find(key) + key.size();
    return prompt.substr(at, prompt.find('\n', at) - at);
  }
  if (task == "assoc_recall") {
    const std::string key = prompt.substr(prompt.rfind(' ') + 1);
    const size_t at = prompt.find(key) + key.size();
    return prompt.substr(at, prompt.find(' ', at) - at);
  }
  if (task == "copy") return prompt.substr(0, prompt.size() - 1);
  if (task == "selective_copy") {
    std::string marked;
    for (const char c : prompt) {
      if (c != '.' && c != '|') marked += c;
    }
    return marked;
  }
  if (task == "induction") return prompt.substr(prompt.find('*') + 1, 1);
  // repeat: the longest border of the prompt is what has been repeated so far.
  for (size_t cue = prompt.size() / 2;; --cue) {
    if (prompt.compare(prompt.size() - cue, cue, prompt, 0, cue) == 0)
      return prompt.substr(cue, prompt.size() - 2 * cue);
  }
}

class TextTasks : public testing::TestWithParam<size_t> {
 protected:
  const Case& item() const { return text_cases()[GetParam()]; }
  std::unique_ptr<TextTask> task() const { return make_text_task(item().name, item().parameters); }
};

TEST_P(TextTasks, AreSolvedFromTheTextAlone) {
  const auto task = this->task();
  double right = 0;
  for (uint64_t i = 0; i < 100; ++i) {
    const auto sample = task->sample(Split::test, i);
    const std::string output = solve(item().name, sample.prompt);
    EXPECT_EQ(output.substr(0, sample.continuation.size()), sample.continuation) << sample.prompt;
    right += task->score(sample, output);
  }
  EXPECT_EQ(right, 100);
}

TEST_P(TextTasks, WrongAnswersScoreNothing) {
  const auto task = this->task();
  const auto sample = task->sample(Split::test, 3);
  EXPECT_EQ(task->score(sample, ""), 0);
  EXPECT_EQ(task->score(sample, "?"), 0);
  std::string wrong = sample.continuation;
  wrong.back() = wrong.back() == 'x' ? 'y' : 'x';
  EXPECT_EQ(task->score(sample, wrong), 0);
  EXPECT_GE(task->chance(), 0);  // of a long copy it is below what a double can hold
  EXPECT_LT(task->chance(), 0.5);
}

TEST_P(TextTasks, SpansDecodeToTheAnswers) {
  const auto task = this->task();
  for (uint64_t i = 0; i < 50; ++i) {
    const auto sample = task->sample(Split::train, i);
    ASSERT_FALSE(sample.continuation.empty());
    EXPECT_EQ(sample.continuation, sample.answers[0]);
    for (size_t a = 0; a < sample.answer_spans.size(); ++a) {
      const auto found = std::string(sample.answer_spans[a].of(sample.prompt));
      if (task->name() == "repeat") {
        EXPECT_TRUE(sample.answers[a].starts_with(found));
      } else {
        EXPECT_EQ(found, sample.answers[a]);
      }
    }
    // The last scored bytes are the continuation, and scored spans are disjoint and in order.
    EXPECT_EQ(sample.scored.back().of(sample.text()), sample.continuation);
    int64_t reached = 0;
    for (const auto& span : sample.scored) {
      EXPECT_GE(span.begin, reached);
      EXPECT_LT(span.begin, span.end);
      reached = span.end;
    }
    EXPECT_EQ(reached, static_cast<int64_t>(sample.text().size()));
  }
}

TEST_P(TextTasks, AreFunctionsOfSplitAndIndex) {
  const auto first = this->task(), second = this->task();
  std::vector<std::string> forward;
  for (uint64_t i = 0; i < 20; ++i) forward.push_back(first->sample(Split::train, i).text());
  for (uint64_t i = 20; i-- > 0;) EXPECT_EQ(second->sample(Split::train, i).text(), forward[i]);
  EXPECT_EQ(std::set<std::string>(forward.begin(), forward.end()).size(), 20u);
  EXPECT_NE(first->sample(Split::valid, 0).text(), forward[0]);
  auto other = item().parameters;
  other["seed"] = 1;
  EXPECT_NE(make_text_task(item().name, other)->sample(Split::train, 0).text(), forward[0]);
}

TEST_P(TextTasks, TokensAreTheBytesWithLabelsOnWhatIsScored) {
  const auto task = this->task();
  const auto sample = task->sample(Split::valid, 7);
  const auto tokens = task->tokens(Split::valid, 7);
  const std::string text = sample.text();
  ASSERT_EQ(tokens.inputs.size(), text.size() - 1);
  ASSERT_EQ(tokens.labels.size(), text.size() - 1);
  size_t labelled = 0, scored = 0;
  for (size_t i = 0; i + 1 < text.size(); ++i) {
    EXPECT_EQ(tokens.inputs[i], static_cast<unsigned char>(text[i]));
    if (tokens.labels[i] == TokenSample::kNoLabel) continue;
    EXPECT_EQ(tokens.labels[i], static_cast<unsigned char>(text[i + 1]));
    ++labelled;
  }
  for (const auto& span : sample.scored) scored += static_cast<size_t>(span.end - span.begin);
  EXPECT_EQ(labelled, scored);
}

INSTANTIATE_TEST_SUITE_P(All, TextTasks, testing::Range(size_t{0}, text_cases().size()), [](const auto& info) {
  return fmt::format("{}_{}", text_cases()[info.param].name, info.param);
});

TEST(Niah, FillsTheLimit) {
  for (const char* filler : {"noise", "prose"}) {
    for (const int64_t limit : {256, 300, 511, 1024, 4096}) {
      const auto task = make_text_task("niah_single", {{"max_tokens", limit}, {"filler", filler}});
      for (uint64_t i = 0; i < 30; ++i) {
        const auto size = static_cast<int64_t>(task->sample(Split::train, i).text().size());
        EXPECT_LE(size, limit);
        EXPECT_GT(size, 0.9 * static_cast<double>(limit)) << filler;
      }
    }
  }
  const auto needles = make_text_task("niah_multikey", {{"max_tokens", 512}});
  for (uint64_t i = 0; i < 30; ++i) {
    const auto size = static_cast<int64_t>(needles->sample(Split::train, i).text().size());
    EXPECT_TRUE(size <= 512 && size > 0.9 * 512) << size;
  }
}

TEST(Niah, DepthReachesTheBorders) {
  for (uint64_t i = 0; i < 20; ++i) {
    const auto first = make_text_task("niah_single", {{"depth", 0}})->sample(Split::train, i);
    EXPECT_EQ(first.prompt.find("the number of "), 0u);
    const auto last = make_text_task("niah_single", {{"depth", 100}})->sample(Split::train, i);
    const size_t end = static_cast<size_t>(last.answer_spans[0].end);
    EXPECT_EQ(last.prompt.substr(end, 3), ". \n") << "nothing but the question follows";
    const auto middle = make_text_task("niah_single", {{"depth", 50}})->sample(Split::train, i);
    const double place = static_cast<double>(middle.answer_spans[0].begin) / static_cast<double>(middle.prompt.size());
    EXPECT_NEAR(place, 0.5, 0.1);
  }
}

TEST(Niah, DrawnDepthsCoverTheGridAndTheValueStandsOnce) {
  std::set<int64_t> depths;
  const auto task = make_text_task("niah_single", {{"filler", "prose"}, {"value", "word"}});
  for (uint64_t i = 0; i < 400; ++i) {
    const auto sample = task->sample(Split::train, i);
    depths.insert(sample.meta.at("depths")[0].get<int64_t>());
    const size_t at = sample.prompt.find(sample.answers[0]);
    EXPECT_EQ(static_cast<int64_t>(at), sample.answer_spans[0].begin);
    EXPECT_EQ(sample.prompt.find(sample.answers[0], at + 1), std::string::npos);
  }
  EXPECT_EQ(*depths.begin(), 0);
  EXPECT_EQ(*depths.rbegin(), 100);
  EXPECT_GE(depths.size(), 38u);
  EXPECT_LE(depths.size(), 40u);
}

TEST(Niah, MultikeyHidesEveryNeedleWithItsOwnValue) {
  const auto sample =
      make_text_task("niah_multikey", {{"filler", "prose"}, {"max_tokens", 1024}})->sample(Split::train, 5);
  const std::regex needle("the number of (\\w+) is (\\d{4})\\. ");
  std::map<std::string, std::string> found;
  for (std::sregex_iterator it(sample.prompt.begin(), sample.prompt.end(), needle), end; it != end; ++it)
    found[(*it)[1]] = (*it)[2];
  EXPECT_EQ(found.size(), 4u);
  const auto keys = sample.meta.at("keys").get<std::vector<std::string>>();
  const auto positions = sample.meta.at("positions").get<std::vector<size_t>>();
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(sample.prompt.substr(positions[i], 4), found.at(keys[i]));
  EXPECT_EQ(found.at(keys[0]), sample.answers[0]);
}

TEST(KvLookup, FillsTheLimit) {
  for (const int64_t limit : {256, 400, 1000}) {
    const auto sample = make_text_task("kv_lookup", {{"max_tokens", limit}})->sample(Split::train, 0);
    EXPECT_LE(static_cast<int64_t>(sample.text().size()), limit);
    EXPECT_GT(static_cast<double>(sample.text().size()), 0.9 * static_cast<double>(limit));
  }
}

TEST(SelectiveCopy, MarksAsManyPlacesAsAsked) {
  const auto sample = make_text_task("selective_copy", json::object())->sample(Split::train, 0);
  EXPECT_EQ(sample.prompt.size(), 257u);
  EXPECT_EQ(std::count(sample.prompt.begin(), sample.prompt.end(), '.'), 240);
}

TEST(Induction, TheSpecialTokenStandsTwice) {
  for (uint64_t i = 0; i < 300; ++i) {
    const auto sample = make_text_task("induction", {{"length", 3}})->sample(Split::train, i);
    EXPECT_EQ(std::count(sample.prompt.begin(), sample.prompt.end(), '*'), 2);
    EXPECT_EQ(sample.prompt.back(), '*');
  }
}

// Zoology's layout: pairs first, D labels at repeated keys, solved by looking the key up.
TEST(Mqar, IsSolvedByLookup) {
  for (const auto& [length, pairs] : {std::pair{64, 4}, {128, 8}, {256, 16}, {512, 64}, {16, 4}}) {
    const auto task = make_task("mqar", {{"length", length}, {"pairs", pairs}, {"vocabulary", 1024}});
    EXPECT_EQ(task->vocabulary(), 1024);
    for (uint64_t i = 0; i < 30; ++i) {
      const auto sample = task->tokens(Split::train, i);
      ASSERT_EQ(sample.inputs.size(), static_cast<size_t>(length));
      std::map<int64_t, int64_t> value_of;
      for (int p = 0; p < pairs; ++p) {
        const int64_t key = sample.inputs[static_cast<size_t>(2 * p)],
                      value = sample.inputs[static_cast<size_t>(2 * p + 1)];
        EXPECT_TRUE(key >= 1 && key < 512 && value >= 512 && value < 1024) << key << " " << value;
        value_of[key] = value;
      }
      EXPECT_EQ(value_of.size(), static_cast<size_t>(pairs));
      std::set<int64_t> asked;
      for (size_t at = 0; at < sample.inputs.size(); ++at) {
        if (sample.labels[at] == TokenSample::kNoLabel) continue;
        EXPECT_TRUE(at >= static_cast<size_t>(2 * pairs) && at % 2 == 0);
        EXPECT_EQ(sample.labels[at], value_of.at(sample.inputs[at]));
        asked.insert(sample.inputs[at]);
      }
      EXPECT_EQ(asked.size(), static_cast<size_t>(pairs));
    }
  }
}

// With one pair the slot has weight s^(a-1) exactly.
TEST(Mqar, SlotsFollowThePowerLaw) {
  const auto task = make_task("mqar", {{"length", 18}, {"pairs", 1}, {"vocabulary", 64}, {"power", 0.5}});
  constexpr int n = 20'000;
  std::array<double, 8> counts{};
  for (uint64_t i = 0; i < n; ++i) {
    const auto sample = task->tokens(Split::train, i);
    for (size_t slot = 0; slot < 8; ++slot) counts[slot] += sample.labels[2 + 2 * slot] != TokenSample::kNoLabel;
  }
  double sum = 0;
  for (int s = 1; s <= 8; ++s) sum += std::pow(s, -0.5);
  for (int s = 1; s <= 8; ++s) {
    const double p = std::pow(s, -0.5) / sum;
    EXPECT_NEAR(counts[static_cast<size_t>(s - 1)], n * p, 4.5 * std::sqrt(n * p * (1 - p))) << s;
  }
}

TEST(Tasks, RefuseBadParameters) {
  const auto refused = [](const char* name, const json& parameters, std::string_view expected) {
    const auto message = error_of([&] { make_task(name, parameters); });
    EXPECT_NE(message.find(expected), message.npos) << message;
  };
  refused("niah_singel", {}, "niah_single");
  refused("niah_single", {{"max_token", 5}}, "max_token");
  refused("niah_single", {{"max_tokens", 10}}, "max_tokens = 10");
  refused("niah_single", {{"filler", "sand"}}, "filler = sand");
  refused("niah_single", {{"depth", 101}}, "depth = 101");
  EXPECT_NE(error_of([] { make_task("passkeys", {{"max_tokens", 1000}})->tokens(Split::test, 0); }).find("too few"),
            std::string::npos);
  refused("kv_lookup", {{"max_tokens", 100000}, {"key_length", 2}}, "different keys of length 2");
  refused("assoc_recall", {{"pairs", 100}, {"key_length", 1}}, "different keys of length 1");
  refused("repeat", {{"length", 1000}, {"cue", 1}}, "too short");
  refused("mqar", {{"length", 63}}, "an even number");
  refused("mqar", {{"pairs", 40}}, "pairs = 40");
  EXPECT_NE(error_of([] { make_text_task("mqar"); }).find("no text"), std::string::npos);
}

TEST(Tasks, TheRegistryNamesEveryTaskAndItsParameters) {
  std::set<std::string> names;
  for (const auto& row : task_rows()) {
    EXPECT_TRUE(names.insert(row.name).second);
    EXPECT_EQ(row.kind, Kind::task);
    json defaults = json::object();
    for (const auto& parameter : row.parameters) {
      EXPECT_FALSE(parameter.meaning.empty());
      defaults[parameter.name] = parameter.fallback;
    }
    // What is documented as the default is the default.
    const auto plain = make_task(row.name)->tokens(Split::train, 1),
               given = make_task(row.name, defaults)->tokens(Split::train, 1);
    EXPECT_EQ(plain.inputs, given.inputs) << row.name;
    EXPECT_EQ(plain.labels, given.labels) << row.name;
  }
}

TEST(Metrics, KnownValues) {
  const std::vector<std::string> references = {"Alpha", "beta"};
  EXPECT_EQ(match_all("the ALPHA case", references), 0.5);
  EXPECT_EQ(match_all("beta and alpha", references), 1);
  EXPECT_EQ(match_any("no beta", references), 1);
  EXPECT_EQ(match_any("gamma", references), 0);
  EXPECT_EQ(exact(" 1234.", "1234"), 1);
  EXPECT_EQ(exact("x1234", "1234"), 0);
  const auto none = wilson(0, 10), half = wilson(50, 100);
  EXPECT_EQ(none.low, 0);
  EXPECT_NEAR(none.high, 0.2775, 1e-4);  // published: 0 of 10
  EXPECT_NEAR(half.low, 0.4038, 1e-4);
  EXPECT_NEAR(half.high, 0.5962, 1e-4);
}

}  // namespace
}  // namespace heed::tasks
