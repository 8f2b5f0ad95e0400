#include "tasks/passkeys.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "heed/nn/config.h"
#include "tasks/filler.h"
#include "tasks/haystack.h"

namespace heed::tasks {
namespace {

constexpr std::array<std::string_view, 26> kNato = {
    "alpha",   "bravo", "charlie", "delta",  "echo",     "foxtrot", "golf",   "hotel",  "india",
    "juliett", "kilo",  "lima",    "mike",   "november", "oscar",   "papa",   "quebec", "romeo",
    "sierra",  "tango", "uniform", "victor", "whiskey",  "x-ray",   "yankee", "zulu"};
constexpr int64_t kLongestWord = 8;
constexpr std::array<std::string_view, 10> kOrdinals = {"first", "second",  "third",  "fourth", "fifth",
                                                        "sixth", "seventh", "eighth", "ninth",  "tenth"};
constexpr int64_t kPoints = 1000;  // points from 5 to 95 % of the haystack
constexpr int64_t kLengths = 50;   // limits from the smallest to the largest

std::string statement(size_t passkey) { return fmt::format("the {} passkey is ", kOrdinals[passkey]); }

}  // namespace

std::vector<Parameter> PasskeysTask::parameters() {
  return {{"max_tokens", 32000, "tokens of prompt and answers together, at most"},
          {"min_tokens", 0, "when positive, each sample's limit is one of 50 from min_tokens to max_tokens"},
          {"passkeys", 10, "hidden, and asked for in order"},
          {"words", 32, "of each passkey, drawn from 26"},
          {"filler", "prose", "noise, prose or, where a text is given, text"},
          {"seed", 0, "another family of samples"}};
}

PasskeysTask::PasskeysTask(const nlohmann::json& parameters, TokenCount tokens, TextSource source)
    : tokens_(std::move(tokens)), source_(std::move(source)) {
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
    for (int64_t w = 0; w < words_; ++w) {
      if (w) words += ' ';
      words += kNato[random.below(kNato.size())];
    }
    passkeys.push_back(std::move(words));
  }
  std::string tail;
  for (size_t p = 0; p < passkeys.size(); ++p) {
    if (p) tail += ".\n";
    tail += statement(p) + passkeys[p];
  }

  // As much filler as the limit can take, however many bytes a token has.
  const Random start = random;
  Filler filler;
  const auto most = static_cast<size_t>(limit);
  for (size_t bytes = most, held = 0; bytes <= 128 * most; bytes *= 2) {
    random = start;
    filler = filler_ == "noise"   ? Filler::noise(bytes)
             : filler_ == "prose" ? Filler::prose(bytes, random)
                                  : Filler::given(source_(random, bytes));
    const auto text = filler.text();
    if (tokens_(text) >= limit || text.size() == held) break;
    held = text.size();
  }
  auto points = random.distinct(passkeys_, kPoints);
  std::sort(points.begin(), points.end());

  struct Haystack {
    std::string text;
    TextSpan last;  // of the last passkey
    nlohmann::json depths = nlohmann::json::array();
  };
  const auto built = [&](int64_t words) {
    const auto sentences = filler.sentences(static_cast<size_t>(std::min(words, static_cast<int64_t>(filler.words()))));
    const auto count = static_cast<double>(sentences.size());
    Haystack haystack;
    std::string& text = haystack.text;
    size_t next = 0;
    for (size_t i = 0; i <= sentences.size(); ++i) {
      for (; next < passkeys.size(); ++next) {
        const double depth = 0.05 + 0.9 * double(points[next]) / double(kPoints - 1);
        if (std::llround(depth * count) != int64_t(i)) break;
        if (!text.empty() && text.back() != ' ' && text.back() != '\n') text += ' ';
        text += statement(next);
        const auto begin = int64_t(text.size());
        text += passkeys[next];
        haystack.last = {begin, int64_t(text.size())};
        text += ". ";
        haystack.depths.push_back(depth);
      }
      if (i < sentences.size()) text += sentences[i];
    }
    text += '\n';
    return haystack;
  };
  const Haystack haystack =
      built(largest_fit(name_, 0, limit, [&](int64_t words) { return tokens_(built(words).text + tail); }));
  TaskSample sample;
  sample.prompt = haystack.text;
  const auto begin = int64_t(sample.prompt.size());
  const auto& answer = passkeys.back();
  sample.prompt += tail.substr(0, tail.size() - answer.size());
  const auto end = int64_t(sample.prompt.size());
  sample.continuation = answer;
  sample.answers = {answer};
  sample.answer_spans = {haystack.last};
  sample.scored = {{begin, end}, {end, end + int64_t(answer.size())}};
  sample.meta = {{"filler", filler_}, {"depths", haystack.depths}, {"limit", limit}};
  return sample;
}

}  // namespace heed::tasks
