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
#include "support/tokenizer_fixtures.h"
#include "tasks/solver.h"

namespace heed::tasks::task_test {
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
      {"niah_single_1", json::object()},
      {"niah_single_2", json::object()},
      {"niah_single_3", {{"ids", "full"}}},
      {"niah_multikey_1", {{"ids", "full"}, {"max_tokens", 2048}}},
      {"niah_multikey_2", {{"ids", "full"}, {"max_tokens", 2048}}},
      {"niah_multikey_3", {{"ids", "full"}, {"max_tokens", 4096}}},
      {"niah_multivalue", json::object()},
      {"niah_multivalue", {{"keys", 3}, {"values", 3}, {"max_tokens", 1000}, {"ids", "full"}}},
      {"niah_multiquery", json::object()},
      {"niah_multiquery", {{"keys", 5}, {"queries", 2}, {"values", 2}, {"max_tokens", 2000}}},
      {"passkey", json::object()},
      {"vt", json::object()},
      {"vt", {{"chains", 4}, {"name_length", 5}, {"max_tokens", 2000}, {"filler", "prose"}}},
      {"cwe", json::object()},
      {"cwe", {{"max_tokens", 8192}}},
      {"cwe", {{"max_tokens", 4096}, {"ids", "full"}, {"common", 5}}},
      {"fwe", json::object()},
      {"fwe", {{"word_length", 6}, {"max_tokens", 4096}, {"power", 1.5}}},
      {"kv_lookup", json::object()},
      {"kv_lookup", {{"max_tokens", 2000}, {"key_length", 3}}},
      {"threading_single", json::object()},
      {"threading_single", {{"ids", "full"}, {"max_tokens", 4096}, {"depth", 30}}},
      {"threading_multi", json::object()},
      {"threading_multi", {{"needles", 9}, {"placement", "clustered"}, {"max_tokens", 3000}}},
      {"threading_conditional", json::object()},
      {"threading_conditional", {{"needles", 7}, {"placement", "clustered"}}},
      {"threading_thread", json::object()},
      {"threading_thread", {{"direction", "backward"}, {"steps", 9}}},
      {"threading_thread", {{"direction", "random"}, {"ids", "full"}, {"max_tokens", 4096}}},
      {"threading_multi_thread", json::object()},
      {"threading_multi_thread", {{"threads", 5}, {"direction", "backward"}}},
      {"threading_branched", json::object()},
      {"threading_branched", {{"branches", 4}, {"steps", 6}, {"direction", "random"}}},
      {"assoc_recall", json::object()},
      {"assoc_recall", {{"pairs", 40}, {"queries", 3}}},
      {"copy", json::object()},
      {"copy", {{"length", 50}, {"min_length", 1}, {"symbols", 62}}},
      {"copy", {{"length", 5}, {"delay", 90}}},
      {"selective_copy", json::object()},
      {"induction", json::object()},
      {"repeat", json::object()},
      {"repeat", {{"length", 1000}, {"cue", 5}}},
  };
  return cases;
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
  // Of a list all but the last stay right.
  EXPECT_NEAR(task->score(sample, wrong), 1 - 1 / static_cast<double>(sample.answers.size()), 1e-12);
  EXPECT_GE(task->chance(), 0);  // of a long copy it is below what a double can hold
  EXPECT_LT(task->chance(), 0.5);
  EXPECT_GT(task->metric_chance(), 0);
  EXPECT_LT(task->metric_chance(), 1);
}

