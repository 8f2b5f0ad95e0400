// The card's facts of recycled_attention.
#include <gtest/gtest.h>

#include "cache/layer_driver.h"
#include "cache/oracle_induction.h"

namespace heed::cache::recycled_attention_test {
namespace {

using testing::LayerText;
using testing::OracleInduction;
using torch::Tensor;

constexpr double kSame = 1e-5;
constexpr int64_t kPrompt = 75, kSteps = 13;

std::unique_ptr<LayerCache> make(const LayerText& text, const nlohmann::json& settings) {
  return make_policy("recycled_attention", settings, shape_of(text))({});
}

/// The `kept` tokens up to i that the group of KV head g weighs most at i.
std::vector<int64_t> weighed(const LayerText& text, int64_t b, int64_t g, int64_t i, int64_t kept) {
  auto sum = torch::zeros({i + 1}, torch::kFloat64);
  for (int64_t h = g * text.group(); h < (g + 1) * text.group(); ++h)
    sum += testing::attend_all(text, b, h, i).logits.softmax(0);
  return testing::largest(sum, kept);
}

TEST(RecycledAttention, CheapStepsReadWhatTheLastFullStepWeighedMost) {
  constexpr int64_t kKept = 9, kPeriod = 5;
  for (const auto& [batch, kv_heads] : {std::pair{1, 1}, {3, 1}, {3, 4}}) {
    const auto text = testing::random_text(batch, 4, kv_heads, kPrompt + kSteps, 41);
    auto cache = make(text, {{"kept", kKept}, {"period", kPeriod}, {"threshold", -1}});
    const auto got = testing::drive(*cache, text, kPrompt, 32);
    int64_t reads = 0;
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t h = 0; h < 4; ++h) {
        for (int64_t i = 0; i < text.length(); ++i) {
          const int64_t step = i - kPrompt + 1;  // the first is 1
          auto want = testing::attend_all(text, b, h, i).out;
          if (step >= 1 && step % kPeriod != 0) {
            const int64_t full = kPrompt - 1 + step / kPeriod * kPeriod;
            auto keys = weighed(text, b, h / text.group(), full, kKept);
            for (int64_t j = full + 1; j <= i; ++j) keys.push_back(j);
            want = testing::attend_reference(text, b, h, i, testing::Read::absolute(keys, i)).out;
            if (h % text.group() == 0) reads += int64_t(keys.size());
          } else if (step >= 1 && h % text.group() == 0) {
            reads += i + 1;
          }
          EXPECT_LE((got[b][h][i] - want).abs().max().item<double>(), kSame) << b << " " << h << " " << i;
        }
      }
    }
    EXPECT_EQ(cache->reads().attended, reads);
    // Beside the full cache: the list and the query of the last full step.
    EXPECT_EQ(cache->policy_bytes(), batch * (kv_heads * kKept * 4 + 4 * 16 * 4));
  }
}

TEST(RecycledAttention, AFullStepEveryTimeIsTheFullCache) {
  const auto text = testing::random_text(2, 4, 2, kPrompt + kSteps, 42);
  auto full = make_policy("full", {}, shape_of(text))({});
  const auto want = testing::drive(*full, text, kPrompt, 32);
  for (const nlohmann::json& settings :
       std::vector<nlohmann::json>{{{"kept", 3}, {"period", 1}},
                                   {{"kept", 3}, {"period", 100}, {"check_every", 1}, {"threshold", 1.01}},
                                   {{"kept", 100}, {"period", 100}, {"threshold", -1}}}) {
    auto cache = make(text, settings);
    EXPECT_LE((testing::drive(*cache, text, kPrompt, 32) - want).abs().max().item<double>(), kSame) << settings;
    EXPECT_EQ(cache->reads().attended, full->reads().attended) << settings;
  }
}

TEST(RecycledAttention, ASequenceWhoseQueryTurnsReadsEverything) {
  auto text = testing::random_text(2, 4, 2, kPrompt + kSteps, 43);
  // Sequence 0 keeps the last query of the prompt; sequence 1 turns at its sixth step.
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t i = kPrompt; i < text.length(); ++i)
      text.q[b].select(1, i).copy_((b == 1 && i >= kPrompt + 5 ? -1 : 1) * text.q[b].select(1, kPrompt - 1));
  const auto reads = [&](const LayerText& of) {
    auto cache = make(of, {{"kept", 5}, {"period", 100}, {"check_every", 1}, {"threshold", 0.8}});
    testing::drive(*cache, of, kPrompt, 32);
    return cache->reads().attended;
  };
  int64_t cheap = 0, turned = 0;
  for (int64_t step = 1; step <= kSteps; ++step) {
    cheap += 2 * (5 + step);
    turned += 2 * (step < 6 ? 5 + step : step == 6 ? kPrompt + 6 : 5 + step - 6);
  }
  EXPECT_EQ(reads(text), cheap + turned);
}

TEST(RecycledAttention, QueriesRepeatedInAGroupChangeNothing) {
  const auto text = testing::random_text(2, 2, 2, kPrompt + kSteps, 44);
  auto grouped = text;
  grouped.q = text.q.repeat_interleave(4, 1);
  const nlohmann::json settings{{"kept", 9}, {"period", 5}};
  auto a = make(text, settings), b = make(grouped, settings);
  const auto want = testing::drive(*a, text, kPrompt, 32).repeat_interleave(4, 1);
  EXPECT_LE((testing::drive(*b, grouped, kPrompt, 32) - want).abs().max().item<double>(), kSame);
}

TEST(RecycledAttention, RetainedMassBoundsTheError) {
  const auto text = testing::random_text(1, 4, 2, kPrompt + 4, 45);
  auto cache = make(text, {{"kept", 20}, {"period", 100}, {"threshold", -1}});
  const auto got = testing::drive(*cache, text, kPrompt, 32);
  for (int64_t i = kPrompt; i < text.length(); ++i) {
    for (int64_t h = 0; h < 4; ++h) {
      auto keys = weighed(text, 0, h / 2, kPrompt - 1, 20);
      for (int64_t j = kPrompt; j <= i; ++j) keys.push_back(j);
      testing::expect_within_retained_mass(text, 0, h, i, keys, got[0][h][i]);
    }
  }
}

TEST(RecycledAttention, TheRunMovesOutOfWhatIsRecycled) {
  const auto correct = [](const nlohmann::json& settings) {
    OracleInduction oracle("recycled_attention", settings);
    return OracleInduction::correct(oracle.answer(OracleInduction::prompt(1000, 400, 46)));
  };
  EXPECT_EQ(correct({{"kept", 2}, {"period", 1}}), 5);
  for (const int64_t period : {2, 3, 16})
    EXPECT_EQ(correct({{"kept", 2}, {"period", period}, {"threshold", -1}}), 1) << period;
  for (const int64_t width : {1, 3, 5, 7})
    EXPECT_EQ(correct({{"kept", width + 1}, {"period", 5}, {"width", width}, {"threshold", -1}}), 1 + width / 2);
  // The query turns with every token of the run: looking at each step is enough.
  EXPECT_EQ(correct({{"kept", 2}, {"period", 16}, {"check_every", 1}}), 5);
}

}  // namespace
}  // namespace heed::cache::recycled_attention_test
