// U5: what policies report to hold, beside keys and values and of them, by the closed formulas of their cards.
#include <gtest/gtest.h>

#include "cache/layer_driver.h"

namespace heed::cache::policy_bytes_test {
namespace {

using testing::LayerText;

constexpr int64_t kBatch = 3, kHeads = 4, kKvHeads = 2, kDim = 16;
constexpr int64_t kKey = kDim * 4;  // bytes of a float key; a value has as many

LayerText text_of(int64_t length) { return testing::random_text(kBatch, kHeads, kKvHeads, length, 91); }

std::unique_ptr<LayerCache> make(const char* policy, const LayerText& text, const nlohmann::json& settings,
                                 const LayerContext& layer = {0, 1}) {
  return make_policy(policy, settings, shape_of(text))(layer);
}

/// Lists that grow take a quarter more than they need, 64 entries at most, when they are full.
int64_t with_room(int64_t entries) { return entries + std::min<int64_t>(entries / 4, 64); }

TEST(PolicyBytes, OfQuestAreTwoKeysAPage) {
  for (const int64_t prompt : {1, 16, 100, 400}) {
    const auto text = text_of(prompt + 2);
    const int64_t pages = (prompt + 15) / 16;
    auto cache = make("quest", text, {{"budget", 48}, {"dense_layers", 0}});
    testing::feed(*cache, text, 0, prompt);
    EXPECT_EQ(cache->policy_bytes(), kBatch * kKvHeads * with_room(pages) * 2 * kKey) << prompt;
    EXPECT_EQ(cache->bytes(), cache->kv().bytes() + cache->policy_bytes());
    auto dense = make("quest", text, {{"dense_layers", 1}});
    testing::drive(*dense, text, prompt, prompt);
    EXPECT_EQ(dense->policy_bytes(), 0) << "a dense layer scores nothing";
  }
  // Fed in small chunks it has at most the room of the list that was full last.
  const auto text = text_of(413);
  auto cache = make("quest", text, {{"budget", 48}, {"dense_layers", 0}});
  testing::drive(*cache, text, 400, 7);
  const int64_t needed = kBatch * kKvHeads * 26 * 2 * kKey;
  EXPECT_GE(cache->policy_bytes(), needed);
  EXPECT_LE(4 * cache->policy_bytes(), 5 * needed);
}

TEST(PolicyBytes, OfH2oAreAScoreAndAPositionASlot) {
  const auto text = text_of(110);
  const int64_t slot = 4 + 8;  // float score, int64 position
  auto cache = make("h2o", text, {{"heavy", 20}, {"recent", 9}});
  testing::feed(*cache, text, 0, 100);
  EXPECT_EQ(cache->policy_bytes(), kBatch * kKvHeads * 100 * slot);
  cache->finish_prompt();
  EXPECT_EQ(cache->policy_bytes(), kBatch * kKvHeads * 29 * slot);
  EXPECT_EQ(cache->kv().used_bytes(), kBatch * kKvHeads * 29 * 2 * kKey);
  // A step holds one more, which the next one takes: the bytes stay.
  for (int64_t i = 100; i < 110; ++i) {
    testing::feed(*cache, text, i, i + 1);
    EXPECT_EQ(cache->policy_bytes(), kBatch * kKvHeads * 30 * slot) << i;
    EXPECT_EQ(cache->kv().used_bytes(), kBatch * kKvHeads * 30 * 2 * kKey) << i;
  }
  // A share of the prompt: 10% + 10%.
  auto shares = make("h2o", text, {});
  testing::feed(*shares, text, 0, 100);
  shares->finish_prompt();
  EXPECT_EQ(shares->kv().used_bytes(), kBatch * kKvHeads * 20 * 2 * kKey);
}

TEST(PolicyBytes, OfLongHeadsAreAKeyAChunkOfEveryQueryHeadAndTheQueriesOfTheBegunOne) {
  const int64_t chunk = 8;
  for (const int64_t left : {0, 1, 7}) {
    // Of eight chunks none is spare: lists of so few grow one by one.
    const auto text = text_of(8 * chunk + left);
    auto cache = make("long_heads", text, {{"chunk", chunk}, {"window", 3 * chunk}});
    testing::drive(*cache, text, text.length() - 2, 33);
    EXPECT_EQ(cache->policy_bytes(), kBatch * kHeads * (8 + left) * kKey) << left;
  }
  const auto text = text_of(20 * chunk + 3);
  auto cache = make("long_heads", text, {{"chunk", chunk}, {"window", 3 * chunk}});
  testing::drive(*cache, text, text.length() - 2, 128);
  const int64_t needed = kBatch * kHeads * 20 * kKey, begun = kBatch * kHeads * 3 * kKey;
  EXPECT_GE(cache->policy_bytes(), needed + begun);
  EXPECT_LE(4 * (cache->policy_bytes() - begun), 5 * needed);
}

TEST(PolicyBytes, OfActQkvAreAMeanKeyABlock) {
  for (const int64_t prompt : {1, 8, 100, 400}) {
    const auto text = text_of(prompt + 1);
    auto cache =
        make("act_qkv", text, {{"block", 8}, {"sinks", 8}, {"window", 9}, {"budget", 41}, {"chunk", 16}, {"least", 1}});
    testing::feed(*cache, text, 0, prompt);
    EXPECT_EQ(cache->policy_bytes(), kBatch * kKvHeads * with_room((prompt + 7) / 8) * kKey) << prompt;
  }
}

TEST(PolicyBytes, OfTokenSelectAreAListASequenceAndTheQueryThatChoseIt) {
  const auto text = text_of(70);
  auto cache = make("token_select", text, {{"sinks", 4}, {"window", 9}, {"budget", 12}, {"chunk", 16}});
  testing::feed(*cache, text, 0, 60);
  cache->finish_prompt();
  EXPECT_EQ(cache->policy_bytes(), 0) << "the prompt chooses anew for every chunk";
  for (int64_t i = 60; i < 70; ++i) {
    testing::feed(*cache, text, i, i + 1);
    EXPECT_EQ(cache->policy_bytes(), kBatch * (12 * 4 + kHeads * kKey)) << i;
  }
}

TEST(PolicyBytes, OfObservedPromptsAreTheWindowsQueriesUntilTheyHaveVoted) {
  for (const char* policy : {"snap_kv", "pyramid_kv"}) {
    const auto text = text_of(110);
    auto cache = make(policy, text, {{"window", 8}, {"capacity", 30}});
    testing::feed(*cache, text, 0, 61);
    testing::feed(*cache, text, 61, 100);
    EXPECT_EQ(cache->policy_bytes(), kBatch * kHeads * 8 * kKey) << policy;
    cache->finish_prompt();
    EXPECT_EQ(cache->policy_bytes(), 0) << policy;
    EXPECT_EQ(cache->kv().used_bytes(), kBatch * kKvHeads * 30 * 2 * kKey) << policy << " of a single layer";
    for (int64_t i = 100; i < 110; ++i) testing::feed(*cache, text, i, i + 1);
    EXPECT_EQ(cache->kv().used_bytes(), kBatch * kKvHeads * 40 * 2 * kKey) << policy;
  }
}

TEST(PolicyBytes, OfStreamingLlmAreNoneBesideSinksAndWindow) {
  const auto text = text_of(110);
  auto cache = make("streaming_llm", text, {{"sinks", 4}, {"window", 21}});
  testing::drive(*cache, text, 100, 40);
  EXPECT_EQ(cache->policy_bytes(), 0);
  EXPECT_EQ(cache->kv().used_bytes(), kBatch * kKvHeads * 25 * 2 * kKey);
}

}  // namespace
}  // namespace heed::cache::policy_bytes_test
