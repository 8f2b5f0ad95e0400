// Spoken symbols: what was said can be read off the frames, and only in them.
#include "heed/tasks/spoken_symbols.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "heed/error.h"
#include "heed/tasks/metrics.h"

namespace heed::tasks::spoken_symbols_test {
namespace {

TEST(SpokenSymbols, SamplesAreFunctionsOfTheirIndex) {
  const SpokenSymbols speech, same;
  SpokenSymbolsConfig other;
  other.seed = 1;
  const auto a = speech.sample(Split::train, 5), b = same.sample(Split::train, 5);
  EXPECT_EQ(a.frames, b.frames);
  EXPECT_EQ(a.text, b.text);
  EXPECT_NE(a.frames, speech.sample(Split::train, 6).frames);
  EXPECT_NE(a.frames, speech.sample(Split::valid, 5).frames);
  EXPECT_NE(a.frames, SpokenSymbols(other).sample(Split::train, 5).frames);
}

// A listener who knows the tones hears runs of frames that are loud in both bands of a symbol.
TEST(SpokenSymbols, FramesSayWhatTheTextIs) {
  SpokenSymbolsConfig config;
  config.noise = 1e-3;
  const SpokenSymbols speech(config);
  for (uint64_t index = 0; index < 30; ++index) {
    const auto sample = speech.sample(Split::test, index);
    ASSERT_EQ(int64_t(sample.frames.size()), sample.count * config.bands);
    ASSERT_LE(sample.count, speech.longest());
    std::vector<int64_t> heard;
    int64_t last = 0, run = 0;
    for (int64_t t = 0; t < sample.count; ++t) {
      const auto* frame = sample.frames.data() + t * config.bands;
      int64_t said = 0;
      for (int64_t symbol = 1; symbol <= config.symbols; ++symbol) {
        const auto [low, high] = speech.tones(symbol);
        if (frame[low] > -0.1 && frame[high] > -0.1) said = symbol;
      }
      run = said == last ? run + 1 : 1;
      if (said != 0 && said != last) heard.push_back(said);
      last = said;
    }
    EXPECT_EQ(last, 0);
    EXPECT_EQ(heard, sample.text) << "utterance " << index;
  }
}

TEST(SpokenSymbols, SymbolsHaveTonesOfTheirOwn) {
  const SpokenSymbols speech;
  std::set<std::pair<int64_t, int64_t>> seen;
  for (int64_t symbol = 1; symbol <= speech.config().symbols; ++symbol) {
    EXPECT_LT(speech.tones(symbol).first, speech.tones(symbol).second);
    EXPECT_TRUE(seen.insert(speech.tones(symbol)).second);
  }
}

TEST(SpokenSymbols, WrongNumbersAreNamed) {
  const auto wrong = [](auto change) {
    SpokenSymbolsConfig config;
    change(config);
    EXPECT_THROW(SpokenSymbols{config}, Error);
  };
  wrong([](auto& c) { c.symbols = 121; });
  wrong([](auto& c) { c.least = 0; });
  wrong([](auto& c) { c.slowest = 2; });
  wrong([](auto& c) { c.noise = 0; });
}

TEST(EditDistance, CountsInsertionsDeletionsAndExchanges) {
  const std::vector<int64_t> kitten{1, 2, 3, 3, 4, 5}, sitting{6, 2, 3, 3, 2, 5, 7}, none;
  EXPECT_EQ(edit_distance(kitten, sitting), 3);
  EXPECT_EQ(edit_distance(sitting, kitten), 3);
  EXPECT_EQ(edit_distance(kitten, kitten), 0);
  EXPECT_EQ(edit_distance(none, kitten), 6);
  EXPECT_EQ(edit_distance(kitten, none), 6);
}

}  // namespace
}  // namespace heed::tasks::spoken_symbols_test
