// The card's facts of long_heads.
#include <gtest/gtest.h>

#include "cache/layer_driver.h"
#include "cache/oracle_induction.h"

namespace heed::cache::long_heads_test {
namespace {

using testing::LayerText;
using testing::OracleInduction;
using torch::Tensor;

constexpr double kSame = 1e-5;
constexpr int64_t kPrompt = 107, kSteps = 12;

std::unique_ptr<LayerCache> make(const LayerText& text, int64_t chunk, int64_t window) {
  return make_policy("long_heads", {{"chunk", chunk}, {"window", window}}, shape_of(text))({});
}

/// The key of chunk c for query head h, double [D].
Tensor chunk_key(const LayerText& text, int64_t b, int64_t h, int64_t c, int64_t chunk) {
  const auto part = [&](const Tensor& x, int64_t head) {
    return x[b][head].slice(0, c * chunk, (c + 1) * chunk).to(torch::kFloat64);
  };
  const auto rotated = [&](const Tensor& x) {
    return text.encoding->rotate(x.unsqueeze(0).unsqueeze(0), torch::arange(chunk))[0][0];
  };
  const int64_t g = h / text.group();
  const auto q = rotated(part(text.q, h)), k = rotated(part(text.k, g));
  const auto mean = (text.factor() * q.matmul(k.t())).softmax(1).matmul(part(text.v, g)).mean(0);
  return (text.factor() * k.matmul(mean)).softmax(0).matmul(k);
}

/// What KV head g reads for token i: the first chunk, the one before its own, the best others, and its own up to i.
testing::Read read(const LayerText& text, int64_t b, int64_t g, int64_t i, int64_t chunk, int64_t window) {
  std::vector<int64_t> keys(i + 1);
  std::iota(keys.begin(), keys.end(), 0);
  if (i < window) return testing::Read::ranked(keys);
  const int64_t own = i / chunk;
  auto scores = torch::zeros({own}, torch::kFloat64);
  for (int64_t c = 1; c < own - 1; ++c)
    for (int64_t h = g * text.group(); h < (g + 1) * text.group(); ++h)
      scores[c] += text.q[b][h][i].to(torch::kFloat64).dot(chunk_key(text, b, h, c, chunk));
  scores[0] = scores[own - 1] = INFINITY;
  keys.clear();
  auto chosen = testing::largest(scores, window / chunk - 1);
  chosen.push_back(own);
  for (const int64_t c : chosen)
    for (int64_t j = c * chunk; j < std::min((c + 1) * chunk, i + 1); ++j) keys.push_back(j);
  return testing::Read::ranked(keys);
}

TEST(LongHeads, ReadsTheChunksOfItsChoiceAtTheirRanks) {
  // Chunks of whole pages and of single slots.
  for (const auto& [chunk, window] : {std::pair{8, 40}, {16, 64}}) {
    for (const auto& [batch, kv_heads] : {std::pair{1, 1}, {3, 1}, {3, 4}}) {
      const auto text = testing::random_text(batch, 4, kv_heads, kPrompt + kSteps, 51);
      auto cache = make(text, chunk, window);
      const auto got = testing::drive(*cache, text, kPrompt, 50);
      double worst = 0;
      int64_t reads = 0, scored = 0;
      for (int64_t b = 0; b < batch; ++b) {
        for (int64_t g = 0; g < kv_heads; ++g) {
          for (int64_t i = 0; i < text.length(); ++i) {
            const auto what = read(text, b, g, i, chunk, window);
            EXPECT_LT(what.place, window);
            if (i >= kPrompt) reads += int64_t(what.keys.size()), scored += text.group() * (i / chunk);
            for (int64_t h = g * text.group(); h < (g + 1) * text.group(); ++h) {
              const auto want = testing::attend_reference(text, b, h, i, what).out;
              worst = std::max(worst, (got[b][h][i] - want).abs().max().item<double>());
            }
          }
        }
      }
      EXPECT_LE(worst, kSame) << "chunk " << chunk << ", " << batch << " sequences, " << kv_heads << " KV heads";
      EXPECT_EQ(cache->reads().attended, reads);
      EXPECT_EQ(cache->reads().scored, scored);
    }
  }
}

TEST(LongHeads, AsMuchAsTheWindowIsTheFullCache) {
  const auto text = testing::random_text(2, 4, 2, kPrompt + kSteps, 52);
  auto full = make_policy("full", {}, shape_of(text))({});
  auto cache = make(text, 8, 120);  // 119 tokens
  const auto want = testing::drive(*full, text, kPrompt, 32);
  EXPECT_LE((testing::drive(*cache, text, kPrompt, 32) - want).abs().max().item<double>(), kSame);
}

TEST(LongHeads, QueriesRepeatedInAGroupChangeNothing) {
  const auto text = testing::random_text(2, 2, 2, kPrompt + kSteps, 53);
  auto grouped = text;
  grouped.q = text.q.repeat_interleave(4, 1);
  auto a = make(text, 8, 40), b = make(grouped, 8, 40);
  const auto want = testing::drive(*a, text, kPrompt, 50).repeat_interleave(4, 1);
  EXPECT_LE((testing::drive(*b, grouped, kPrompt, 50) - want).abs().max().item<double>(), kSame);
}

TEST(LongHeads, RetainedMassBoundsTheError) {
  const auto text = testing::random_text(1, 4, 2, kPrompt + kSteps, 54, "none");
  auto cache = make(text, 8, 40);
  const auto got = testing::drive(*cache, text, kPrompt, 50);
  for (int64_t i = 60; i < text.length(); i += 7)
    for (int64_t h = 0; h < 4; ++h)
      testing::expect_within_retained_mass(text, 0, h, i, read(text, 0, h / 2, i, 8, 40).keys, got[0][h][i]);
}

TEST(LongHeads, FindsTheRunAtAnyDepth) {
  for (const int64_t at : {0, 137, 500, 850, 970}) {
    OracleInduction oracle("long_heads", {{"chunk", 16}, {"window", 64}});
    EXPECT_EQ(OracleInduction::correct(oracle.answer(OracleInduction::prompt(1000, at, 55 + at), 5, 128)), 5) << at;
  }
}

}  // namespace
}  // namespace heed::cache::long_heads_test
