#include "tasks/niah.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "heed/nn/config.h"

namespace heed::tasks {
namespace {

constexpr std::array<NiahForm, 10> kForms = {{
    {"niah_single", "noise", "word", "number", 1, 1, 1},
    {"niah_multikey", "needle", "word", "number", 4, 1, 1},
    {"niah_single_1", "noise", "word", "number", 1, 1, 1},
    {"niah_single_2", "prose", "word", "number", 1, 1, 1},
    {"niah_single_3", "prose", "word", "uuid", 1, 1, 1},
    {"niah_multikey_1", "prose", "word", "number", 4, 1, 1},
    {"niah_multikey_2", "needle", "word", "number", 1, 1, 1},
    {"niah_multikey_3", "needle", "uuid", "uuid", 1, 1, 1},
    {"niah_multivalue", "prose", "word", "number", 1, 4, 1},
    {"niah_multiquery", "prose", "word", "number", 4, 1, 4},
}};

IdKind id_kind(const std::string& name) {
  return name == "number" ? IdKind::number : name == "uuid" ? IdKind::uuid : IdKind::word;
}

std::string_view type_name(IdKind kind) {
  return kind == IdKind::number ? "number" : kind == IdKind::uuid ? "code" : "word";
}

}  // namespace

const NiahForm& NiahTask::form(std::string_view name) {
  const auto found = std::find_if(kForms.begin(), kForms.end(), [&](const NiahForm& f) { return f.name == name; });
  require(found != kForms.end(), "no needle task '{}'", name);
  return *found;
}

std::vector<Parameter> NiahTask::parameters(const NiahForm& form) {
  auto rows = HaystackTask::parameters(form.filler);
  const std::vector<Parameter> own = {
      {"key", form.key, "word, number or uuid"},
      {"value", form.value, "word, number or uuid"},
      {"ids", "tiny", "tiny: 4 letters or digits; full: adjective-noun, 7 digits, UUID"},
      {"keys", form.keys, "keys hidden"},
      {"values", form.values, "needles of each key, with a value each"},
      {"queries", form.queries, "keys asked for, with all their values"},
      {"depth", -1, "of the first asked needle in percent; -1: drawn from 40 points"}};
  rows.insert(rows.end() - 1, own.begin(), own.end());
  return rows;
}

NiahTask::NiahTask(const NiahForm& form, const nlohmann::json& parameters, TokenCount tokens, TextSource source)
    : HaystackTask(form.name, std::move(tokens), std::move(source)) {
  ConfigReader reader(name_, parameters);
  read(reader, form.filler, true);
  key_kind_ = id_kind(reader.choice("key", form.key, {"word", "number", "uuid"}));
  value_kind_ = id_kind(reader.choice("value", form.value, {"word", "number", "uuid"}));
  tiny_ = reader.choice("ids", "tiny", {"tiny", "full"}) == "tiny";
  keys_ = reader.integer("keys", form.keys, 1, kDepths);
  values_ = reader.integer("values", form.values, 1, kDepths / keys_);
  queries_ = reader.integer("queries", std::min<int64_t>(form.queries, keys_), 1, keys_);
  depth_ = reader.integer("depth", -1, -1, 100);
  reader.finish();
}

double NiahTask::chance() const {
  return filler_ != "needle" && keys_ > queries_ ? static_cast<double>(queries_) / static_cast<double>(keys_)
                                                 : 1.0 / id_count(value_kind_, tiny_);
}

int64_t NiahTask::longest_answer() const {
  Random any(0, 0);
  // Words of the full kind differ in length; the longest is asked for.
  const int64_t one =
      value_kind_ == IdKind::word && !tiny_ ? 24 : static_cast<int64_t>(random_id(any, value_kind_, tiny_).size());
  return queries_ * values_ * (one + 2) - 2;
}

std::string NiahTask::question(const std::vector<std::string>& keys) const {
  const bool many = queries_ * values_ > 1;
  return fmt::format("the {}{} of {} {} ", type_name(value_kind_), many ? "s" : "", listed(keys), many ? "are" : "is");
}

Needle NiahTask::needle(const std::string& key, const std::string& value, int64_t depth) const {
  const auto statement = fmt::format("the {} of {} is ", type_name(value_kind_), key);
  const auto begin = static_cast<int64_t>(statement.size());
  return {statement + value + ". ", {begin, begin + static_cast<int64_t>(value.size())}, depth};
}

std::string NiahTask::distractor(Random& random, std::set<std::string>& taken) const {
  const auto key = fresh_id(
      name_, random, [&](Random& r) { return random_id(r, key_kind_, tiny_); }, taken);
  return needle(key, random_id(random, value_kind_, tiny_), 0).line;
}

HaystackTask::Hidden NiahTask::draw(Random& random, std::string_view filler) const {
  const auto fresh = [&](IdKind kind, std::set<std::string>& taken) {
    return fresh_id(
        name_, random, [&](Random& r) { return random_id(r, kind, tiny_); }, taken, filler);
  };
  std::set<std::string> taken;
  std::vector<std::string> keys;
  Hidden hidden;
  const auto points = random.distinct(keys_ * values_, kDepths);
  for (int64_t k = 0; k < keys_; ++k) {
    keys.push_back(fresh(key_kind_, taken));
    for (int64_t v = 0; v < values_; ++v)
      hidden.needles.push_back(
          needle(keys.back(), fresh(value_kind_, taken), grid_depth(points[static_cast<size_t>(k * values_ + v)])));
  }
  if (depth_ >= 0) hidden.needles[0].depth = depth_;
  // The values of a key in the order in which they stand.
  for (int64_t k = 0; k < queries_; ++k) {
    std::vector<size_t> own(static_cast<size_t>(values_));
    for (size_t v = 0; v < own.size(); ++v) own[v] = static_cast<size_t>(k * values_) + v;
    std::stable_sort(own.begin(), own.end(),
                     [&](size_t a, size_t b) { return hidden.needles[a].depth < hidden.needles[b].depth; });
    hidden.asked.insert(hidden.asked.end(), own.begin(), own.end());
  }
  const std::vector<std::string> named(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(queries_));
  hidden.question = question(named);
  hidden.fields = {{"query", listed(named)},
                   {"type_needle_v", fmt::format("{}{}", type_name(value_kind_), queries_ * values_ > 1 ? "s" : "")}};
  hidden.meta = {{"keys", keys}};
  return hidden;
}

std::vector<Parameter> PasskeyTask::parameters() {
  auto rows = HaystackTask::parameters("noise");
  rows.insert(rows.end() - 1, {"depth", -1, "of the key in percent; -1: drawn from 40 points"});
  return rows;
}

PasskeyTask::PasskeyTask(const nlohmann::json& parameters, TokenCount tokens)
    : HaystackTask("passkey", std::move(tokens), {}) {
  ConfigReader reader(name_, parameters);
  read(reader, "noise", false);
  depth_ = reader.integer("depth", -1, -1, 100);
  reader.finish();
}

HaystackTask::Hidden PasskeyTask::draw(Random& random, std::string_view) const {
  const std::string question = "the pass key is ";
  const auto key = random_symbols(random, kDigits, kDigitsOfKey);
  const auto begin = static_cast<int64_t>(question.size());
  const int64_t depth = depth_ >= 0 ? depth_ : grid_depth(random.distinct(1, kDepths)[0]);
  Hidden hidden;
  hidden.needles = {{question + key + ". ", {begin, begin + kDigitsOfKey}, depth}};
  hidden.asked = {0};
  hidden.question = question;
  return hidden;
}

std::vector<Parameter> VariableTrackingTask::parameters() {
  auto rows = HaystackTask::parameters("noise");
  const std::vector<Parameter> own = {{"hops", 4, "assignments of one name to another in a chain"},
                                      {"chains", 1, "chains with a value each; the first is asked for"},
                                      {"name_length", 3, "letters of a name; RULER has 5"}};
  rows.insert(rows.end() - 1, own.begin(), own.end());
  return rows;
}

VariableTrackingTask::VariableTrackingTask(const nlohmann::json& parameters, TokenCount tokens)
    : HaystackTask("vt", std::move(tokens), {}) {
  ConfigReader reader(name_, parameters);
  read(reader, "noise", false);
  hops_ = reader.integer("hops", 4, 1, kDepths - 1);
  chains_ = reader.integer("chains", 1, 1, kDepths / (hops_ + 1));
  name_length_ = reader.integer("name_length", 3, 3, 16);
  reader.finish();
}

double VariableTrackingTask::chance() const {
  return chains_ > 1 ? 1.0 / static_cast<double>(chains_) : std::pow(26, -static_cast<double>(name_length_));
}

HaystackTask::Hidden VariableTrackingTask::draw(Random& random, std::string_view filler) const {
  // The names of a chain stand at rising depths, so that each is assigned before it is used.
  std::set<std::string> taken = {"VAR"};
  auto points = random.distinct(chains_ * (hops_ + 1), kDepths);
  Hidden hidden;
  std::vector<std::string> values;
  for (int64_t c = 0; c < chains_; ++c) {
    const auto first = points.begin() + c * (hops_ + 1);
    std::sort(first, first + hops_ + 1);
    values.push_back(fresh_id(
        name_, random, [&](Random& r) { return random_symbols(r, kDigits, 5); }, taken, filler));
    std::string held = values.back();
    for (int64_t h = 0; h <= hops_; ++h) {
      const auto name = fresh_id(
          name_, random, [&](Random& r) { return random_symbols(r, kCapitals, name_length_); }, taken, filler);
      hidden.needles.push_back({fmt::format("VAR {} = {}. ", name, held), {4, 4 + name_length_}, grid_depth(first[h])});
      held = "VAR " + name;
    }
  }
  for (size_t i = 0; i <= static_cast<size_t>(hops_); ++i) hidden.asked.push_back(i);
  hidden.question = fmt::format("the {} variables that hold {} are ", hops_ + 1, values[0]);
  hidden.fields = {{"query", values[0]}, {"num_v", std::to_string(hops_ + 1)}};
  hidden.meta = {{"values", values}};
  return hidden;
}

}  // namespace heed::tasks
