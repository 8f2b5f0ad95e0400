// What holds for every policy: the checks U1, U4, U5 and U6 of the family. U2 and U3 stand in the policies' own tests.
#include <gtest/gtest.h>

#include "cache/small_model.h"
#include "heed/error.h"

namespace heed::cache::universal_test {
namespace {

using testing::largest_difference;
using testing::random_tokens;
using testing::small_decoder;
using torch::Tensor;

constexpr double kSame = 1e-5;  // times the size of the logits, which is about 5
constexpr int64_t kPrompt = 187, kSteps = 64;

class Policies : public ::testing::TestWithParam<size_t> {
 protected:
  const PolicyRow& row() const { return policies()[GetParam()]; }
  Policy policy(const nlohmann::json& settings, const DecoderLm& model) const {
    return make_policy(row().row.name, settings, shape_of(model->config()));
  }
};

/// Indices of the policies that claim something.
template <class Claims>
std::vector<size_t> rows_that(const Claims& claims) {
  std::vector<size_t> rows;
  for (size_t i = 0; i < policies().size(); ++i)
    if (claims(policies()[i])) rows.push_back(i);
  return rows;
}

std::string name_of(const ::testing::TestParamInfo<size_t>& info) { return policies()[info.param].row.name; }

class PoliciesOfAnyChunk : public Policies {};
class PoliciesWithABudget : public Policies {};

INSTANTIATE_TEST_SUITE_P(All, Policies, ::testing::Range(size_t{0}, policies().size()), name_of);
INSTANTIATE_TEST_SUITE_P(All, PoliciesOfAnyChunk,
                         ::testing::ValuesIn(rows_that([](const auto& row) { return row.chunk_invariant; })), name_of);
INSTANTIATE_TEST_SUITE_P(All, PoliciesWithABudget, ::testing::ValuesIn(rows_that([](const auto& row) {
                           return bool(row.at_budget) || bool(row.at_mean_budget);
                         })),
                         name_of);

/// Logits after the prompt and after every step, [B, 1 + steps, vocab].
Tensor run(Session& session, const Tensor& tokens, int64_t prompt) {
  const auto first = session.prefill(tokens.narrow(1, 0, prompt), tokens.size(1));
  return torch::cat({first.unsqueeze(1), session.steps(tokens.slice(1, prompt))}, 1);
}

TEST_P(Policies, ABudgetThatCoversAllIsTheFullCache) {
  for (const int64_t kv_heads : {1, 4}) {
    auto model = small_decoder(4, kv_heads);
    const auto tokens = random_tokens(3, kPrompt + kSteps, 5);
    Session session(model, policy(row().covering, model), 3, 64);
    const auto got = run(session, tokens, kPrompt);
    const auto want = model->forward(tokens).slice(1, kPrompt - 1);
    EXPECT_LE(largest_difference(got, want), kSame * want.abs().max().item<double>()) << kv_heads << " KV heads";
  }
}

TEST_P(Policies, AlibiIsKeptByTheKeys) {
  auto model = small_decoder(4, 2, 2, "alibi");
  if (row().row.name == "kv_quant") {
    EXPECT_THROW(policy(row().covering, model), Error) << "a position in few bits";
    return;
  }
  const auto tokens = random_tokens(2, kPrompt + kSteps, 13);
  Session session(model, policy(row().covering, model), 2, 64);
  const auto got = run(session, tokens, kPrompt);
  const auto want = model->forward(tokens).slice(1, kPrompt - 1);
  EXPECT_LE(largest_difference(got, want), kSame * want.abs().max().item<double>());
}

TEST_P(PoliciesOfAnyChunk, ChunksOfAPromptDoNotMatter) {
  auto model = small_decoder();
  const auto tokens = random_tokens(2, kPrompt + 8, 6);
  Tensor want;
  std::vector<Tensor> held;
  for (const int64_t chunk : {kPrompt, int64_t{1}, int64_t{7}, int64_t{64}}) {
    Session session(model, policy(row().tight, model), 2, chunk);
    const auto got = run(session, tokens, kPrompt);
    std::vector<Tensor> positions;
    each_cache(session.state(), [&](LayerCache& cache) {
      for (int64_t r = 0; r < cache.kv().rows(); ++r) positions.push_back(std::get<0>(cache.kv().positions(r).sort()));
    });
    if (!want.defined()) want = got, held = positions;
    EXPECT_LE(largest_difference(got, want), kSame * want.abs().max().item<double>()) << "chunk " << chunk;
    ASSERT_EQ(positions.size(), held.size());
    for (size_t r = 0; r < held.size(); ++r) EXPECT_TRUE(torch::equal(positions[r], held[r])) << "chunk " << chunk;
  }
}

TEST_P(Policies, SequencesOfABatchDoNotSeeEachOther) {
  auto model = small_decoder();
  const auto tokens = random_tokens(3, kPrompt + 8, 7);
  Session together(model, policy(row().tight, model), 3, 64);
  const auto got = run(together, tokens, kPrompt);
  for (int64_t b = 0; b < 3; ++b) {
    Session others(model, policy(row().tight, model), 3, 64);
    const auto want = run(others, testing::among_others(tokens, b), kPrompt).narrow(0, b, 1);
    EXPECT_LE(largest_difference(got.narrow(0, b, 1), want), kSame * want.abs().max().item<double>()) << b;
  }
}

TEST_P(Policies, StepsCanBeRepeatedAtOneLength) {
  constexpr int64_t kRepeats = 80;  // a measurement takes 72
  auto model = small_decoder();
  for (const int64_t prompt : {63, 64, 79, 187}) {  // at borders of blocks and chunks, and elsewhere
    Session session(model, policy(row().tight, model), 2, 64);
    session.prefill(random_tokens(2, prompt, 10), prompt + kRepeats);
    session.finish_prompt();
    const auto token = random_tokens(1, 2, 11)[0];
    const auto lengths = [&] {
      std::vector<int64_t> longest;
      each_cache(session.state(), [&](LayerCache& cache) { longest.push_back(cache.kv().longest()); });
      return longest;
    };
    const auto begin = lengths();
    Tensor first;
    for (int64_t i = 0; i < kRepeats; ++i) {
      const auto before = lengths();
      const auto logits = session.step(token);
      EXPECT_TRUE(torch::isfinite(logits).all().item<bool>()) << prompt << ", step " << i;
      if (!first.defined()) first = logits;
      if (row().row.name == "full") {
        EXPECT_TRUE(torch::equal(logits, first)) << prompt << ", step " << i;
      }
      auto slots = before.begin();
      each_cache(session.state(), [&](LayerCache& cache) {
        cache.hold_at(*slots);
        EXPECT_LE(cache.kv().longest(), *slots++) << prompt << ", step " << i;
      });
    }
    // A block may go at a border that the prompt's end was close to; no more.
    const auto end = lengths();
    for (size_t l = 0; l < end.size(); ++l) EXPECT_GE(end[l], begin[l] - 16) << prompt;
    if (row().row.name == "full") {
      EXPECT_EQ(session.reads().attended, kRepeats * 2 * 2 * 2 * (prompt + 1));
    }
  }
}

TEST_P(Policies, VariantsAreAccepted) {
  if (!row().variants) return;
  auto model = small_decoder();
  for (const int64_t prompt : {2, 64, 5000})
    for (const auto& settings : row().variants(prompt)) EXPECT_NO_THROW(policy(settings, model)) << settings;
}

TEST_P(Policies, UnknownSettingsAreRefused) {
  auto model = small_decoder();
  EXPECT_THROW(policy({{"no_such_setting", 1}}, model), Error);
}

TEST_P(PoliciesWithABudget, GiveSettingsThatAreAcceptedForAny) {
  auto model = small_decoder();
  const HeadRanking ranking{{1, 0}, {0, 1}, {0, 0}, {1, 1}};
  for (const int64_t budget : {2, 3, 5, 16, 63, 64, 100, 513, 5000}) {
    if (row().at_budget) {
      EXPECT_NO_THROW(policy(row().at_budget(budget), model)) << budget << ": " << row().at_budget(budget);
    }
    if (!row().at_mean_budget) continue;
    for (const int64_t prompt : {8, 64, 600, 5001})
      EXPECT_NO_THROW(policy(row().at_mean_budget(budget, prompt, ranking), model)) << budget << " of " << prompt;
  }
}

TEST(FullCache, ReadsAndHoldsEverything) {
  auto model = small_decoder();
  const auto tokens = random_tokens(2, 100, 8);
  Session session(model, make_policy("full", {}, shape_of(model->config())), 2);
  run(session, tokens, 96);
  EXPECT_EQ(session.reads().steps, 2 * 4);
  EXPECT_EQ(session.reads().attended, 2 * 2 * 2 * (97 + 98 + 99 + 100));
  const int64_t slots = 112;  // 100 rounded up to pages
  EXPECT_EQ(session.cache_bytes(), 2 * 2 * 2 * slots * (16 + 16) * 4);
}

TEST(FullCache, ForgetsTheNewest) {
  auto model = small_decoder();
  const auto tokens = random_tokens(1, 60, 9);
  Session session(model, make_policy("full", {}, shape_of(model->config())));
  run(session, tokens, 50);
  for (auto& layer : session.state().layers) layer->truncate(52);
  const auto again = session.steps(tokens.slice(1, 52));
  EXPECT_LE(largest_difference(again, model->forward(tokens).slice(1, 52)), 1e-4);
}

TEST(UnknownPolicy, NamesTheNearest) {
  try {
    make_policy("streaming_lm", {}, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("streaming_llm"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace heed::cache::universal_test
