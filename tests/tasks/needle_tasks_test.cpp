// What the cards say of RULER's tasks and of needle threading, beyond what holds for every text task.
#include <fmt/ranges.h>

#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "heed/tasks/metrics.h"
#include "heed/tasks/task.h"
#include "support/test_files.h"

namespace heed::tasks::needle_tasks_test {
namespace {

using nlohmann::json;

size_t times(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(Ruler, AnswersStandNowhereElse) {
  for (const char* name : {"niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2",
                           "niah_multikey_3", "niah_multivalue", "niah_multiquery", "passkey", "kv_lookup"}) {
    const auto task = make_text_task(name, {{"max_tokens", 1024}});
    for (uint64_t i = 0; i < 100; ++i) {
      const auto sample = task->sample(Split::test, i);
      for (const auto& answer : sample.answers) EXPECT_EQ(times(sample.prompt, answer), 1u) << name << " " << answer;
    }
  }
}

TEST(Ruler, DepthReachesTheBorders) {
  for (const char* name : {"niah_single_2", "niah_multikey_2", "niah_multikey_3", "passkey"}) {
    for (uint64_t i = 0; i < 20; ++i) {
      const auto first = make_text_task(name, {{"depth", 0}})->sample(Split::test, i);
      EXPECT_LT(first.answer_spans[0].begin, 32) << name;
      EXPECT_TRUE(first.prompt.starts_with("the ")) << name;
      const auto last = make_text_task(name, {{"depth", 100}})->sample(Split::test, i);
      EXPECT_EQ(last.prompt.substr(static_cast<size_t>(last.answer_spans[0].end), 3), ". \n") << name;
    }
  }
}

TEST(Ruler, DepthsAreDrawnWithoutReplacement) {
  const auto task = make_text_task("niah_multiquery", {{"keys", 20}, {"queries", 20}, {"max_tokens", 2048}});
  for (uint64_t i = 0; i < 50; ++i) {
    const auto depths = task->sample(Split::test, i).meta.at("depths").get<std::vector<int>>();
    EXPECT_EQ(std::set<int>(depths.begin(), depths.end()).size(), 20u);
  }
}

TEST(Ruler, ValuesOfAKeyAreNotThoseOfAnother) {
  const auto task = make_text_task("niah_multivalue", {{"keys", 4}, {"values", 4}, {"max_tokens", 2048}});
  const std::regex needle("the number of (\\w+) is (\\d{4})\\. ");
  for (uint64_t i = 0; i < 50; ++i) {
    const auto sample = task->sample(Split::test, i);
    std::map<std::string, std::set<std::string>> values;
    std::set<std::string> all;
    for (std::sregex_iterator it(sample.prompt.begin(), sample.prompt.end(), needle), end; it != end; ++it) {
      values[(*it)[1]].insert((*it)[2]);
      EXPECT_TRUE(all.insert((*it)[2]).second);
    }
    EXPECT_EQ(values.size(), 4u);
    EXPECT_EQ(values.at(sample.meta.at("keys")[0]), std::set(sample.answers.begin(), sample.answers.end()));
  }
}

TEST(Ruler, ChainsKeepTheirOrder) {
  const auto task = make_text_task("vt", {{"chains", 3}, {"max_tokens", 2048}});
  for (uint64_t i = 0; i < 50; ++i) {
    const auto sample = task->sample(Split::test, i);
    for (size_t a = 1; a < sample.answer_spans.size(); ++a)
      EXPECT_LT(sample.answer_spans[a - 1].end, sample.answer_spans[a].begin);
    EXPECT_EQ(times(sample.prompt, "VAR ") - 3u * 4u, 15u) << "5 names a chain, 4 of them read once";
  }
}

TEST(Ruler, CountsAreTheCards) {
  const auto counts = [](const std::string& text, const std::string& word) { return times(text, " " + word + " "); };
  for (const auto& [limit, common, other] : {std::tuple{2048, 6u, 1u}, {8192, 30u, 3u}}) {
    const auto sample = make_text_task("cwe", {{"max_tokens", limit}})->sample(Split::test, 1);
    std::map<std::string, size_t> all;
    const std::regex entry("(\\d+)\\. ([a-z]{4}) ");
    size_t number = 0;
    for (std::sregex_iterator it(sample.prompt.begin(), sample.prompt.end(), entry), end; it != end; ++it) {
      EXPECT_EQ(std::stoul((*it)[1]), ++number);
      ++all[(*it)[2]];
    }
    for (const auto& [word, count] : all) {
      const bool asked = std::find(sample.answers.begin(), sample.answers.end(), word) != sample.answers.end();
      EXPECT_EQ(count, asked ? common : other) << word;
    }
  }
  const auto sample = make_text_task("fwe", {{"max_tokens", 4096}})->sample(Split::test, 1);
  const auto n = sample.meta.at("drawn").get<double>();
  const double zeta = 1.6449340668482264;  // of 2
  EXPECT_EQ(times(sample.prompt, "... "), static_cast<size_t>(n / zeta));
  for (size_t rank = 2; rank <= 4; ++rank)
    EXPECT_EQ(counts(" " + sample.prompt, sample.answers[rank - 2]),
              static_cast<size_t>(n / zeta / static_cast<double>(rank * rank)));
}

TEST(Threading, TheSimplerFormsAreSpecialCases) {
  for (uint64_t i = 0; i < 20; ++i) {
    const auto text = [&](const char* name, const json& parameters) {
      return make_text_task(name, parameters)->sample(Split::test, i).text();
    };
    EXPECT_EQ(text("threading_multi_thread", {{"threads", 1}}), text("threading_thread", {}));
    EXPECT_EQ(text("threading_thread", {{"steps", 1}}), text("threading_single", {}));
    EXPECT_EQ(text("threading_multi", {{"needles", 1}}), text("threading_single", {}));
    EXPECT_EQ(text("threading_multi_thread", {{"steps", 1}, {"threads", 4}}), text("threading_multi", {}));
  }
}

TEST(Threading, PlacesFollowTheDirection) {
  const auto offsets = [](const TaskSample& sample, size_t thread, size_t steps) {
    std::vector<size_t> at;
    for (size_t s = 0; s < steps; ++s)
      at.push_back(
          sample.prompt.find(fmt::format("\"{}\": ", sample.meta.at("keys")[thread * steps + s].get<std::string>())));
    return at;
  };
  int unordered = 0;
  for (uint64_t i = 0; i < 30; ++i) {
    for (const char* direction : {"forward", "backward", "random"}) {
      const auto task =
          make_text_task("threading_multi_thread", {{"direction", direction}, {"steps", 5}, {"threads", 2}});
      const auto sample = task->sample(Split::test, i);
      for (size_t thread = 0; thread < 2; ++thread) {
        auto at = offsets(sample, thread, 5);
        if (*direction == 'b') std::reverse(at.begin(), at.end());
        const bool rises = std::adjacent_find(at.begin(), at.end(), std::greater_equal<>()) == at.end();
        if (*direction == 'r')
          unordered += !rises;
        else
          EXPECT_TRUE(rises) << direction;
      }
    }
  }
  EXPECT_GT(unordered, 50);  // of 60, each with 119 chances in 120
}

TEST(Threading, EveryIdHasOneRole) {
  for (const char* name : {"threading_single", "threading_multi", "threading_conditional", "threading_thread",
                           "threading_multi_thread", "threading_branched"}) {
    for (uint64_t i = 0; i < 20; ++i) {
      const auto sample = make_text_task(name, {{"max_tokens", 2048}})->sample(Split::test, i);
      const std::regex pair("\"([^\"]+)\": \"([^\"]+)\"");
      std::set<std::string> keys;
      std::map<std::string, int> values;
      for (std::sregex_iterator it(sample.prompt.begin(), sample.prompt.end(), pair), end; it != end; ++it) {
        EXPECT_TRUE(keys.insert((*it)[1]).second) << (*it)[1];
        const std::string list = (*it)[2];
        for (size_t at = 0; at < list.size(); at += 6) ++values[list.substr(at, 4)];
      }
      for (const auto& [value, count] : values) EXPECT_EQ(count, 1) << name << " " << value;
      size_t linked = 0;
      for (const auto& key : keys) linked += values.contains(key);
      const std::map<std::string, size_t> expected = {
          {"threading_thread", 3}, {"threading_multi_thread", 9}, {"threading_branched", 5}};
      const auto found = expected.find(name);
      EXPECT_EQ(linked, found == expected.end() ? 0u : found->second) << name;
    }
  }
}

TEST(Threading, ClustersAreContiguousAndDepthsReachTheBorders) {
  for (uint64_t i = 0; i < 20; ++i) {
    const auto sample =
        make_text_task("threading_multi", {{"placement", "clustered"}, {"needles", 6}})->sample(Split::test, i);
    auto places = sample.meta.at("places").get<std::vector<int>>();
    std::sort(places.begin(), places.end());
    EXPECT_EQ(places.back() - places.front(), 5);
    const auto first = make_text_task("threading_single", {{"depth", 0}})->sample(Split::test, i);
    EXPECT_EQ(first.answer_spans[0].begin, 10);  // {"abcd": "
    const auto last = make_text_task("threading_single", {{"depth", 100}})->sample(Split::test, i);
    EXPECT_EQ(last.prompt.substr(static_cast<size_t>(last.answer_spans[0].end), 3), "\"}\n");
  }
}

TEST(Threading, TheHaystackIsSizedInCharactersOnRequest) {
  const auto sample =
      make_text_task("threading_single", {{"max_characters", 1024}, {"max_tokens", 4096}})->sample(Split::test, 0);
  const auto size = sample.prompt.find('\n') + 1;
  EXPECT_TRUE(size <= 1024 && size > 1024 - 16) << size;
  EXPECT_EQ(sample.meta.at("pairs"), 63);
}

TEST(Threading, ListsAreScoredByPlace) {
  const auto task = make_text_task("threading_multi");
  const auto sample = task->sample(Split::test, 0);
  const auto& a = sample.answers;
  EXPECT_EQ(task->score(sample, fmt::format("{}, {}, {}, {}", a[0], a[1], a[2], a[3])), 1);
  EXPECT_EQ(task->score(sample, fmt::format(" {},{} {}", a[0], a[1], a[2])), 0.75);
  EXPECT_EQ(task->score(sample, fmt::format("{}, {}, {}, {}", a[1], a[0], a[2], a[3])), 0.5);
  EXPECT_EQ(task->score(sample, fmt::format("{}{}, {}", a[0], a[1], a[0])), 0);
}

TEST(Metrics, EffectiveContextIsTheLongestGoodOne) {
  const std::vector<int64_t> sizes = {256, 512, 1024, 2048};
  EXPECT_EQ(effective_context(sizes, std::vector<double>{1, 0.8, 0.75, 0.2}), 1024);
  EXPECT_EQ(effective_context(sizes, std::vector<double>{1, 0.8, 0.75, 0.2}, 0.9), 256);
  EXPECT_EQ(effective_context(sizes, std::vector<double>{0, 0, 0, 0.1}), 0);
  EXPECT_NE(error_of([&] { effective_context(sizes, std::vector<double>{1}); }).find("4 sizes"), std::string::npos);
}

}  // namespace
}  // namespace heed::tasks::needle_tasks_test
