#include "tasks/marks.h"

#include <algorithm>
#include <cmath>

#include "heed/nn/config.h"

namespace heed::tasks {

std::vector<Parameter> MarksTask::parameters() {
  return {{"answer", "same",
           "same (at two marks: whether they have one colour) or copy (at every cell: the colour of the only mark)"},
          {"side", 9, "cells a side"},
          {"colours", 2, "colours of marks, a channel each"},
          {"distance", 0, "least cells between two marks, along rows or columns; 0: half of the side"},
          {"noise", 0.1, "deviation of the noise"},
          {"seed", 0, "another family of samples"}};
}

MarksTask::MarksTask(const nlohmann::json& parameters) : LearnedTask("marks") {
  ConfigReader reader(name_, parameters);
  answer_ = reader.choice("answer", "same", {"same", "copy"}) == "same" ? Answer::same : Answer::copy;
  side_ = reader.integer("side", 9, 2, 512);
  colours_ = reader.integer("colours", 2, 2, 64);
  distance_ = reader.integer("distance", 0, 0, side_ - 1);
  if (distance_ == 0) distance_ = side_ / 2;
  noise_ = read_noise(reader, 0.1);
  finish(reader);
}

Face MarksTask::face() const { return image_face(colours_, side_, 1, answer_ == Answer::same ? 2 : colours_, false); }

double MarksTask::chance() const { return answer_ == Answer::same ? 0.5 : 1 / double(colours_); }

Example MarksTask::example(Split split, uint64_t index) const {
  auto random = random_of(split, index);
  const int64_t cells = side_ * side_;
  Example example;
  example.values.resize(static_cast<size_t>(colours_ * cells));
  for (auto& value : example.values) value = static_cast<float>(noise_ * random.normal());
  const auto cell = [&] { return random.between(0, cells - 1); };
  const auto colour = [&] { return random.between(0, colours_ - 1); };
  const auto mark = [&](int64_t at, int64_t channel) { ++example.values[static_cast<size_t>(channel * cells + at)]; };
  if (answer_ == Answer::copy) {
    const int64_t shown = colour();
    mark(cell(), shown);
    example.labels.assign(static_cast<size_t>(cells), shown);
    return example;
  }
  const auto apart = [&](int64_t a, int64_t b) {
    return std::max(std::abs(a / side_ - b / side_), std::abs(a % side_ - b % side_));
  };
  // Both are drawn again: from the middle of the image no cell may be far enough.
  int64_t first, second;
  do first = cell(), second = cell();
  while (apart(first, second) < distance_);
  const int64_t shown = colour();
  mark(first, shown);
  const bool same = random.below(2) == 1;
  // Every other colour is as likely.
  mark(second, same ? shown : (shown + random.between(1, colours_ - 1)) % colours_);
  example.labels.assign(static_cast<size_t>(cells), Example::kNoLabel);
  for (const auto at : {first, second}) example.labels[static_cast<size_t>(at)] = same;
  return example;
}

}  // namespace heed::tasks
