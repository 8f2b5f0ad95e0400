#include "tasks/haystack.h"

#include <algorithm>
#include <numeric>

#include "heed/nn/config.h"

namespace heed::tasks {
namespace {

struct Text {
  std::string text;
  std::vector<TextSpan> values;  // one a needle
};

Text hide(const std::vector<std::string>& sentences, const std::vector<Needle>& needles) {
  std::vector<size_t> order(needles.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return needles[a].depth < needles[b].depth; });
  Text result;
  std::string& text = result.text;
  result.values.resize(needles.size());
  size_t next = 0;
  const auto count = static_cast<int64_t>(sentences.size());
  for (int64_t i = 0; i <= count; ++i) {
    for (; next < order.size() && (count * needles[order[next]].depth + 50) / 100 == i; ++next) {
      const Needle& needle = needles[order[next]];
      if (!text.empty() && text.back() != ' ' && text.back() != '\n') text += ' ';
      const auto begin = static_cast<int64_t>(text.size());
      result.values[order[next]] = {begin + needle.value.begin, begin + needle.value.end};
      text += needle.line;
    }
    if (i < count) text += sentences[static_cast<size_t>(i)];
  }
  text += '\n';
  return result;
}

}  // namespace

int64_t grid_depth(int64_t point) { return (200 * point + kDepths - 1) / (2 * (kDepths - 1)); }

int64_t largest_fit(const std::string& owner, int64_t least, int64_t limit,
                    const std::function<int64_t(int64_t count)>& tokens) {
  const int64_t needed = tokens(least);
  require(needed <= limit, "{}: {} tokens are too few, the least sample takes {}", owner, limit, needed);
  int64_t low = least, high = std::max<int64_t>(16, 2 * least);
  for (; high < limit && tokens(high) <= limit; high *= 2) low = high;
  while (low + 1 < high) {
    const int64_t middle = low + (high - low) / 2;
    (tokens(middle) <= limit ? low : high) = middle;
  }
  return low;
}

std::string fresh_id(const std::string& owner, Random& random, const std::function<std::string(Random&)>& draw,
                     std::set<std::string>& taken, std::string_view text) {
  for (int attempt = 0; attempt < 1000; ++attempt) {
    std::string id = draw(random);
    if ((text.empty() || text.find(id) == text.npos) && taken.insert(id).second) return id;
  }
  fail("{}: a sample of this size holds nearly every id of its kind; ids = full or longer ones are more", owner);
}

std::string listed(const std::vector<std::string>& items) {
  std::string text;
  for (const auto& item : items) text.append(text.empty() ? "" : ", ").append(item);
  return text;
}

std::vector<Parameter> HaystackTask::parameters(const char* filler) {
  return {{"max_tokens", 512, "tokens of prompt and answer together, at most"},
          {"min_tokens", 0, "when positive, each sample's limit is drawn from min_tokens to max_tokens"},
          {"filler", filler, "noise, prose, mixed (noise or prose), and for niah tasks needle (other needles)"},
          Wording::parameter(),
          {"seed", 0, "another family of samples"}};
}

HaystackTask::HaystackTask(std::string name, TokenCount tokens, TextSource source)
    : name_(std::move(name)), tokens_(std::move(tokens)), source_(std::move(source)) {}

void HaystackTask::read(ConfigReader& reader, const std::string& filler, bool may_be_needles) {
  max_tokens_ = reader.integer("max_tokens", 512, 64, int64_t{1} << 24);
  min_tokens_ = reader.integer("min_tokens", 0, 0, max_tokens_);
  std::vector<std::string> fillers = {"noise", "prose", "mixed"};
  if (may_be_needles) fillers.push_back("needle");
  if (source_) fillers.push_back("text");
  filler_ = reader.choice("filler", filler, fillers);
  wording_ = Wording::read(reader);
  seed_ = static_cast<uint64_t>(reader.integer("seed", 0, 0));
}

std::string HaystackTask::distractor(Random&, std::set<std::string>&) const {
  fail("{}: has no needles to fill a haystack with", name_);
}

Filler HaystackTask::gather(Random& random, const std::string& kind, size_t bytes) const {
  if (kind == "noise") return Filler::noise(bytes);
  if (kind == "prose") return Filler::prose(bytes, random);
  if (kind == "text") return Filler::given(source_(random, bytes));
  std::vector<std::string> lines;
  std::set<std::string> taken;
  for (size_t size = 0; size < bytes; size += lines.back().size()) lines.push_back(distractor(random, taken));
  return Filler::lines(std::move(lines));
}

TaskSample HaystackTask::sample(Split split, uint64_t index) const {
  Random random(stream_key(name_, split, seed_), index);
  const int64_t limit = min_tokens_ > 0 ? random.between(min_tokens_, max_tokens_) : max_tokens_;
  std::string kind = filler_;
  if (kind == "mixed") kind = std::vector<std::string>{"noise", "prose", "text"}[random.below(source_ ? 3 : 2)];

  // More filler than the limit takes, however many bytes a token has; a tokenizer that hardly counts is given up on.
  const Random start = random;
  Filler filler;
  std::string all;
  for (size_t bytes = static_cast<size_t>(limit) + 256; bytes <= 128 * static_cast<size_t>(limit) + 256; bytes *= 2) {
    random = start;
    filler = gather(random, kind, bytes);
    all = filler.text();
    if (tokens_(all) > limit || all.size() < bytes) break;
  }

  const Hidden hidden = draw(random, all);
  std::vector<std::string> answers;
  for (const size_t needle : hidden.asked)
    answers.emplace_back(hidden.needles[needle].value.of(hidden.needles[needle].line));
  const std::string answer = listed(answers);
  const auto words = static_cast<int64_t>(filler.words());
  const auto built = [&](int64_t count) {
    return hide(filler.sentences(static_cast<size_t>(std::min(count, words))), hidden.needles);
  };
  const auto posed = [&](const std::string& text) { return pose(wording_, text, hidden.question, hidden.fields); };
  const int64_t count = std::min(words, largest_fit(name_, 0, limit, [&](int64_t n) {
                                   const auto whole = posed(built(n).text);
                                   return tokens_(whole.prompt + whole.continued(answer));
                                 }));

  const Text haystack = built(count);
  TaskSample sample;
  const Posed prompt = posed(haystack.text);
  sample.prompt = prompt.prompt;
  sample.continuation = prompt.continued(answer);
  sample.answers = answers;
  const auto shifted = [&](const TextSpan& span) {
    return TextSpan{prompt.begin + span.begin, prompt.begin + span.end};
  };
  for (const size_t needle : hidden.asked) sample.answer_spans.push_back(shifted(haystack.values[needle]));
  const auto end = static_cast<int64_t>(sample.prompt.size());
  sample.scored = {{end, end + static_cast<int64_t>(sample.continuation.size())}};
  auto depths = nlohmann::json::array(), positions = nlohmann::json::array();
  for (size_t i = 0; i < hidden.needles.size(); ++i) {
    depths.push_back(hidden.needles[i].depth);
    positions.push_back(shifted(haystack.values[i]).begin);
  }
  sample.meta = {{"filler", kind}, {"depths", depths}, {"positions", positions}, {"limit", limit}};
  sample.meta.update(hidden.meta);
  return sample;
}

}  // namespace heed::tasks
