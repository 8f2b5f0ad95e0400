#include "tasks/niah.h"

#include <algorithm>
#include <set>

#include "heed/nn/config.h"
#include "tasks/filler.h"

namespace heed::tasks {
namespace {

constexpr int kDepths = 40;  // RULER's grid: 40 points from 0 to 100 %

int64_t grid_depth(int64_t point) { return (200 * point + kDepths - 1) / (2 * (kDepths - 1)); }

IdKind id_kind(const std::string& name) {
  return name == "number" ? IdKind::number : name == "uuid" ? IdKind::uuid : IdKind::word;
}

std::string_view type_name(IdKind kind) {
  return kind == IdKind::number ? "number" : kind == IdKind::uuid ? "code" : "word";
}

}  // namespace

std::vector<Parameter> NiahTask::parameters(bool multikey) {
  return {{"max_tokens", 512, "bytes of prompt and answer together, at most"},
          {"min_tokens", 0, "when positive, each sample's limit is drawn from min_tokens to max_tokens"},
          {"filler", multikey ? "needle" : "noise", "noise, prose, needle (other needles) or mixed (noise or prose)"},
          {"key", "word", "word, number or uuid"},
          {"value", "number", "word, number or uuid"},
          {"ids", "tiny", "tiny: 4 letters or digits; full: adjective-noun, 7 digits, UUID"},
          {"keys", multikey ? 4 : 1, "needles hidden; one is asked for"},
          {"depth", -1, "of the asked needle in percent; -1: drawn from 40 points"},
          {"seed", 0, "another family of samples"}};
}

NiahTask::NiahTask(std::string name, const nlohmann::json& parameters, TextSource source)
    : name_(std::move(name)), source_(std::move(source)) {
  ConfigReader reader(name_, parameters);
  const bool multikey = name_ == "niah_multikey";
  max_tokens_ = reader.integer("max_tokens", 512, 64, int64_t{1} << 24);
  min_tokens_ = reader.integer("min_tokens", 0, 0, max_tokens_);
  std::vector<std::string> fillers = {"noise", "prose", "needle", "mixed"};
  if (source_) fillers.push_back("text");
  filler_ = reader.choice("filler", multikey ? "needle" : "noise", fillers);
  key_kind_ = id_kind(reader.choice("key", "word", {"word", "number", "uuid"}));
  value_kind_ = id_kind(reader.choice("value", "number", {"word", "number", "uuid"}));
  tiny_ = reader.choice("ids", "tiny", {"tiny", "full"}) == "tiny";
  keys_ = reader.integer("keys", multikey ? 4 : 1, 1, kDepths);
  depth_ = reader.integer("depth", -1, -1, 100);
  seed_ = static_cast<uint64_t>(reader.integer("seed", 0, 0));
  reader.finish();
}

double NiahTask::chance() const {
  return filler_ != "needle" && keys_ > 1 ? 1.0 / static_cast<double>(keys_) : 1.0 / id_count(value_kind_, tiny_);
}

int64_t NiahTask::answer_bytes() const {
  Random any(0, 0);
  // Words of the full kind differ in length; the longest is asked for.
  return value_kind_ == IdKind::word && !tiny_ ? 24 : static_cast<int64_t>(random_id(any, value_kind_, tiny_).size());
}

std::string NiahTask::statement(const std::string& key) const {
  return fmt::format("the {} of {} is ", type_name(value_kind_), key);
}

NiahTask::Haystack NiahTask::hide(const std::vector<std::string>& sentences, const std::vector<Needle>& needles) const {
  std::vector<size_t> order(needles.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return needles[a].depth < needles[b].depth; });
  Haystack haystack;
  haystack.values.resize(needles.size());
  size_t next = 0;
  const auto count = static_cast<int64_t>(sentences.size());
  for (int64_t i = 0; i <= count; ++i) {
    for (; next < order.size() && (count * needles[order[next]].depth + 50) / 100 == i; ++next) {
      const Needle& needle = needles[order[next]];
      if (!haystack.text.empty() && haystack.text.back() != ' ' && haystack.text.back() != '\n') haystack.text += ' ';
      haystack.text += statement(needle.key);
      const auto begin = static_cast<int64_t>(haystack.text.size());
      haystack.text += needle.value;
      haystack.values[order[next]] = {begin, static_cast<int64_t>(haystack.text.size())};
      haystack.text += ". ";
    }
    if (i < count) haystack.text += sentences[static_cast<size_t>(i)];
  }
  haystack.text += '\n';
  return haystack;
}

