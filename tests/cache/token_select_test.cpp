// The card's facts of token_select.
#include "cache/policies/token_select.h"

#include <gtest/gtest.h>

#include <numeric>

#include "cache/layer_driver.h"

namespace heed::cache::token_select_test {
namespace {

using testing::LayerText;
using torch::Tensor;

constexpr double kSame = 1e-5;
constexpr int64_t kSinks = 4, kWindow = 9, kBudget = 12, kChunk = 16;

nlohmann::json settings(double threshold = 2) {
  return {{"sinks", kSinks}, {"window", kWindow}, {"budget", kBudget}, {"chunk", kChunk}, {"threshold", threshold}};
}

std::unique_ptr<LayerCache> make(const LayerText& text, const nlohmann::json& with) {
  return make_policy("token_select", with, shape_of(text))({});
}

/// The votes of q over all of keys [B, Hkv, S, D].
Tensor votes_over(const Tensor& q, const Tensor& keys) {
  ops::CacheTensors cache;
  cache.k = keys;
  cache.lengths = torch::full({keys.size(0), keys.size(1)}, keys.size(2), torch::kInt64);
  return token_votes(q, cache, 0, keys.size(2), 1);
}

/// Tokens [sinks, end) by the votes of queries [from, to), from the definition.
std::vector<int64_t> voted(const LayerText& text, int64_t b, int64_t from, int64_t to, int64_t end) {
  const auto q =
      text.encoding
          ->rotate(text.q.narrow(0, b, 1).slice(2, from, to).to(torch::kFloat64), torch::arange(to - from) + kWindow)
          .mean(2, true);
  const auto k = text.k.narrow(0, b, 1).slice(2, kSinks, end).repeat_interleave(text.group(), 1).to(torch::kFloat64);
  auto chosen = testing::largest(q.matmul(k.transpose(2, 3)).softmax(3).sum(1).flatten(), kBudget);
  for (auto& j : chosen) j += kSinks;
  return chosen;
}

/// Sinks, `chosen`, and what lies between `from` and the query.
testing::Read read(const std::vector<int64_t>& chosen, int64_t from, int64_t query) {
  std::vector<int64_t> keys;
  for (int64_t j = 0; j < kSinks; ++j) keys.push_back(j);
  keys.insert(keys.end(), chosen.begin(), chosen.end());
  for (int64_t j = from; j <= query; ++j) keys.push_back(j);
  return testing::Read::ranked(keys);
}

testing::Read read_all(int64_t query) {
  std::vector<int64_t> keys(query + 1);
  std::iota(keys.begin(), keys.end(), 0);
  return testing::Read::ranked(keys);
}

TEST(TokenSelect, ReadsTheTokensOfTheVoteAtTheirRanks) {
  for (const auto& [batch, kv_heads] : {std::pair{1, 1}, {3, 1}, {3, 4}}) {
    const int64_t prompt = 75;
    const auto text = testing::random_text(batch, 4, kv_heads, prompt + 11, 21);
    auto cache = make(text, settings());
    const auto got = testing::drive(*cache, text, prompt, 64);
    double worst = 0;
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t i = 0; i < text.length(); ++i) {
        // Parts of a prompt: 16 tokens from the beginning of each call of 64.
        const int64_t from = i < prompt ? i / kChunk * kChunk : i,
                      to = i < prompt ? std::min(from + kChunk, prompt) : i + 1;
        const int64_t local = from - kWindow + 1;
        const auto what = kSinks + kBudget >= local ? read_all(i) : read(voted(text, b, from, to, local), local, i);
        for (int64_t h = 0; h < 4; ++h) {
          const auto want = testing::attend_reference(text, b, h, i, what).out;
          worst = std::max(worst, (got[b][h][i] - want).abs().max().item<double>());
        }
      }
    }
    EXPECT_LE(worst, kSame) << batch << " sequences, " << kv_heads << " KV heads";
    const int64_t read_a_step = kSinks + kBudget + kWindow;
    EXPECT_EQ(cache->reads().steps, 11);
    EXPECT_EQ(cache->reads().attended, 11 * batch * kv_heads * read_a_step);
  }
}

