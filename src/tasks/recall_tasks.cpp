#include "tasks/recall_tasks.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "heed/nn/config.h"
#include "tasks/haystack.h"
#include "tasks/ids.h"

namespace heed::tasks {
namespace {

// `count` different strings of `length` symbols.
std::vector<std::string> distinct_symbols(Random& random, std::string_view alphabet, int64_t length, int64_t count) {
  std::set<std::string> seen;
  std::vector<std::string> result;
  while (static_cast<int64_t>(result.size()) < count) {
    std::string text = random_symbols(random, alphabet, length);
    if (seen.insert(text).second) result.push_back(std::move(text));
  }
  return result;
}

// Drawing distinct strings by rejection stays quick only well below their number.
void check_enough(const std::string& task, std::string_view what, size_t symbols, int64_t length, int64_t count) {
  const double available = std::pow(static_cast<double>(symbols), static_cast<double>(length));
  require(static_cast<double>(count) <= 0.8 * available, "{}: {} different {} of length {}, accepted: at most {:.0f}",
          task, count, what, length, std::floor(0.8 * available));
}

int64_t size_of_text(const std::string& text) { return static_cast<int64_t>(text.size()); }

}  // namespace

std::vector<Parameter> KvLookupTask::parameters() {
  return {{"max_tokens", 512, "tokens of prompt and answer together, at most"},
          {"key_length", 4, "letters"},
          {"value_length", 4, "digits"},
          {"seed", 0, "another family of samples"}};
}

KvLookupTask::KvLookupTask(const nlohmann::json& parameters, TokenCount tokens) : tokens_(std::move(tokens)) {
  ConfigReader reader(name_, parameters);
  max_tokens_ = reader.integer("max_tokens", 512, 16, int64_t{1} << 24);
  key_length_ = reader.integer("key_length", 4, 1, 64);
  value_length_ = reader.integer("value_length", 4, 1, 64);
  seed_ = static_cast<uint64_t>(reader.integer("seed", 0, 0));
  reader.finish();
}

double KvLookupTask::chance() const { return 1.0 / sample(Split::test, 0).meta.at("lines").get<double>(); }

TaskSample KvLookupTask::sample(Split split, uint64_t index) const {
  // Lines are drawn as they are needed, so the first n are the same however many fit.
  Random random(stream_key(name_, split, seed_), index);
  std::set<std::string> keys, values;
  std::vector<std::pair<std::string, std::string>> lines;
  std::string text;
  std::vector<size_t> ends = {0};
  const auto first = [&](int64_t count) {
    while (static_cast<int64_t>(lines.size()) < count) {
      const auto key = [&](Random& r) { return random_symbols(r, kLetters, key_length_); };
      const auto value = [&](Random& r) { return random_symbols(r, kDigits, value_length_); };
      lines.emplace_back(fresh_id(name_, random, key, keys), fresh_id(name_, random, value, values));
      text += lines.back().first + ": " + lines.back().second + "\n";
      ends.push_back(text.size());
    }
    return std::string_view(text).substr(0, ends[static_cast<size_t>(count)]);
  };
  // The last line asks for one of them and is as long as they are.
  const int64_t fitted = largest_fit(name_, 2, max_tokens_, [&](int64_t count) { return tokens_(first(count + 1)); });
  Random choice(stream_key(name_ + "/asked", split, seed_), index);
  const size_t asked = choice.below(static_cast<uint64_t>(fitted));
  const auto& [key, value] = lines[asked];
  TaskSample sample;
  sample.prompt = std::string(first(fitted)) + key + ": ";
  sample.continuation = value;
  sample.answers = {value};
  const auto begin = static_cast<int64_t>(ends[asked] + key.size() + 2);
  sample.answer_spans = {{begin, begin + value_length_}};
  sample.scored = {{size_of_text(sample.prompt), size_of_text(sample.prompt) + value_length_}};
  sample.meta = {{"lines", fitted}, {"asked", asked}, {"keys", {key}}};
  return sample;
}

std::vector<Parameter> AssocRecallTask::parameters() {
  return {{"pairs", 8, "key-value pairs"},
          {"queries", 0, "keys asked for, all different; 0: all of them"},
          {"key_length", 2, "letters"},
          {"value_length", 2, "digits"},
          {"seed", 0, "another family of samples"}};
}

AssocRecallTask::AssocRecallTask(const nlohmann::json& parameters) {
  ConfigReader reader(name_, parameters);
  pairs_ = reader.integer("pairs", 8, 1, 1 << 20);
  queries_ = reader.integer("queries", 0, 0, pairs_);
  if (queries_ == 0) queries_ = pairs_;
  key_length_ = reader.integer("key_length", 2, 1, 64);
  value_length_ = reader.integer("value_length", 2, 1, 64);
  seed_ = static_cast<uint64_t>(reader.integer("seed", 0, 0));
  reader.finish();
  check_enough(name_, "keys", kLetters.size(), key_length_, pairs_);
}

TaskSample AssocRecallTask::sample(Split split, uint64_t index) const {
  Random random(stream_key(name_, split, seed_), index);
  const auto keys = distinct_symbols(random, kLetters, key_length_, pairs_);
  std::vector<std::string> values;
  std::vector<TextSpan> places;
  TaskSample sample;
  for (const auto& key : keys) {
    values.push_back(random_symbols(random, kDigits, value_length_));
    sample.prompt += key + "=";
    places.push_back({size_of_text(sample.prompt), size_of_text(sample.prompt) + value_length_});
    sample.prompt += values.back() + " ";
  }
  sample.prompt += "| ";
  const auto asked = random.distinct(queries_, pairs_);
  for (size_t i = 0; i < asked.size(); ++i) {
    const auto pair = static_cast<size_t>(asked[i]);
    sample.prompt += keys[pair] + "=";
    sample.scored.push_back({size_of_text(sample.prompt), size_of_text(sample.prompt) + value_length_});
    if (i + 1 < asked.size()) sample.prompt += values[pair] + " ";
  }
  const auto last = static_cast<size_t>(asked.back());
  sample.continuation = values[last];
  sample.answers = {values[last]};
  sample.answer_spans = {places[last]};
  sample.meta = {{"asked", asked}};
  return sample;
}

std::vector<Parameter> MqarTask::parameters() {
  return {{"vocabulary", 512, "tokens; above length"},
          {"length", 64, "tokens of a sample, even"},
          {"pairs", 4, "key-value pairs; 4 * pairs + 2 * overwrite <= length"},
          {"overwrite", 0, "of the keys, so many get a second value among the pairs; the last one counts"},
          {"power", 0.01, "a of the weight s^(a-1) of slot s: small puts queries near their pairs"},
          {"seed", 0, "another family of samples"}};
}

MqarTask::MqarTask(const nlohmann::json& parameters) {
  ConfigReader reader(name_, parameters);
  length_ = reader.integer("length", 64, 4, int64_t{1} << 20);
  require(length_ % 2 == 0, "{}: length = {}: an even number is accepted", name_, length_);
  vocabulary_ = reader.integer("vocabulary", 512, length_ + 1, int64_t{1} << 24);
  pairs_ = reader.integer("pairs", 4, 1, length_ / 4);
  overwrite_ = reader.integer("overwrite", 0, 0, std::min(pairs_, (length_ - 4 * pairs_) / 2));
  power_ = reader.get<double>("power", 0.01);
  require(std::isfinite(power_) && power_ > 0 && power_ <= 10, "{}: power = {}: above 0 to 10 is accepted", name_,
          power_);
  seed_ = static_cast<uint64_t>(reader.integer("seed", 0, 0));
  reader.finish();
}

Example MqarTask::example(Split split, uint64_t index) const {
  Random random(stream_key(name_, split, seed_), index);
  const int64_t half = vocabulary_ / 2, writes = pairs_ + overwrite_;
  const auto keys = random.distinct(pairs_, half - 1);              // of [1, half)
  const auto values = random.distinct(writes, vocabulary_ - half);  // of [half, vocabulary)
  // The pair whose key a write has.
  std::vector<int64_t> pair_of(static_cast<size_t>(pairs_));
  std::iota(pair_of.begin(), pair_of.end(), int64_t{0});
  if (overwrite_ > 0) {
    const auto again = random.distinct(overwrite_, pairs_);
    pair_of.insert(pair_of.end(), again.begin(), again.end());
    const auto order = random.distinct(writes, writes);
    std::vector<int64_t> ordered;
    for (const int64_t i : order) ordered.push_back(pair_of[static_cast<size_t>(i)]);
    pair_of = std::move(ordered);
  }
  Example sample;
  const auto at = [](std::vector<int64_t>& tokens, int64_t i) -> int64_t& { return tokens[static_cast<size_t>(i)]; };
  sample.tokens.assign(static_cast<size_t>(length_), 0);
  sample.labels.assign(static_cast<size_t>(length_), Example::kNoLabel);
  std::vector<int64_t> last_value(static_cast<size_t>(pairs_));
  for (int64_t i = 0; i < writes; ++i) {
    const auto pair = static_cast<size_t>(pair_of[static_cast<size_t>(i)]);
    at(sample.tokens, 2 * i) = 1 + keys[pair];
    at(sample.tokens, 2 * i + 1) = last_value[pair] = half + values[static_cast<size_t>(i)];
  }
  // Slots without replacement in proportion to their weights: the largest of log weight + Gumbel noise, in that order.
  std::vector<std::pair<double, int64_t>> slots;
  for (int64_t s = 1; s <= (length_ - 2 * writes) / 2; ++s) {
    const double gumbel = -std::log(-std::log1p(-random.uniform()));
    slots.push_back({(power_ - 1) * std::log(static_cast<double>(s)) + gumbel, s});
  }
  std::partial_sort(slots.begin(), slots.begin() + pairs_, slots.end(), std::greater<>());
  for (int64_t i = 0; i < pairs_; ++i) {
    const int64_t place = 2 * writes + 2 * (slots[static_cast<size_t>(i)].second - 1);
    at(sample.tokens, place) = 1 + keys[static_cast<size_t>(i)];
    at(sample.labels, place) = last_value[static_cast<size_t>(i)];
  }
  for (auto& token : sample.tokens) {
    if (token == 0) token = static_cast<int64_t>(random.below(static_cast<uint64_t>(vocabulary_)));
  }
  return sample;
}

}  // namespace heed::tasks
