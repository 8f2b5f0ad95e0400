#include "heed/tasks/mixture.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <map>
#include <optional>

#include "heed/error.h"
#include "heed/names.h"
#include "heed/tasks/task.h"
#include "tasks/niah.h"

namespace heed::tasks {
namespace {

constexpr double kTaskShare = 0.25, kMaxWeight = 16;
constexpr uint64_t kMaxSamples = 64;  // of one window

// Parameters of a sample of at most `space` bytes, its size drawn anew, and the least space that makes sense.
struct Sizing {
  int64_t least;
  std::function<nlohmann::json(int64_t space, Random& random)> parameters;
};

// Half of the samples take all the room there is, the others any part of it.
int64_t some_of(int64_t least, int64_t space, Random& random) {
  return random.below(2) == 0 ? space : random.between(least, space);
}

const std::map<std::string, Sizing, std::less<>>& sizings() {
  using nlohmann::json;
  static const std::map<std::string, Sizing, std::less<>> table = {
      {"niah_single",
       {96,
        [](int64_t space, Random& random) {
          return json{{"max_tokens", some_of(96, space, random)}, {"filler", "mixed"}};
        }}},
      {"niah_multikey",
       {192,
        [](int64_t space, Random& random) {
          return json{{"max_tokens", some_of(192, space, random)}, {"keys", 4}, {"filler", "mixed"}};
        }}},
      {"niah_single_1",
       {96,
        [](int64_t space, Random& random) {
          return json{{"max_tokens", some_of(96, space, random)}};
        }}},
      {"niah_multikey_2",
       {128,
        [](int64_t space, Random& random) {
          return json{{"max_tokens", some_of(128, space, random)}};
        }}},
      {"kv_lookup",
       {48,
        [](int64_t space, Random& random) {
          return json{{"max_tokens", some_of(48, std::min<int64_t>(space, 4096), random)}};
        }}},
      {"assoc_recall",
       {48,
        [](int64_t space, Random& random) {
          return json{{"pairs", random.between(2, std::min<int64_t>((space - 2) / 12, 64))}};
        }}},
      {"copy",
       {32,
        [](int64_t space, Random& random) {
          return json{{"length", random.between(4, std::min<int64_t>((space - 1) / 2, 256))}};
        }}},
      {"selective_copy",
       {64,
        [](int64_t space, Random& random) {
          return json{{"length", std::min<int64_t>(space - 17, 256)}, {"marked", random.between(4, 16)}};
        }}},
      {"induction",
       {32,
        [](int64_t space, Random& random) {
          return json{{"length", random.between(16, std::min<int64_t>(space - 1, 1024))}};
        }}},
      {"repeat",
       {48,
        [](int64_t space, Random& random) {
          return json{{"length", random.between(16, space / 2)}};
        }}},
  };
  return table;
}

double parse_share(std::string_view spec, std::string_view name, std::string_view text) {
  double share = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), share);
  require(error == std::errc() && end == text.data() + text.size() && std::isfinite(share) && share > 0,
          "mixture '{}': the share of '{}' is '{}', accepted: a number above 0", spec, name, text);
  return share;
}

}  // namespace

Mixture::Mixture(std::string_view spec, const Corpus* corpus, int64_t context, uint64_t seed)
    : corpus_(corpus), context_(context), seed_(seed) {
  require(context >= 1, "mixture '{}': a context of {}, accepted: 1 or more", spec, context);
  std::vector<std::string> known = {"text"};
  for (const auto& [name, sizing] : sizings()) known.push_back(name);
  double sum = 0;
  for (std::string_view rest = spec; !rest.empty();) {
    const std::string_view item = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), item.size() + 1));
    const size_t equal = item.find('=');
    require(equal != item.npos, "mixture '{}': '{}' is no name=share", spec, item);
    std::string name(item.substr(0, equal));
    if (name == "niah") name = "niah_single";
    require(std::find(known.begin(), known.end(), name) != known.end(), "mixture '{}': unknown part '{}': {}", spec,
            name, suggest(name, known));
    for (const auto& component : components_) {
      require(component.name != name, "mixture '{}': '{}' stands twice", spec, name);
    }
    if (name == "text") {
      require(corpus != nullptr, "mixture '{}' has text, but no text was given", spec);
    } else {
      require(context >= sizings().at(name).least, "mixture '{}': '{}' needs a context of {} bytes, not {}", spec, name,
              sizings().at(name).least, context);
    }
    components_.push_back({std::move(name), parse_share(spec, item.substr(0, equal), item.substr(equal + 1))});
    sum += components_.back().share;
  }
  require(!components_.empty(), "an empty mixture; accepted: name=share,...; names: {}", fmt::join(known, ", "));
  for (auto& component : components_) component.share /= sum;
}

