// Speech small enough to learn in seconds: symbols as pairs of tones, at the speed of their speaker, in noise.
#pragma once

#include <cstdint>
#include <vector>

#include "heed/tasks/random.h"

namespace heed::tasks {

struct SpokenSymbolsConfig {
  int64_t symbols = 8;               ///< of the alphabet; each is two of the bands
  int64_t bands = 16;                ///< of a log-mel frame
  int64_t least = 2, most = 5;       ///< symbols of an utterance
  int64_t fastest = 3, slowest = 7;  ///< frames a symbol, one number an utterance, give or take one a symbol
  double noise = 0.05;               ///< mean power of a band, beside 1 of a tone
  uint64_t seed = 0;
};

/// Utterances: silence, then every symbol as its two tones for some frames and one to three frames of silence behind.
/// A frame is the logarithm of the power in each band; a tone spreads over its neighbours.
class SpokenSymbols {
 public:
  struct Sample {
    std::vector<float> frames;  ///< [count, bands]
    int64_t count = 0;
    std::vector<int64_t> text;  ///< symbols 1 to `symbols`; 0 is left for the end of a text
  };

  /// Throws heed::Error for numbers that do not fit.
  explicit SpokenSymbols(SpokenSymbolsConfig config = {});
  /// A pure function of configuration, split and index.
  Sample sample(Split split, uint64_t index) const;
  /// The two bands of a symbol.
  std::pair<int64_t, int64_t> tones(int64_t symbol) const { return tones_[static_cast<size_t>(symbol - 1)]; }
  /// Frames of the longest utterance there can be.
  int64_t longest() const;
  const SpokenSymbolsConfig& config() const { return config_; }

 private:
  SpokenSymbolsConfig config_;
  std::vector<std::pair<int64_t, int64_t>> tones_;
};

}  // namespace heed::tasks
