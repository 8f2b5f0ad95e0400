#include "tasks/threading_tasks.h"

#include <algorithm>
#include <array>

#include "heed/nn/config.h"
#include "tasks/haystack.h"

namespace heed::tasks {
namespace {

using Form = ThreadingForm;

constexpr std::array<const char*, 6> kThreadingNames = {"threading_single",       "threading_multi",
                                                        "threading_conditional",  "threading_thread",
                                                        "threading_multi_thread", "threading_branched"};
constexpr std::string_view kTinyAlphabet = "abcdefghijklmnopqrstuvwxyz234567";
constexpr char kMark = '*';

bool is_thread(Form form) { return form == Form::thread || form == Form::multi_thread || form == Form::branched; }
bool is_list(Form form) { return form == Form::multi || form == Form::conditional; }

}  // namespace

std::vector<Parameter> ThreadingTask::parameters(Form form) {
  std::vector<Parameter> rows = {
      {"max_tokens", 1024, "tokens of prompt and answer together, at most"},
      {"max_characters", 0, "when positive, the haystack has at most so many characters, whatever its tokens"},
      {"ids", "tiny", "tiny: 4 of 32 symbols; full: UUID"}};
  if (form == Form::single) rows.push_back({"depth", -1, "of the asked pair in percent; -1: drawn"});
  if (is_list(form)) {
    rows.push_back({"needles", 4, "pairs asked for"});
    rows.push_back({"placement", "random", "random, or clustered: one behind the other"});
  }
  if (form == Form::multi_thread) rows.push_back({"threads", 3, "threads followed at once"});
  if (is_thread(form)) {
    rows.push_back({"steps", 4, "keys of a thread"});
    rows.push_back({"direction", "forward", "forward: a thread's places rise; backward: they fall; random"});
  }
  if (form == Form::branched)
    rows.push_back({"branches", 2, "candidates that a value lists; the last two steps have one"});
  rows.push_back({"seed", 0, "another family of samples"});
  return rows;
}

ThreadingTask::ThreadingTask(Form form, const nlohmann::json& parameters, TokenCount tokens)
    : form_(form), name_(kThreadingNames[static_cast<size_t>(form)]), tokens_(std::move(tokens)) {
  ConfigReader reader(name_, parameters);
  max_tokens_ = reader.integer("max_tokens", 1024, 64, int64_t{1} << 22);
  max_characters_ = reader.integer("max_characters", 0, 0, int64_t{1} << 24);
  tiny_ = reader.choice("ids", "tiny", {"tiny", "full"}) == "tiny";
  if (form == Form::single) depth_ = reader.integer("depth", -1, -1, 100);
  if (is_list(form)) {
    threads_ = reader.integer("needles", 4, 1, 1 << 16);
    placement_ = reader.choice("placement", "random", {"random", "clustered"});
  }
  if (form == Form::multi_thread) threads_ = reader.integer("threads", 3, 1, 1 << 16);
  if (is_thread(form)) {
    steps_ = reader.integer("steps", 4, form == Form::branched ? 3 : 1, 1 << 16);
    direction_ = reader.choice("direction", "forward", {"forward", "backward", "random"});
  }
  if (form == Form::branched) branches_ = reader.integer("branches", 2, 2, 64);
  seed_ = static_cast<uint64_t>(reader.integer("seed", 0, 0));
  reader.finish();
}

double ThreadingTask::chance() const { return 1.0 / sample(Split::test, 0).meta.at("pairs").get<double>(); }

int64_t ThreadingTask::answer_bytes() const { return threads_ * ((tiny_ ? 4 : 36) + 2) - 2; }

double ThreadingTask::score(const TaskSample& sample, std::string_view output) const {
  size_t right = 0, place = 0;
  for (size_t i = 0; i < output.size() && place < sample.answers.size(); ++place) {
    const auto separates = [&](size_t at) { return output[at] == ',' || output[at] == ' ' || output[at] == '\n'; };
    while (i < output.size() && separates(i)) ++i;
    const size_t begin = i;
    while (i < output.size() && !separates(i)) ++i;
    right += output.substr(begin, i - begin) == sample.answers[place];
  }
  return static_cast<double>(right) / static_cast<double>(sample.answers.size());
}

std::string ThreadingTask::id(Random& random, std::set<std::string>& taken) const {
  const auto draw = [&](Random& r) {
    return tiny_ ? random_symbols(r, kTinyAlphabet, 4) : random_id(r, IdKind::uuid, false);
  };
  return fresh_id(name_, random, draw, taken);
}

std::vector<ThreadingTask::Pair> ThreadingTask::draw(Random& random, std::set<std::string>& taken) const {
  std::vector<Pair> pairs, ends;
  for (int64_t t = 0; t < threads_; ++t) {
    std::string key = id(random, taken);
    for (int64_t s = 0; s < steps_; ++s) {
      std::string next = id(random, taken);
      std::vector<std::string> candidates = {next};
      // A branch ends one step on, so only up to the last step but two the thread is the longest.
      for (int64_t b = 1; b < branches_ && s + 2 < steps_; ++b) {
        candidates.push_back(id(random, taken));
        ends.push_back({candidates.back(), id(random, taken)});
      }
      if (candidates.size() > 1) random.shuffle(candidates);
      pairs.push_back({key, listed(candidates)});
      key = std::move(next);
    }
  }
  if (form_ == Form::conditional)
    for (auto& pair : pairs) pair.key.insert(random.below(pair.key.size() + 1), 1, kMark);
  pairs.insert(pairs.end(), ends.begin(), ends.end());
  return pairs;
}

std::vector<int64_t> ThreadingTask::places(Random& random, int64_t pairs, int64_t count) const {
  if (placement_ == "clustered") {
    const int64_t first = random.between(0, count - pairs);
    std::vector<int64_t> result(static_cast<size_t>(pairs));
    for (size_t i = 0; i < result.size(); ++i) result[i] = first + static_cast<int64_t>(i);
    random.shuffle(result);
    return result;
  }
  if (depth_ >= 0) return {((count - 1) * depth_ + 50) / 100};
  auto result = random.distinct(pairs, count);
  for (int64_t t = 0; t < threads_ && direction_ != "random"; ++t) {
    const auto first = result.begin() + t * steps_;
    std::sort(first, first + steps_);
    if (direction_ == "backward") std::reverse(first, first + steps_);
  }
  return result;
}

std::string ThreadingTask::question(const std::vector<Pair>& pairs) const {
  if (form_ == Form::conditional) return fmt::format("The values of the keys with {} are ", kMark);
  std::vector<std::string> starts;
  for (int64_t t = 0; t < threads_; ++t) starts.push_back(pairs[static_cast<size_t>(t * steps_)].key);
  const bool many = threads_ > 1;
  if (form_ == Form::branched)
    return fmt::format("Go from {} to the keys in its value, and on; the last value of the longest way is ", starts[0]);
  if (steps_ == 1) return fmt::format("The value{} of {} {} ", many ? "s" : "", listed(starts), many ? "are" : "is");
  return fmt::format("Go from {}{} to the key in its value, and on; the last value{} {} ", many ? "each of " : "",
                     listed(starts), many ? "s" : "", many ? "are" : "is");
}

TaskSample ThreadingTask::sample(Split split, uint64_t index) const {
  // One stream for all forms: a single thread, and a thread of one step, are the same bytes as the simpler form.
  Random random(stream_key("needle_threading", split, seed_), index);
  std::set<std::string> taken;
  const auto pairs = draw(random, taken);
  const auto own = static_cast<int64_t>(pairs.size());
  const Random before = random;
  std::vector<Pair> others;  // drawn as they are needed
  Random of_others(stream_key("needle_threading/others", split, seed_), index);

  struct Layout {
    std::string text;
    std::vector<int64_t> places;
    std::vector<TextSpan> values;  // of the pairs that are asked about
  };
  const auto build = [&](int64_t count) {
    while (static_cast<int64_t>(others.size()) < count - own)
      others.push_back({id(of_others, taken), id(of_others, taken)});
    Random placing = before;
    Layout layout{"{", places(placing, own, count), std::vector<TextSpan>(pairs.size())};
    std::vector<int64_t> held(static_cast<size_t>(count), -1);
    for (size_t i = 0; i < pairs.size(); ++i) held[static_cast<size_t>(layout.places[i])] = static_cast<int64_t>(i);
    size_t next = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t mine = held[static_cast<size_t>(i)];
      const Pair& pair = mine >= 0 ? pairs[static_cast<size_t>(mine)] : others[next++];
      layout.text += fmt::format("{}\"{}\": \"", i ? ", " : "", pair.key);
      const auto begin = static_cast<int64_t>(layout.text.size());
      if (mine >= 0)
        layout.values[static_cast<size_t>(mine)] = {begin, begin + static_cast<int64_t>(pair.value.size())};
      layout.text += pair.value + "\"";
    }
    layout.text += "}\n";
    return layout;
  };

