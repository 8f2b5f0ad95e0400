// A grid world that needs a memory: what is worth reaching is told once, at the beginning, and most of the world is out
// of sight.
#pragma once

#include <cstdint>
#include <vector>

#include "heed/tasks/random.h"

namespace heed::tasks {

struct CueGridConfig {
  int64_t side = 5;    ///< cells of a side, 3 or more; a pad of its own colour stands in each corner
  int64_t view = 1;    ///< cells the agent sees in each direction
  int64_t limit = 24;  ///< steps of an episode
  uint64_t seed = 0;
};

/// One episode at a time: the agent starts at random off the pads, and all it sees at first is tinted by the cue, the
/// colour of the pad to reach; later nothing is. Stepping onto it gives 1, onto another pad -1, and ends the episode, as does the last
/// step. Steps into walls leave the agent where it is.
class CueGrid {
 public:
  static constexpr int64_t kActions = 4;  ///< up, down, left, right
  static constexpr int64_t kPads = 4;     ///< corners, row by row

  static constexpr int64_t kPerCell = 1 + 2 * kPads;  ///< numbers of a cell in view

  struct Outcome {
    float reward = 0;
    bool end = false;
  };

  /// Throws heed::Error for numbers that do not fit.
  explicit CueGrid(CueGridConfig config = {});

  /// Starts episode `index` of a split: a pure function of configuration, split and index.
  void begin(Split split, uint64_t index);
  /// Throws heed::Error after the end.
  Outcome step(int64_t action);

  /// Of each cell in view, row by row: 1 for a wall, then one of kPads for its pad, then one of kPads for its tint.
  std::vector<float> observation() const;
  int64_t observation_size() const { return (2 * config_.view + 1) * (2 * config_.view + 1) * kPerCell; }
  const CueGridConfig& config() const { return config_; }

  int64_t cue() const { return cue_; }
  int64_t row() const { return row_; }
  int64_t column() const { return column_; }
  /// The number of the pad of a cell; -1 for none.
  int64_t pad(int64_t row, int64_t column) const;

 private:
  CueGridConfig config_;
  int64_t row_ = 1, column_ = 1, cue_ = 0, steps_ = 0;
  bool ended_ = true;
};

}  // namespace heed::tasks
