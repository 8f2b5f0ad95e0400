// Images of objects that come in pairs, and captions that name them: a world small enough to train a vision-text model
// in, in which habit (the pair) and sight can be told apart.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "heed/tasks/random.h"

namespace heed::tasks {

/// 12 objects in 6 pairs (a, b). An image is 4 x 4 patches of 16 channels: noise, and at distinct places the prototypes
/// of the objects that are present, unit vectors drawn once. a is present with probability 0.35 (one a at least), b
/// with 0.85 where its a is and with 0.05 where it is not. The caption names the objects present in order, 8 at most.
class PairWorld {
 public:
  static constexpr int64_t kObjects = 12, kPatches = 16, kSide = 4, kChannels = 16, kMostNamed = 8;
  /// Token ids: 0 begins a caption, 1 ends it, 2 + o names object o.
  static constexpr int64_t kBegin = 0, kEnd = 1, kFirstObject = 2, kVocabulary = 2 + kObjects;

  struct Sample {
    std::vector<float> pixels;     ///< [channels, side, side]
    std::vector<int64_t> present;  ///< objects, ascending
    std::vector<int64_t> places;   ///< the patch of each
    std::vector<int64_t> caption;  ///< token ids, with begin and end
    int64_t empty = 0;             ///< a patch without an object
  };

  explicit PairWorld(uint64_t seed = 0, double noise = 0.35);
  /// A pure function of world, split and index. `conflict`: no b is ever present, so that habit misleads.
  Sample sample(Split split, uint64_t index, bool conflict = false) const;

 private:
  uint64_t seed_;
  double noise_;
  std::array<std::array<float, kChannels>, kObjects> prototypes_;
};

/// What captions say of what is there.
struct CaptionScore {
  int64_t captions = 0, mentioned = 0, present = 0, hallucinated = 0, found = 0, with_hallucination = 0;

  /// `named`: objects of a caption; each counts once.
  void add(const std::vector<int64_t>& named, const std::vector<int64_t>& present);
  double chair_i() const { return mentioned ? double(hallucinated) / double(mentioned) : 0; }  ///< wrong of mentioned
  double chair_s() const { return captions ? double(with_hallucination) / double(captions) : 0; }
  double recall() const { return present ? double(found) / double(present) : 0; }
  double length() const { return captions ? double(mentioned) / double(captions) : 0; }
};

}  // namespace heed::tasks
