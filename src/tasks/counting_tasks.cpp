#include "tasks/counting_tasks.h"

#include <algorithm>
#include <cmath>

#include "heed/nn/config.h"
#include "tasks/haystack.h"

namespace heed::tasks {
namespace {

/// Below this many tokens RULER's repetitions leave no room for other words.
constexpr int64_t kSmallContext = 4096;
constexpr int64_t kLongestWord = 24;  // of adjective-noun

/// A text with its question, and the words that answer it with their places in the text.
TaskSample counted_sample(const Posed& posed, const std::vector<std::string>& asked,
                          const std::vector<TextSpan>& spans) {
  TaskSample sample;
  sample.prompt = posed.prompt;
  sample.answers = asked;
  sample.continuation = posed.continued(listed(asked));
  for (const auto& span : spans) sample.answer_spans.push_back({posed.begin + span.begin, posed.begin + span.end});
  const auto end = static_cast<int64_t>(sample.prompt.size());
  sample.scored = {{end, end + static_cast<int64_t>(sample.continuation.size())}};
  return sample;
}

TextSpan word_at(size_t begin, const std::string& word) {
  return {static_cast<int64_t>(begin), static_cast<int64_t>(begin + word.size())};
}

}  // namespace

std::vector<Parameter> CommonWordsTask::parameters() {
  return {{"max_tokens", 1024, "tokens of prompt and answer together, at most"},
          {"ids", "tiny", "words are tiny: 4 letters; full: adjective-noun"},
          {"common", 10, "common words"},
          {"common_times", 0, "times that each stands; 0: 30, or 6 below 4096 tokens"},
          {"other_times", 0, "times that every other word stands; 0: 3, or 1 below 4096 tokens"},
          Wording::parameter(),
          {"seed", 0, "another family of samples"}};
}

CommonWordsTask::CommonWordsTask(const nlohmann::json& parameters, TokenCount tokens) : tokens_(std::move(tokens)) {
  ConfigReader reader(name_, parameters);
  max_tokens_ = reader.integer("max_tokens", 1024, 64, int64_t{1} << 22);
  tiny_ = reader.choice("ids", "tiny", {"tiny", "full"}) == "tiny";
  common_ = reader.integer("common", 10, 1, 1000);
  const bool small = max_tokens_ < kSmallContext;
  common_times_ = reader.integer("common_times", 0, 0, 1 << 20);
  if (common_times_ == 0) common_times_ = small ? 6 : 30;
  other_times_ = reader.integer("other_times", 0, 0, 1 << 20);
  if (other_times_ == 0) other_times_ = small ? 1 : 3;
  require(other_times_ < common_times_, "{}: other_times = {}: less than common_times = {} is accepted", name_,
          other_times_, common_times_);
  wording_ = Wording::read(reader);
  seed_ = static_cast<uint64_t>(reader.integer("seed", 0, 0));
  reader.finish();
}

int64_t CommonWordsTask::answer_bytes() const {
  return common_ * ((tiny_ ? 4 : kLongestWord) + 2) - 2 + (wording_ ? 1 : 0);
}

double CommonWordsTask::chance() const {
  const auto meta = sample(Split::test, 0).meta;
  return static_cast<double>(common_) / static_cast<double>(common_ + meta.at("others").get<int64_t>());
}

TaskSample CommonWordsTask::sample(Split split, uint64_t index) const {
  Random random(stream_key(name_, split, seed_), index);
  std::set<std::string> taken;
  std::vector<std::string> words;
  const auto overlaps = [&](const std::string& word) {
    return std::any_of(words.begin(), words.begin() + std::min<std::ptrdiff_t>(common_, std::ssize(words)),
                       [&](const std::string& c) { return c.find(word) != c.npos || word.find(c) != word.npos; });
  };
  const auto need = [&](int64_t count) {
    while (static_cast<int64_t>(words.size()) < count) {
      auto word = fresh_id(
          name_, random, [&](Random& r) { return random_id(r, IdKind::word, tiny_); }, taken);
      // An answer that is a part of another word could not be told from it.
      if (!overlaps(word)) words.push_back(std::move(word));
    }
  };
  const auto list = [&](int64_t others, std::vector<size_t>* first) {
    need(common_ + others);
    std::vector<size_t> order;
    for (int64_t w = 0; w < common_ + others; ++w)
      order.insert(order.end(), static_cast<size_t>(w < common_ ? common_times_ : other_times_),
                   static_cast<size_t>(w));
    Random(stream_key(name_ + "/order", split, seed_), index).shuffle(order);
    if (first) first->assign(words.size(), std::string::npos);
    std::string text;
    for (size_t i = 0; i < order.size(); ++i) {
      text += fmt::format("{}. ", i + 1);
      if (first && (*first)[order[i]] == std::string::npos) (*first)[order[i]] = text.size();
      text += words[order[i]] + " ";
    }
    return text += '\n';
  };
  const auto posed = [&](const std::string& text) {
    return pose(wording_, text, fmt::format("the {} most common words are ", common_),
                {{"num_cw", std::to_string(common_)}});
  };
  const int64_t others = largest_fit(name_, 1, max_tokens_, [&](int64_t count) {
    const auto whole = posed(list(count, nullptr));
    return tokens_(whole.prompt + whole.continued(listed({words.begin(), words.begin() + common_})));
  });
  std::vector<size_t> first;
  const auto text = list(others, &first);
  std::vector<size_t> asked(static_cast<size_t>(common_));
  for (size_t i = 0; i < asked.size(); ++i) asked[i] = i;
  std::sort(asked.begin(), asked.end(), [&](size_t a, size_t b) { return first[a] < first[b]; });
  std::vector<std::string> answers;
  std::vector<TextSpan> spans;
  for (const size_t word : asked) {
    answers.push_back(words[word]);
    spans.push_back(word_at(first[word], words[word]));
  }
  auto sample = counted_sample(posed(text), answers, spans);
  sample.meta = {{"others", others}, {"common_times", common_times_}, {"other_times", other_times_}};
  return sample;
}

std::vector<Parameter> FrequentWordsTask::parameters() {
  return {{"max_tokens", 1024, "tokens of prompt and answer together, at most"},
          {"power", 2.0, "a of the count n k^-a / zeta(a) of rank k"},
          {"word_length", 4, "letters of a coded word; RULER has 6"},
          Wording::parameter(),
          {"seed", 0, "another family of samples"}};
}

FrequentWordsTask::FrequentWordsTask(const nlohmann::json& parameters, TokenCount tokens) : tokens_(std::move(tokens)) {
  ConfigReader reader(name_, parameters);
  max_tokens_ = reader.integer("max_tokens", 1024, 64, int64_t{1} << 22);
  power_ = reader.get<double>("power", 2.0);
  require(std::isfinite(power_) && power_ >= 1.1 && power_ <= 4, "{}: power = {}: 1.1 to 4 is accepted", name_, power_);
  word_length_ = reader.integer("word_length", 4, 3, 16);
  wording_ = Wording::read(reader);
  seed_ = static_cast<uint64_t>(reader.integer("seed", 0, 0));
  reader.finish();
}

double FrequentWordsTask::chance() const {
  return 3.0 / static_cast<double>(sample(Split::test, 0).meta.at("words").get<int64_t>());
}

TaskSample FrequentWordsTask::sample(Split split, uint64_t index) const {
  Random random(stream_key(name_, split, seed_), index);
  std::set<std::string> taken;
  std::vector<std::string> words;
  double zeta = 0;  // the sum over all ranks that can be met; its tail is an integral
  constexpr int kTerms = 1000;
  for (int k = 1; k < kTerms; ++k) zeta += std::pow(k, -power_);
  zeta += std::pow(kTerms - 0.5, 1 - power_) / (power_ - 1);
  const auto times = [&](int64_t n, int64_t rank) {
    return static_cast<int64_t>(
        std::floor(static_cast<double>(n) * std::pow(static_cast<double>(rank), -power_) / zeta));
  };
  const auto text_of = [&](int64_t n) {
    std::vector<size_t> order;
    for (int64_t rank = 1; times(n, rank) > 0; ++rank) {
      if (static_cast<int64_t>(words.size()) < rank)
        words.push_back(fresh_id(
            name_, random, [&](Random& r) { return random_symbols(r, kLetters, word_length_); }, taken));
      order.insert(order.end(), static_cast<size_t>(times(n, rank)), static_cast<size_t>(rank - 1));
    }
    Random(stream_key(name_ + "/order", split, seed_), index).shuffle(order);
    std::string text;
    for (const size_t word : order) text += (word == 0 ? "..." : words[word]) + " ";
    return text += '\n';
  };
  const auto posed = [&](const std::string& text) {
    return pose(wording_, text, "the three most frequent words are ", {});
  };
  // Ranks 2 to 5 must differ in their counts, or the answer is not determined.
  const auto determined = [&](int64_t n) {
    return times(n, 2) > times(n, 3) && times(n, 3) > times(n, 4) && times(n, 4) > times(n, 5);
  };
  int64_t least = 5;
  while (!determined(least)) ++least;
  int64_t fitted = largest_fit(name_, least, max_tokens_, [&](int64_t count) {
    const auto whole = posed(text_of(count));
    return tokens_(whole.prompt + whole.continued(listed({words.begin() + 1, words.begin() + 4})));
  });
  // Floors let ranks tie at a count above one at which they do not.
  while (!determined(fitted)) --fitted;
  const auto text = text_of(fitted);
  const std::vector<std::string> asked(words.begin() + 1, words.begin() + 4);
  std::vector<TextSpan> spans;
  for (const auto& word : asked) spans.push_back(word_at(text.find(word), word));
  auto sample = counted_sample(posed(text), asked, spans);
  int64_t different = 0;
  while (times(fitted, different + 1) > 0) ++different;
  sample.meta = {{"drawn", fitted}, {"words", different}};
  return sample;
}

}  // namespace heed::tasks