TEST(TokenSelect, VotesAddUpToTheHeadsAndLargeLogitsHaveNoMore) {
  auto text = testing::random_text(2, 8, 2, 50, 22);
  text.q.select(1, 3).mul_(100);
  const auto votes = votes_over(text.q.narrow(2, 49, 1), text.k);
  EXPECT_LE((votes.sum(3) - 8).abs().max().item<double>(), 8 * 50 * 1.2e-7);
  EXPECT_GE(votes.min().item<double>(), 0);
}

TEST(TokenSelect, AChoiceIsReusedWhileQueriesAreSimilar) {
  const int64_t prompt = 60, steps = 8;
  auto text = testing::random_text(2, 4, 2, prompt + steps, 23);
  // Sequence 0 keeps its query, sequence 1 turns at step 5.
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t i = prompt; i < text.length(); ++i)
      text.q[b].select(1, i).copy_(text.q[b].select(1, b == 1 && i >= prompt + 5 ? prompt + 5 : prompt).clone());
  const auto scored = [&](double threshold) {
    auto cache = make(text, settings(threshold));
    testing::drive(*cache, text, prompt, kChunk);
    return cache->reads().scored;
  };
  const auto candidates = [&](int64_t step) { return 2 * (prompt + step + 1 - kWindow - kSinks); };
  int64_t always = 0;
  for (int64_t step = 0; step < steps; ++step) always += 2 * candidates(step);
  EXPECT_EQ(scored(-1), 2 * candidates(0));
  EXPECT_EQ(scored(2), always);
  EXPECT_EQ(scored(0.95), 2 * candidates(0) + candidates(5));
}

TEST(TokenSelect, ATokenWithOneHeadsVoteIsChosen) {
  // Four heads, each sure of one token: a budget of four holds all of them, whatever the other logits.
  auto text = testing::random_text(1, 4, 4, 80, 24, "none");
  const std::vector<int64_t> owned{10, 23, 41, 60};
  for (int64_t h = 0; h < 4; ++h) text.k[0][h][owned[h]].copy_(4 * text.q[0][h][79]);
  const auto votes = votes_over(text.q.narrow(2, 79, 1), text.k.slice(2, 0, 70)).flatten();
  for (const int64_t j : owned) EXPECT_GT(votes[j].item<double>(), 0.8);  // floor(4 / 0.8) is above the budget
  EXPECT_EQ(testing::largest(votes, 4), owned);
}

TEST(TokenSelect, RepeatedHeadsChangeNothing) {
  const auto text = testing::random_text(2, 4, 2, 70, 25);
  auto repeated = text;
  repeated.k = text.k.repeat_interleave(2, 1);
  repeated.v = text.v.repeat_interleave(2, 1);
  auto a = make(text, settings()), b = make(repeated, settings());
  EXPECT_LE((testing::drive(*a, text, 60, 16) - testing::drive(*b, repeated, 60, 16)).abs().max().item<double>(),
            kSame);
}

TEST(TokenSelect, RetainedMassBoundsTheError) {
  // Without rotation ranks don't matter, and what is read is a part of the full row.
  const auto text = testing::random_text(1, 4, 2, 90, 26, "none");
  auto cache = make(text, settings());
  const auto got = testing::drive(*cache, text, 80, 16);
  for (int64_t i = 80; i < 90; ++i) {
    const auto what = read(voted(text, 0, i, i + 1, i - kWindow + 1), i - kWindow + 1, i);
    for (int64_t h = 0; h < 4; ++h) testing::expect_within_retained_mass(text, 0, h, i, what.keys, got[0][h][i]);
  }
}

}  // namespace
}  // namespace heed::cache::token_select_test