std::string Mixture::fitting(std::string_view spec, int64_t context) {
  std::string kept;
  for (std::string_view rest = spec; !rest.empty();) {
    const std::string_view item = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), item.size() + 1));
    auto name = item.substr(0, item.find('='));
    if (name == "niah") name = "niah_single";
    const auto sizing = sizings().find(name);
    if (sizing != sizings().end() && sizing->second.least > context) continue;  // what is unknown is refused later
    if (!kept.empty()) kept += ',';
    kept += item;
  }
  require(!kept.empty(), "mixture '{}': no part fits a context of {}", spec, context);
  return kept;
}

Mixture::Window Mixture::window(Split split, uint64_t index) const {
  Random random(stream_key("mixture", split, seed_), index);
  double point = random.uniform();
  size_t chosen = 0;
  while (chosen + 1 < components_.size() && point >= components_[chosen].share) point -= components_[chosen++].share;
  const std::string& name = components_[chosen].name;
  Window window;
  if (name == "text") {
    const auto text = corpus_->window(split, index, context_ + 1, seed_);
    window.tokens.assign(text.begin(), text.end());
    window.weights.assign(static_cast<size_t>(context_), 1.0f);
  } else {
    window = task_window(name, split, index, random);
  }
  window.source = name;
  return window;
}

Mixture::Window Mixture::task_window(const std::string& name, Split split, uint64_t index, Random& random) const {
  const Sizing& sizing = sizings().at(name);
  const auto size = static_cast<size_t>(context_ + 1);
  const bool has_text = corpus_ && corpus_->stream(split).size() > 2 * size + 512;
  TextSource source;
  if (has_text) {
    source = [this, split](Random& r, size_t bytes) {
      const auto stream = corpus_->stream(split);
      bytes = std::min(bytes, stream.size());
      std::string text(stream.substr(r.below(stream.size() - bytes + 1), bytes));
      std::replace(text.begin(), text.end(), '\0', '\n');
      return text;
    };
  }
  std::string text;  // samples, each followed by byte 0
  std::vector<TextSpan> scored;
  for (uint64_t n = 0; n < kMaxSamples; ++n) {
    const auto space = static_cast<int64_t>(size - text.size()) - 1;
    if (space < sizing.least) break;
    auto parameters = sizing.parameters(space, random);
    parameters["seed"] = static_cast<int64_t>(seed_ % (uint64_t{1} << 40));
    const std::unique_ptr<TextTask> task =
        name.starts_with("niah") ? std::make_unique<NiahTask>(NiahTask::form(name), parameters, byte_count, source)
                                 : make_text_task(name, parameters);
    const TaskSample sample = task->sample(split, index * kMaxSamples + n);
    const auto begin = static_cast<int64_t>(text.size());
    for (const auto& span : sample.scored) scored.push_back({begin + span.begin, begin + span.end});
    text += sample.text();
    text += '\0';
  }
  const size_t before = size - text.size();
  Window window;
  window.weights.assign(size - 1, 0.0f);
  if (has_text) {
    const auto filler = source(random, before);
    window.tokens.assign(filler.begin(), filler.end());
    if (before > 0) window.tokens.back() = 0;
    std::fill_n(window.weights.begin(), before > 0 ? before - 1 : 0, 1.0f);
  } else {
    window.tokens.assign(before, 0);
  }
  window.tokens.insert(window.tokens.end(), text.begin(), text.end());
  int64_t count = 0;
  for (const auto& span : scored) count += span.end - span.begin;
  const auto weight =
      static_cast<float>(std::min(kMaxWeight, kTaskShare * static_cast<double>(context_) / static_cast<double>(count)));
  for (const auto& span : scored) {
    std::fill_n(window.weights.begin() + static_cast<std::ptrdiff_t>(before) + span.begin - 1, span.end - span.begin,
                weight);
  }
  return window;
}

}  // namespace heed::tasks
