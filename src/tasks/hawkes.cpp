#include "tasks/hawkes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "heed/nn/config.h"

namespace heed::tasks {
namespace {

constexpr uint64_t kSamplesOfBaselines = 400;

}  // namespace

std::vector<Parameter> HawkesTask::parameters() {
  return {{"events", 64, "events of a sample"},
          {"marks", 4, "kinds of events"},
          {"base", 0.2, "rate of each mark when nothing has happened"},
          {"repeat", 0.2, "events of the same mark that an event calls forth, in the mean"},
          {"next", 0.6, "events of the next mark, likewise; repeat + next < 1"},
          {"decay", 2.0, "by which the call fades, per unit of time"},
          {"seed", 0, "another family of samples"}};
}

HawkesTask::HawkesTask(const nlohmann::json& parameters) : LearnedTask("hawkes") {
  ConfigReader reader(name_, parameters);
  count_ = reader.integer("events", 64, 2, 1 << 20);
  marks_ = reader.integer("marks", 4, 1, 1 << 10);
  const auto number = [&](const char* key, double fallback, bool zero) {
    const auto value = reader.get<double>(key, fallback);
    require(std::isfinite(value) && (zero ? value >= 0 : value > 0), "{}: {} = {}: {} is accepted", name_, key, value,
            zero ? "0 or more" : "above 0");
    return value;
  };
  base_ = number("base", 0.2, false);
  repeat_ = number("repeat", 0.2, true);
  next_ = number("next", 0.6, true);
  decay_ = number("decay", 2, false);
  require(repeat_ + next_ < 1, "{}: repeat + next = {}: below 1 is accepted, or events grow without end", name_,
          repeat_ + next_);
  finish(reader);
}

Face HawkesTask::face() const {
  Face face;
  face.input = Face::Input::vectors;
  face.answer = Face::Answer::events;
  face.metric = Metric::nats;
  face.channels = 2 + marks_;
  face.outputs = marks_;
  face.length = count_ - 1;
  return face;
}

std::vector<HawkesTask::Event> HawkesTask::events(Split split, uint64_t index) const {
  auto random = random_of(split, index);
  const auto marks = static_cast<size_t>(marks_);
  std::vector<double> excited(marks, 0.0);  // of each mark, beyond base
  const auto total = [&] {
    return std::accumulate(excited.begin(), excited.end(), base_ * static_cast<double>(marks_));
  };
  std::vector<Event> result;
  while (static_cast<int64_t>(result.size()) < count_) {
    // Thinning (Ogata, 1981): between events the rate only falls, so the rate now bounds it.
    double gap = 0, integral = 0;
    for (;;) {
      const double bound = total(), wait = -std::log1p(-random.uniform()) / bound;
      const double fade = std::exp(-decay_ * wait);
      gap += wait;
      integral += base_ * static_cast<double>(marks_) * wait +
                  (bound - base_ * static_cast<double>(marks_)) * (1 - fade) / decay_;
      for (auto& rate : excited) rate *= fade;
      if (random.uniform() * bound < total()) break;
    }
    double left = random.uniform() * total();
    size_t mark = 0;
    while (mark + 1 < marks && left >= base_ + excited[mark]) left -= base_ + excited[mark++];
    result.push_back({gap, static_cast<int64_t>(mark), integral - std::log(base_ + excited[mark])});
    excited[mark] += repeat_ * decay_;
    excited[(mark + 1) % marks] += next_ * decay_;
  }
  return result;
}

Example HawkesTask::example(Split split, uint64_t index) const {
  const auto all = events(split, index);
  Example example;
  for (size_t i = 0; i + 1 < all.size(); ++i) {
    example.values.push_back(static_cast<float>(std::log(std::max(all[i].gap, 1e-8))));
    example.values.push_back(static_cast<float>(all[i].gap));
    for (int64_t m = 0; m < marks_; ++m) example.values.push_back(m == all[i].mark ? 1.0f : 0.0f);
    example.labels.push_back(all[i + 1].mark);
    example.targets.push_back(static_cast<float>(all[i + 1].gap));
  }
  return example;
}

double HawkesTask::chance() const {
  double time = 0, count = 0;
  std::vector<double> marks(static_cast<size_t>(marks_), 0.0);
  for (uint64_t i = 0; i < kSamplesOfBaselines; ++i) {
    const auto all = events(Split::test, i);
    for (size_t e = 1; e < all.size(); ++e) time += all[e].gap, ++count, ++marks[static_cast<size_t>(all[e].mark)];
  }
  double nats = 1 + std::log(time / count);
  for (const double m : marks)
    if (m > 0) nats -= m / count * std::log(m / count);
  return nats;
}

std::optional<double> HawkesTask::ideal() const {
  double nats = 0, count = 0;
  for (uint64_t i = 0; i < kSamplesOfBaselines; ++i) {
    const auto all = events(Split::test, i);
    for (size_t e = 1; e < all.size(); ++e) nats += all[e].nats, ++count;
  }
  return nats / count;
}

}  // namespace heed::tasks
