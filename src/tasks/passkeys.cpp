#include "tasks/passkeys.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "heed/nn/config.h"
#include "tasks/filler.h"

namespace heed::tasks {
namespace {

constexpr std::array<std::string_view, 26> kNato = {
    "alpha",   "bravo", "charlie", "delta",  "echo",     "foxtrot", "golf",   "hotel",  "india",
    "juliett", "kilo",  "lima",    "mike",   "november", "oscar",   "papa",   "quebec", "romeo",
    "sierra",  "tango", "uniform", "victor", "whiskey",  "x-ray",   "yankee", "zulu"};
constexpr int64_t kLongestWord = 8;
constexpr std::array<std::string_view, 10> kOrdinals = {"first", "second",  "third",  "fourth", "fifth",
                                                        "sixth", "seventh", "eighth", "ninth",  "tenth"};
constexpr int64_t kDepths = 1000;  // points from 5 to 95 % of the haystack
constexpr int64_t kLengths = 50;   // limits from the smallest to the largest

std::string statement(size_t passkey) { return fmt::format("the {} passkey is ", kOrdinals[passkey]); }

}  // namespace

std::vector<Parameter> PasskeysTask::parameters() {
  return {{"max_tokens", 32000, "bytes of prompt and answers together, at most"},
          {"min_tokens", 0, "when positive, each sample's limit is one of 50 from min_tokens to max_tokens"},
          {"passkeys", 10, "hidden, and asked for in order"},
          {"words", 32, "of each passkey, drawn from 26"},
          {"filler", "prose", "noise, prose or, where a text is given, text"},
          {"seed", 0, "another family of samples"}};
}

PasskeysTask::PasskeysTask(const nlohmann::json& parameters, TextSource source) : source_(std::move(source)) {
  ConfigReader reader(name_, parameters);
  max_tokens_ = reader.integer("max_tokens", 32000, 128, int64_t{1} << 24);
  min_tokens_ = reader.integer("min_tokens", 0, 0, max_tokens_);
  passkeys_ = reader.integer("passkeys", 10, 1, int64_t(kOrdinals.size()));
  words_ = reader.integer("words", 32, 1, 1024);
  std::vector<std::string> fillers = {"noise", "prose"};
  if (source_) fillers.push_back("text");
  filler_ = reader.choice("filler", "prose", fillers);
  seed_ = static_cast<uint64_t>(reader.integer("seed", 0, 0));
  reader.finish();
}

double PasskeysTask::chance() const { return std::pow(1.0 / double(kNato.size()), double(words_)); }

int64_t PasskeysTask::answer_bytes() const { return words_ * (kLongestWord + 1); }

TaskSample PasskeysTask::sample(Split split, uint64_t index) const {
  Random random(stream_key(name_, split, seed_), index);
  int64_t limit = max_tokens_;
  if (min_tokens_ > 0)
    limit = min_tokens_ + (max_tokens_ - min_tokens_) * int64_t(random.below(kLengths)) / (kLengths - 1);

  std::vector<std::string> passkeys;
  for (int64_t p = 0; p < passkeys_; ++p) {
    std::string words;
    for (int64_t w = 0; w < words_; ++w) words += (w ? " " : "") + std::string(kNato[random.below(kNato.size())]);
    passkeys.push_back(std::move(words));
  }
  std::string tail;
  int64_t hidden = 0;
  for (size_t p = 0; p < passkeys.size(); ++p) {
    tail += (p ? ".\n" : "") + statement(p) + passkeys[p];
    hidden += int64_t(statement(p).size() + passkeys[p].size()) + 3;  // a period and up to two blanks
  }

  const auto bytes = static_cast<size_t>(limit);
  const Filler filler = filler_ == "noise"   ? Filler::noise(bytes)
                        : filler_ == "prose" ? Filler::prose(bytes, random)
                                             : Filler::given(source_(random, bytes));
  const auto tokens = [&](size_t words) {
    int64_t size = int64_t(tail.size()) + hidden + 1;
    for (const auto& sentence : filler.sentences(words)) size += int64_t(sentence.size());
    return size;
  };
  require(tokens(0) <= limit, "{}: {} tokens are too few for {} passkeys of {} words, which take {}", name_, limit,
          passkeys_, words_, tokens(0));
  size_t low = 0, high = filler.words();  // `low` words fit
  while (low < high) {
    const size_t middle = high - (high - low) / 2;
    tokens(middle) <= limit ? low = middle : high = middle - 1;
  }
  const auto sentences = filler.sentences(low);

  auto points = random.distinct(passkeys_, kDepths);
  std::sort(points.begin(), points.end());
  TaskSample sample;
  const auto count = static_cast<double>(sentences.size());
  auto depths = nlohmann::json::array();
  size_t next = 0;
  TextSpan asked;
  for (size_t i = 0; i <= sentences.size(); ++i) {
    for (; next < passkeys.size(); ++next) {
      const double depth = 0.05 + 0.9 * double(points[next]) / double(kDepths - 1);
      if (std::llround(depth * count) != int64_t(i)) break;
      if (!sample.prompt.empty() && sample.prompt.back() != ' ' && sample.prompt.back() != '\n') sample.prompt += ' ';
      sample.prompt += statement(next);
      const auto begin = int64_t(sample.prompt.size());
      sample.prompt += passkeys[next];
      asked = {begin, int64_t(sample.prompt.size())};
      sample.prompt += ". ";
      depths.push_back(depth);
    }
    if (i < sentences.size()) sample.prompt += sentences[i];
  }
  sample.prompt += '\n';
  const auto begin = int64_t(sample.prompt.size());
  const auto& answer = passkeys.back();
  sample.prompt += tail.substr(0, tail.size() - answer.size());
  const auto end = int64_t(sample.prompt.size());
  sample.continuation = answer;
  sample.answers = {answer};
  sample.answer_spans = {asked};
  sample.scored = {{begin, end}, {end, end + int64_t(answer.size())}};
  sample.meta = {{"filler", filler_}, {"depths", depths}, {"limit", limit}};
  return sample;
}

}  // namespace heed::tasks