  const std::string asking = question(pairs);
  std::vector<size_t> asked;
  for (int64_t t = 0; t < threads_; ++t) asked.push_back(static_cast<size_t>((t + 1) * steps_ - 1));
  const auto answer_of = [&](const std::vector<size_t>& of) {
    std::vector<std::string> values;
    for (const size_t i : of) values.push_back(pairs[i].value);
    return values;
  };
  const auto answer = listed(answer_of(asked));
  const int64_t count = largest_fit(name_, own, max_tokens_, [&](int64_t n) {
    const auto text = build(n).text;
    if (max_characters_ > 0 && static_cast<int64_t>(text.size()) > max_characters_) return max_tokens_ + 1;
    return tokens_(text + asking + answer);
  });
  const Layout layout = build(count);
  // Keys that are not named are asked for in the order in which they stand.
  if (form_ == Form::conditional)
    std::sort(asked.begin(), asked.end(), [&](size_t a, size_t b) { return layout.places[a] < layout.places[b]; });

  TaskSample sample;
  sample.prompt = layout.text + asking;
  sample.answers = answer_of(asked);
  sample.continuation = listed(sample.answers);
  for (const size_t i : asked) sample.answer_spans.push_back(layout.values[i]);
  const auto end = static_cast<int64_t>(sample.prompt.size());
  sample.scored = {{end, end + static_cast<int64_t>(sample.continuation.size())}};
  auto keys = nlohmann::json::array();
  for (const auto& pair : pairs) keys.push_back(pair.key);
  sample.meta = {{"pairs", count}, {"keys", keys}, {"places", layout.places}};
  return sample;
}

}  // namespace heed::tasks
