#include "tasks/solver.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <sstream>
#include <vector>

namespace heed::tasks {
namespace {

using Strings = std::vector<std::string>;

std::string joined(const Strings& items) { return fmt::format("{}", fmt::join(items, ", ")); }

Strings split(const std::string& list) {
  Strings items;
  for (size_t at = 0; at <= list.size();) {
    const size_t end = std::min(list.find(", ", at), list.size());
    items.push_back(list.substr(at, end - at));
    at = end + 2;
  }
  return items;
}

/// The whole match and its groups.
Strings match(const std::string& text, const char* pattern) {
  std::smatch found;
  EXPECT_TRUE(std::regex_search(text, found, std::regex(pattern))) << text;
  Strings groups(found.begin(), found.end());
  groups.resize(8);
  return groups;
}

std::string question_of(const std::string& prompt) { return prompt.substr(prompt.rfind('\n') + 1); }

std::string needles(const std::string& prompt) {
  const auto question = question_of(prompt);
  const auto asked = match(question, "^the (number|code|word)s? of (.+) (is|are) $");
  Strings values;
  for (const auto& key : split(asked[2])) {
    const auto statement = "the " + asked[1] + " of " + key + " is ";
    const size_t end = prompt.size() - question.size();
    for (size_t at = prompt.find(statement); at < end; at = prompt.find(statement, at + 1)) {
      const size_t value = at + statement.size();
      values.push_back(prompt.substr(value, prompt.find(". ", value) - value));
    }
  }
  return joined(values);
}

std::string variables(const std::string& prompt) {
  const auto asked = match(question_of(prompt), "^the (\\d+) variables that hold (\\d+) are $");
  std::set<std::string> reached;
  Strings names;
  const std::regex assignment("VAR ([A-Z]+) = (?:VAR ([A-Z]+)|(\\d+))\\. ");
  for (std::sregex_iterator it(prompt.begin(), prompt.end(), assignment), end; it != end; ++it) {
    if ((*it)[3].matched ? (*it)[3] != asked[2] : !reached.contains((*it)[2])) continue;
    EXPECT_TRUE(reached.insert((*it)[1]).second);
    names.push_back((*it)[1]);
  }
  EXPECT_EQ(names.size(), std::stoul(asked[1])) << "not one chain: " << prompt;
  return joined(names);
}

/// The `most` words of the highest counts; of a tie at the border there is no answer.
Strings most_frequent(const std::string& text, size_t most, const std::string& skipped) {
  std::map<std::string, int> counts;
  std::istringstream words(text);
  for (std::string word; words >> word;)
    if (!std::regex_match(word, std::regex(skipped))) ++counts[word];
  std::vector<std::pair<int, std::string>> order;
  for (const auto& [word, count] : counts) order.emplace_back(-count, word);
  std::sort(order.begin(), order.end());
  EXPECT_LT(order.at(most - 1).first, order.at(most).first);
  Strings result;
  for (size_t i = 0; i < most; ++i) result.push_back(order[i].second);
  return result;
}

std::string threading(const std::string& prompt) {
  const auto question = question_of(prompt);
  const auto pairs = nlohmann::ordered_json::parse(prompt.substr(0, prompt.size() - question.size()));
  Strings values;
  if (question.find("keys with *") != question.npos) {
    for (const auto& [key, value] : pairs.items())
      if (key.find('*') != key.npos) values.push_back(value);
    return joined(values);
  }
  std::map<std::string, std::string> map;
  for (const auto& [key, value] : pairs.items()) EXPECT_TRUE(map.emplace(key, value).second) << key;
  const auto asked = match(question, "^(?:The values? of|Go from(?: each of)?) ([^ ]+(?:, [^ ]+)*) (?:is|are|to) ");
  const auto follow = [&](const auto& self, const std::string& key) -> std::pair<int, std::string> {
    const auto& value = map.at(key);
    std::pair<int, std::string> longest{1, value};
    int of_that_length = 0;
    for (const auto& next : split(value)) {
      if (!map.contains(next)) continue;
      auto [length, end] = self(self, next);
      if (length + 1 > longest.first) longest = {length + 1, end}, of_that_length = 0;
      of_that_length += length + 1 == longest.first;
    }
    EXPECT_LE(of_that_length, 1) << "two longest ways from " << key;
    return longest;
  };
  for (const auto& start : split(asked[1])) values.push_back(follow(follow, start).second);
  return joined(values);
}

}  // namespace

std::string solve(const std::string& task, const std::string& prompt) {
  if (task.starts_with("niah")) return needles(prompt);
  if (task.starts_with("threading")) return threading(prompt);
  if (task == "passkey") return match(prompt, "the pass key is (\\d{5})\\. ")[1];
  if (task == "vt") return variables(prompt);
  if (task == "cwe") {
    const auto asked = match(question_of(prompt), "^the (\\d+) most common words are $");
    const auto list = prompt.substr(0, prompt.rfind('\n'));
    auto words = most_frequent(list, std::stoul(asked[1]), "\\d+\\.");
    std::sort(words.begin(), words.end(), [&](const auto& a, const auto& b) { return list.find(a) < list.find(b); });
    return joined(words);
  }
  if (task == "fwe") return joined(most_frequent(prompt.substr(0, prompt.rfind('\n')), 3, "\\.\\.\\."));
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
  if (task == "copy") return prompt.substr(0, prompt.find_first_of(".|"));
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

}  // namespace heed::tasks