TEST_P(TextTasks, SpansDecodeToTheAnswers) {
  const auto task = this->task();
  for (uint64_t i = 0; i < 50; ++i) {
    const auto sample = task->sample(Split::train, i);
    ASSERT_FALSE(sample.continuation.empty());
    EXPECT_EQ(sample.continuation, fmt::format("{}", fmt::join(sample.answers, ", ")));
    EXPECT_LE(static_cast<int64_t>(sample.continuation.size()), task->answer_bytes());
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
  const auto tokens = task->example(Split::valid, 7);
  const std::string text = sample.text();
  ASSERT_EQ(tokens.tokens.size(), text.size() - 1);
  ASSERT_EQ(tokens.labels.size(), text.size() - 1);
  size_t labelled = 0, scored = 0;
  for (size_t i = 0; i + 1 < text.size(); ++i) {
    EXPECT_EQ(tokens.tokens[i], static_cast<unsigned char>(text[i]));
    if (tokens.labels[i] == Example::kNoLabel) continue;
    EXPECT_EQ(tokens.labels[i], static_cast<unsigned char>(text[i + 1]));
    ++labelled;
  }
  for (const auto& span : sample.scored) scored += static_cast<size_t>(span.end - span.begin);
  EXPECT_EQ(labelled, scored);
}

TEST_P(TextTasks, FitTheLimitInTokensOfAnyTokenizer) {
  const std::string task_name = item().name;
  const auto rows = task_rows();
  const auto row = std::find_if(rows.begin(), rows.end(), [&](const auto& r) { return r.name == item().name; });
  const auto has_limit = [](const Parameter& p) { return p.name == "max_tokens"; };
  if (std::none_of(row->parameters.begin(), row->parameters.end(), has_limit)) return;
  if (item().parameters.contains("min_tokens")) return;  // drawn limits
  for (const char* family : {"bytes", "gpt2", "llama2", "bert"}) {
    const auto tokenizer = std::string(family) == "bytes" ? formats::Tokenizer::bytes()
                                                          : formats::Tokenizer::open(tokenizer_fixtures() / family);
    const auto count = [&](std::string_view text) { return static_cast<int64_t>(tokenizer.encode(text).size()); };
    for (int64_t limit : {1536, 4096}) {
      if (task_name == "passkeys") limit *= 6;  // ten of 32 words, twice
      auto parameters = item().parameters;
      parameters["max_tokens"] = limit;
      const auto task = make_text_task(item().name, parameters, count);
      for (uint64_t i = 0; i < 2; ++i) {
        const auto sample = task->sample(Split::test, i);
        const int64_t size = count(sample.text());
        EXPECT_LE(size, limit) << family;
        EXPECT_GT(static_cast<double>(size), 0.9 * static_cast<double>(limit)) << family;
        for (size_t a = 0; a < sample.answer_spans.size(); ++a)
          EXPECT_EQ(sample.answer_spans[a].of(sample.prompt), sample.answers[a]) << family;
        EXPECT_EQ(task->score(sample, solve(item().name, sample.prompt)), 1) << family;
      }
    }
  }
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

TEST(Copy, NoiseStandsBetweenSymbolsAndCopy) {
  const auto sample = make_text_task("copy", {{"length", 5}, {"delay", 90}})->sample(Split::train, 0);
  EXPECT_EQ(sample.prompt, sample.continuation + std::string(90, '.') + '|');
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
    EXPECT_EQ(task->face().vocabulary, 1024);
    for (uint64_t i = 0; i < 30; ++i) {
      const auto sample = task->example(Split::train, i);
      ASSERT_EQ(sample.tokens.size(), static_cast<size_t>(length));
      std::map<int64_t, int64_t> value_of;
      for (int p = 0; p < pairs; ++p) {
        const int64_t key = sample.tokens[static_cast<size_t>(2 * p)],
                      value = sample.tokens[static_cast<size_t>(2 * p + 1)];
        EXPECT_TRUE(key >= 1 && key < 512 && value >= 512 && value < 1024) << key << " " << value;
        value_of[key] = value;
      }
      EXPECT_EQ(value_of.size(), static_cast<size_t>(pairs));
      std::set<int64_t> asked;
      for (size_t at = 0; at < sample.tokens.size(); ++at) {
        if (sample.labels[at] == Example::kNoLabel) continue;
        EXPECT_TRUE(at >= static_cast<size_t>(2 * pairs) && at % 2 == 0);
        EXPECT_EQ(sample.labels[at], value_of.at(sample.tokens[at]));
        asked.insert(sample.tokens[at]);
      }
      EXPECT_EQ(asked.size(), static_cast<size_t>(pairs));
    }
  }
}

// Of keys that are written twice the value written last is asked for.
TEST(Mqar, TheLastOfOverwrittenValuesCounts) {
  constexpr int kPairs = 8, kOverwrite = 5, kWrites = kPairs + kOverwrite;
  const auto task = make_task("mqar", {{"length", 64}, {"pairs", kPairs}, {"overwrite", kOverwrite}});
  int not_first = 0;
  for (uint64_t i = 0; i < 200; ++i) {
    const auto sample = task->example(Split::train, i);
    ASSERT_EQ(sample.tokens.size(), 64u);
    std::map<int64_t, std::vector<int64_t>> values_of;
    for (size_t w = 0; w < kWrites; ++w) values_of[sample.tokens[2 * w]].push_back(sample.tokens[2 * w + 1]);
    EXPECT_EQ(values_of.size(), static_cast<size_t>(kPairs));
    int twice = 0;
    for (const auto& [key, values] : values_of) {
      EXPECT_LE(values.size(), 2u);
      twice += values.size() == 2;
      EXPECT_TRUE(values.size() < 2 || values[0] != values[1]);
    }
    EXPECT_EQ(twice, kOverwrite);
    not_first += values_of.at(sample.tokens[0]).size() == 1;
    std::set<int64_t> asked;
    for (size_t at = 0; at < sample.tokens.size(); ++at) {
      if (sample.labels[at] == Example::kNoLabel) continue;
      EXPECT_TRUE(at >= 2 * kWrites && at % 2 == 0);
      EXPECT_EQ(sample.labels[at], values_of.at(sample.tokens[at]).back());
      EXPECT_TRUE(asked.insert(sample.tokens[at]).second);
    }
    EXPECT_EQ(asked.size(), static_cast<size_t>(kPairs));
  }
  // Writes are in random order: the first is of a key written once with a chance of 3 / 13.
  EXPECT_NEAR(not_first, 200 * 3.0 / 13, 4.5 * std::sqrt(200 * 3.0 / 13 * 10 / 13));
}

// With one pair the slot has weight s^(a-1) exactly.
TEST(Mqar, SlotsFollowThePowerLaw) {
  const auto task = make_task("mqar", {{"length", 18}, {"pairs", 1}, {"vocabulary", 64}, {"power", 0.5}});
  constexpr int n = 20'000;
  std::array<double, 8> counts{};
  for (uint64_t i = 0; i < n; ++i) {
    const auto sample = task->example(Split::train, i);
    for (size_t slot = 0; slot < 8; ++slot) counts[slot] += sample.labels[2 + 2 * slot] != Example::kNoLabel;
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
  EXPECT_NE(error_of([] {
              make_task("passkeys", {{"max_tokens", 1000}})->example(Split::test, 0);
            }).find("too few"),
            std::string::npos);
  refused("assoc_recall", {{"pairs", 100}, {"key_length", 1}}, "different keys of length 1");
  refused("niah_multiquery", {{"queries", 5}}, "queries = 5");
  refused("niah_multivalue", {{"values", 41}}, "values = 41");
  refused("vt", {{"chains", 9}}, "chains = 9");
  refused("fwe", {{"power", 1.0}}, "power = 1");
  refused("cwe", {{"other_times", 6}}, "other_times = 6");
  refused("threading_branched", {{"steps", 2}}, "steps = 2");
  refused("threading_thread", {{"direction", "up"}}, "direction = up");
  const auto too_small = [](const char* name, const json& parameters, std::string_view expected) {
    const auto message = error_of([&] { make_text_task(name, parameters)->sample(Split::test, 0); });
    EXPECT_NE(message.find(expected), message.npos) << message;
  };
  too_small("kv_lookup", {{"max_tokens", 100000}, {"key_length", 2}}, "nearly every id");
  too_small("cwe", {{"max_tokens", 200}}, "cwe: 200 tokens are too few");
  too_small("threading_multi", {{"needles", 40}, {"max_tokens", 200}}, "200 tokens are too few");
  refused("repeat", {{"length", 1000}, {"cue", 1}}, "too short");
  refused("copy", {{"delay", -1}}, "delay = -1");
  refused("mqar", {{"length", 63}}, "an even number");
  refused("mqar", {{"pairs", 40}}, "pairs = 40");
  refused("mqar", {{"pairs", 14}, {"overwrite", 5}}, "overwrite = 5: 0 to 4 is accepted");
  refused("mqar", {{"overwrite", 5}}, "overwrite = 5: 0 to 4 is accepted");
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
    const auto plain = make_task(row.name)->example(Split::train, 1),
               given = make_task(row.name, defaults)->example(Split::train, 1);
    EXPECT_EQ(plain.tokens, given.tokens) << row.name;
    EXPECT_EQ(plain.labels, given.labels) << row.name;
  }
}

// The same bytes on every machine and with every compiler: what was generated when the tasks were written.
TEST(Tasks, SamplesAreTheRecordedBytes) {
  const std::map<std::string, uint64_t> recorded = {
      {"niah_single", 0x1c2fd98c7e2524e8},
      {"niah_multikey", 0x5f4ddbe5e1e28e3b},
      {"niah_single_1", 0xd6d5c10453f12ff3},
      {"niah_single_2", 0x4e08e8dcadd49099},
      {"niah_single_3", 0x518b886c16583d8a},
      {"niah_multikey_1", 0x55e530351b32f848},
      {"niah_multikey_2", 0x324766e6b09bd11a},
      {"niah_multikey_3", 0x3c53e3ac85d3bc7f},
      {"niah_multivalue", 0x0d8548d8161f3fa6},
      {"niah_multiquery", 0xd67a49eeba5115b9},
      {"passkeys", 0xb8a16bbd5b2cb8f0},
      {"passkey", 0x89064b95dde9fde7},
      {"vt", 0xf0055df966c869db},
      {"cwe", 0xd20c52fbe5de177b},
      {"fwe", 0x6e9bd60eaa09076a},
      {"kv_lookup", 0x5e9cc8884e90fae5},
      {"threading_single", 0x6af8c62f050b9057},
      {"threading_multi", 0xb501713087bdda58},
      {"threading_conditional", 0x762566190b2d5587},
      {"threading_thread", 0x96505d558fdbd059},
      {"threading_multi_thread", 0x6dfee7416d999795},
      {"threading_branched", 0x2bdd296161721747},
      {"assoc_recall", 0xb43ec6931011f119},
      {"copy", 0x49b5de8ba011e47c},
      {"selective_copy", 0x981e214d5f3d48a7},
      {"induction", 0x568671e58b2a9c7d},
      {"repeat", 0x5db9d2b21d89c5ea},
  };
  for (const auto& row : task_rows()) {
    const auto task = make_task(row.name);
    const auto* text = dynamic_cast<const TextTask*>(task.get());
    if (!text) continue;
    std::string all;
    for (uint64_t i = 0; i < 3; ++i) all += text->sample(Split::test, i).text();
    const auto found = recorded.find(row.name);
    EXPECT_TRUE(found != recorded.end() && found->second == hash64(all))
        << fmt::format("{{\"{}\", 0x{:016x}}},", row.name, hash64(all));
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
}  // namespace heed::tasks::task_test
