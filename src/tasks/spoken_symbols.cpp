#include "heed/tasks/spoken_symbols.h"

#include <cmath>

#include "heed/error.h"

namespace heed::tasks {
namespace {

constexpr int64_t kMostSilence = 3;

}  // namespace

SpokenSymbols::SpokenSymbols(SpokenSymbolsConfig config) : config_(config) {
  const auto& c = config_;
  require(c.bands >= 2 && c.symbols >= 1 && c.symbols <= c.bands * (c.bands - 1) / 2,
          "spoken symbols: {} symbols of two of {} bands: 1 to {} are accepted", c.symbols, c.bands,
          c.bands * (c.bands - 1) / 2);
  require(c.least >= 1 && c.least <= c.most, "spoken symbols: {} to {} of them: 1 or more, in order, are accepted",
          c.least, c.most);
  require(c.fastest >= 2 && c.fastest <= c.slowest,
          "spoken symbols: {} to {} frames each: 2 or more, in order, are accepted", c.fastest, c.slowest);
  require(c.noise > 0 && std::isfinite(c.noise), "spoken symbols: noise = {}: a positive number is accepted", c.noise);
  std::vector<std::pair<int64_t, int64_t>> pairs;
  for (int64_t a = 0; a < c.bands; ++a)
    for (int64_t b = a + 1; b < c.bands; ++b) pairs.emplace_back(a, b);
  Random random(hash64("spoken symbols tones") + c.seed, 0);
  random.shuffle(pairs);
  tones_.assign(pairs.begin(), pairs.begin() + std::ptrdiff_t(c.symbols));
}

int64_t SpokenSymbols::longest() const { return kMostSilence + config_.most * (config_.slowest + 1 + kMostSilence); }

SpokenSymbols::Sample SpokenSymbols::sample(Split split, uint64_t index) const {
  const auto& c = config_;
  Random random(stream_key("spoken symbols", split, c.seed), index);
  Sample sample;
  // Power of noise has an exponential distribution, as that of a band of white noise.
  const auto frame = [&](int64_t symbol) {
    for (int64_t band = 0; band < c.bands; ++band) {
      double power = -c.noise * std::log(1 - random.uniform());
      if (symbol > 0) {
        const auto [low, high] = tones(symbol);
        for (const int64_t tone : {low, high}) {
          const double away = static_cast<double>(band - tone);
          power += std::exp(-2 * away * away);
        }
      }
      sample.frames.push_back(static_cast<float>(std::log(power + 1e-4)));
    }
    ++sample.count;
  };
  const auto silence = [&] {
    for (int64_t left = random.between(1, kMostSilence); left > 0; --left) frame(0);
  };
  const int64_t count = random.between(c.least, c.most), speed = random.between(c.fastest, c.slowest);
  silence();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t symbol = random.between(1, c.symbols);
    sample.text.push_back(symbol);
    for (int64_t left = speed + random.between(-1, 1); left > 0; --left) frame(symbol);
    silence();
  }
  return sample;
}

}  // namespace heed::tasks