std::vector<std::string> NiahTask::distractors(Random& random, size_t bytes) const {
  std::vector<std::string> lines;
  std::set<std::string> keys;
  for (size_t size = 0; size < bytes;) {
    const std::string key = random_id(random, key_kind_, tiny_);
    if (!keys.insert(key).second) {
      require(keys.size() < 0.9 * id_count(key_kind_, tiny_), "{}: there are too few keys for {} tokens of needles",
              name_, max_tokens_);
      continue;
    }
    lines.push_back(statement(key) + random_id(random, value_kind_, tiny_) + ". ");
    size += lines.back().size();
  }
  return lines;
}

std::vector<NiahTask::Needle> NiahTask::draw_needles(Random& random, std::string_view filler) const {
  const auto fresh = [&](IdKind kind, std::set<std::string>& taken) {
    for (int attempt = 0; attempt < 1000; ++attempt) {
      std::string id = random_id(random, kind, tiny_);
      if (filler.find(id) == filler.npos && taken.insert(id).second) return id;
    }
    fail("{}: the filler of {} tokens holds nearly every {} of its kind; ids = full has more", name_, max_tokens_,
         type_name(kind));
  };
  std::set<std::string> taken;
  std::vector<Needle> needles;
  const auto points = random.distinct(keys_, kDepths);
  for (const int64_t point : points) {
    std::string key = fresh(key_kind_, taken);
    needles.push_back({std::move(key), fresh(value_kind_, taken), grid_depth(point)});
  }
  if (depth_ >= 0) needles[0].depth = depth_;
  return needles;
}

TaskSample NiahTask::sample(Split split, uint64_t index) const {
  Random random(stream_key(name_, split, seed_), index);
  const int64_t limit = min_tokens_ > 0 ? random.between(min_tokens_, max_tokens_) : max_tokens_;
  const auto bytes = static_cast<size_t>(limit) + 256;

  std::string kind = filler_;
  if (kind == "mixed") kind = std::vector<std::string>{"noise", "prose", "text"}[random.below(source_ ? 3 : 2)];
  Filler filler = kind == "noise"   ? Filler::noise(bytes)
                  : kind == "prose" ? Filler::prose(bytes, random)
                                    : Filler::given(kind == "text" ? source_(random, bytes) : "");
  const auto lines = kind == "needle" ? distractors(random, bytes) : std::vector<std::string>();
  const auto first = [&](size_t count) {
    return kind == "needle" ? std::vector(lines.begin(), lines.begin() + static_cast<std::ptrdiff_t>(count))
                            : filler.sentences(count);
  };
  const size_t units = kind == "needle" ? lines.size() : filler.words();

  std::string all;
  for (const auto& sentence : first(units)) all += sentence;
  const auto needles = draw_needles(random, all);
  const std::string question = statement(needles[0].key);
  const auto tokens = [&](size_t count) {
    size_t size = needles[0].value.size() + question.size() + hide({}, needles).text.size();
    for (const auto& sentence : first(count)) size += sentence.size();
    // A needle behind a sentence without a blank gets one.
    return static_cast<int64_t>(size) + keys_;
  };
  require(tokens(0) <= limit, "{}: {} tokens are too few for {} needle(s) and the question, which take {}", name_,
          limit, keys_, tokens(0));
  size_t low = 0, high = units;  // `low` units fit
  while (low < high) {
    const size_t middle = high - (high - low) / 2;
    if (tokens(middle) <= limit) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }

  const Haystack haystack = hide(first(low), needles);
  TaskSample sample;
  sample.prompt = haystack.text + question;
  sample.continuation = needles[0].value;
  sample.answers = {needles[0].value};
  sample.answer_spans = {haystack.values[0]};
  const auto end = static_cast<int64_t>(sample.prompt.size());
  sample.scored = {{end, end + static_cast<int64_t>(sample.continuation.size())}};
  auto depths = nlohmann::json::array(), keys = nlohmann::json::array(), positions = nlohmann::json::array();
  for (size_t i = 0; i < needles.size(); ++i) {
    depths.push_back(needles[i].depth);
    keys.push_back(needles[i].key);
    positions.push_back(haystack.values[i].begin);
  }
  sample.meta = {{"filler", kind}, {"depths", depths}, {"keys", keys}, {"positions", positions}, {"limit", limit}};
  return sample;
}

}  // namespace heed::tasks
