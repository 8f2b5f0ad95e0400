#include "tasks/sequence_tasks.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "heed/nn/config.h"
#include "heed/tasks/metrics.h"
#include "tasks/ids.h"

namespace heed::tasks {
namespace {

constexpr std::array<const char*, 4> kSequenceNames = {"copy", "selective_copy", "induction", "repeat"};
constexpr char kSeparator = '|', kNoise = '.', kSpecial = '*';

TextSpan span_behind(const std::string& prompt, const std::string& continuation) {
  const auto begin = static_cast<int64_t>(prompt.size());
  return {begin, begin + static_cast<int64_t>(continuation.size())};
}

}  // namespace

std::vector<Parameter> SequenceTask::parameters(Kind kind) {
  std::vector<Parameter> rows;
  switch (kind) {
    case Kind::copy:
      rows = {{"length", 32, "symbols to copy"},
              {"min_length", 0, "when positive, each sample's length is drawn from min_length to length"},
              {"delay", 0, "places of noise between the symbols and the copy"},
              {"symbols", 30, "size of the alphabet"}};
      break;
    case Kind::selective_copy:
      rows = {{"length", 256, "places"}, {"marked", 16, "symbols among them"}, {"symbols", 14, "size of the alphabet"}};
      break;
    case Kind::induction:
      rows = {{"length", 256, "bytes of the prompt"}, {"symbols", 16, "size of the alphabet"}};
      break;
    case Kind::repeat:
      rows = {{"length", 128, "symbols of the block that stands twice"},
              {"cue", 8, "symbols of the second block that are given and not counted"},
              {"symbols", 26, "size of the alphabet"}};
      break;
  }
  rows.push_back({"seed", 0, "another family of samples"});
  return rows;
}

SequenceTask::SequenceTask(Kind kind, const nlohmann::json& parameters)
    : kind_(kind), name_(kSequenceNames[static_cast<size_t>(kind)]) {
  constexpr int64_t kMost = int64_t{1} << 24;
  ConfigReader reader(name_, parameters);
  int64_t symbols = 0;
  switch (kind) {
    case Kind::copy:
      length_ = reader.integer("length", 32, 1, kMost);
      min_length_ = reader.integer("min_length", 0, 0, length_);
      delay_ = reader.integer("delay", 0, 0, kMost);
      symbols = 30;
      break;
    case Kind::selective_copy:
      length_ = reader.integer("length", 256, 1, kMost);
      marked_ = reader.integer("marked", std::min<int64_t>(16, length_), 1, length_);
      symbols = 14;
      break;
    case Kind::induction:
      length_ = reader.integer("length", 256, 3, kMost);
      symbols = 16;
      break;
    case Kind::repeat:
      length_ = reader.integer("length", 128, 2, kMost);
      cue_ = reader.integer("cue", std::min<int64_t>(8, length_ - 1), 1, length_ - 1);
      symbols = 26;
      break;
  }
  symbols = reader.integer("symbols", symbols, 2, static_cast<int64_t>(kAlphanumeric.size()));
  alphabet_ = kAlphanumeric.substr(0, static_cast<size_t>(symbols));
  seed_ = static_cast<uint64_t>(reader.integer("seed", 0, 0));
  reader.finish();
  // The cue has to tell its place apart, or the answer is not determined.
  require(kind != Kind::repeat ||
              std::pow(static_cast<double>(symbols), static_cast<double>(cue_)) >= 4.0 * static_cast<double>(length_),
          "{}: a cue of {} of {} symbols is too short for blocks of {}", name_, cue_, symbols, length_);
}

double SequenceTask::chance() const {
  return std::pow(static_cast<double>(alphabet_.size()), -static_cast<double>(answer_bytes()));
}

int64_t SequenceTask::answer_bytes() const {
  switch (kind_) {
    case Kind::copy:
      return length_;
    case Kind::selective_copy:
      return marked_;
    case Kind::induction:
      return 1;
    case Kind::repeat:
      break;
  }
  return length_ - cue_;
}

double SequenceTask::score(const TaskSample& sample, std::string_view output) const {
  return exact(output, sample.answers[0]);
}

TaskSample SequenceTask::sample(Split split, uint64_t index) const {
  Random random(stream_key(name_, split, seed_), index);
  TaskSample sample;
  switch (kind_) {
    case Kind::copy:
      copy(random, sample);
      break;
    case Kind::selective_copy:
      selective_copy(random, sample);
      break;
    case Kind::induction:
      induction(random, sample);
      break;
    case Kind::repeat:
      repeat(random, sample);
      break;
  }
  sample.answers = {sample.continuation};
  sample.scored = {span_behind(sample.prompt, sample.continuation)};
  return sample;
}

void SequenceTask::copy(Random& random, TaskSample& sample) const {
  const int64_t length = min_length_ > 0 ? random.between(min_length_, length_) : length_;
  sample.continuation = random_symbols(random, alphabet_, length);
  sample.prompt = sample.continuation + std::string(static_cast<size_t>(delay_), kNoise) + kSeparator;
  sample.answer_spans = {{0, length}};
  sample.meta = {{"length", length}};
}

void SequenceTask::selective_copy(Random& random, TaskSample& sample) const {
  auto places = random.distinct(marked_, length_);
  std::sort(places.begin(), places.end());
  sample.continuation = random_symbols(random, alphabet_, marked_);
  sample.prompt.assign(static_cast<size_t>(length_), kNoise);
  for (size_t i = 0; i < places.size(); ++i) sample.prompt[static_cast<size_t>(places[i])] = sample.continuation[i];
  sample.prompt += kSeparator;
  sample.meta = {{"places", places}};
}

void SequenceTask::induction(Random& random, TaskSample& sample) const {
  sample.prompt = random_symbols(random, alphabet_, length_);
  const int64_t place = random.between(0, length_ - 3);
  sample.prompt[static_cast<size_t>(place)] = kSpecial;
  sample.prompt.back() = kSpecial;
  sample.continuation = sample.prompt[static_cast<size_t>(place + 1)];
  sample.answer_spans = {{place + 1, place + 2}};
  sample.meta = {{"place", place}};
}

void SequenceTask::repeat(Random& random, TaskSample& sample) const {
  std::string block;
  do {
    block = random_symbols(random, alphabet_, length_);
  } while (block.find(block.substr(0, static_cast<size_t>(cue_)), 1) != block.npos);
  sample.prompt = block + block.substr(0, static_cast<size_t>(cue_));
  sample.continuation = block.substr(static_cast<size_t>(cue_));
  sample.answer_spans = {{cue_, length_}};
  sample.meta = {{"length", length_}};
}

}  // namespace heed::tasks
