#include "heed/tasks/cue_grid.h"

#include <algorithm>
#include <array>

#include "heed/error.h"

namespace heed::tasks {

CueGrid::CueGrid(CueGridConfig config) : config_(config) {
  require(config_.side >= 3 && config_.view >= 0 && config_.limit >= 1,
          "cue grid: side = {}, view = {}, limit = {}: 3, 0 and 1 or more are accepted", config_.side, config_.view,
          config_.limit);
}

int64_t CueGrid::pad(int64_t row, int64_t column) const {
  const int64_t last = config_.side - 1;
  if ((row != 0 && row != last) || (column != 0 && column != last)) return -1;
  return 2 * (row == last) + (column == last);
}

void CueGrid::begin(Split split, uint64_t index) {
  Random random(stream_key("cue grid", split, config_.seed), index);
  cue_ = random.between(0, kPads - 1);
  do {
    row_ = random.between(0, config_.side - 1);
    column_ = random.between(0, config_.side - 1);
  } while (pad(row_, column_) >= 0);
  steps_ = 0;
  ended_ = false;
}

CueGrid::Outcome CueGrid::step(int64_t action) {
  require(!ended_, "cue grid: a step after the episode's end; begin another");
  require(action >= 0 && action < kActions, "cue grid: action {}: 0 to {} is accepted", action, kActions - 1);
  static constexpr std::array<std::pair<int64_t, int64_t>, kActions> kWays{{{-1, 0}, {1, 0}, {0, -1}, {0, 1}}};
  const auto [down, right] = kWays[static_cast<size_t>(action)];
  row_ = std::clamp<int64_t>(row_ + down, 0, config_.side - 1);
  column_ = std::clamp<int64_t>(column_ + right, 0, config_.side - 1);
  const int64_t reached = pad(row_, column_);
  ended_ = reached >= 0 || ++steps_ == config_.limit;
  return {reached < 0 ? 0.0f : reached == cue_ ? 1.0f : -1.0f, ended_};
}

std::vector<float> CueGrid::observation() const {
  std::vector<float> seen(static_cast<size_t>(observation_size()), 0.0f);
  const auto inside = [&](int64_t at) { return at >= 0 && at < config_.side; };
  size_t cell = 0;
  for (int64_t row = row_ - config_.view; row <= row_ + config_.view; ++row)
    for (int64_t column = column_ - config_.view; column <= column_ + config_.view; ++column, cell += kPerCell) {
      if (!inside(row) || !inside(column)) {
        seen[cell] = 1;
      } else if (const int64_t colour = pad(row, column); colour >= 0) {
        seen[cell + 1 + static_cast<size_t>(colour)] = 1;
      }
      if (steps_ == 0 && !ended_) seen[cell + 1 + kPads + static_cast<size_t>(cue_)] = 1;
    }
  return seen;
}

}  // namespace heed::tasks
