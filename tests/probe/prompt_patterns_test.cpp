#include "heed/probe/prompt_patterns.h"

#include <gtest/gtest.h>

#include "cache/small_model.h"
#include "heed/error.h"

namespace heed::probe::prompt_patterns_test {
namespace {

using nlohmann::json;

TEST(PromptPatterns, ArePapersTimesTheScale) {
  const auto all = prompt_patterns(1);
  ASSERT_EQ(all.size(), 7u);
  EXPECT_EQ(all[3], (json{{"pattern", "vertical_slash"}, {"columns", 3500}, {"diagonals", 100}}));
  EXPECT_EQ(prompt_patterns(0.01)[6], (json{{"pattern", "block_sparse"}, {"blocks", 1}}));
  EXPECT_THROW(prompt_patterns(0), Error);
}

TEST(PromptPatterns, EachHeadGetsThePatternOfLeastError) {
  auto model = testing::small_decoder(4, 2);
  const auto tokens = testing::random_tokens(1, 300, 81);
  const auto choice = choose_patterns(model, tokens, prompt_patterns(0.02));
  EXPECT_EQ(choice.layers, 2);
  EXPECT_EQ(choice.heads, 4);
  for (size_t p = 0; p < choice.patterns.size(); ++p) {
    EXPECT_LE(choice.mean_error(), choice.mean_error_of(p));
    EXPECT_GT(choice.mean_density_of(p), 0);
    EXPECT_LE(choice.mean_density_of(p), 1);
    for (size_t l = 0; l < 2; ++l)
      for (size_t h = 0; h < 4; ++h) EXPECT_LE(choice.error[choice.best[l][h]][l][h], choice.error[p][l][h]);
  }
  // The policy that it becomes visits what the search has measured.
  const auto policy = cache::make_policy("minference", choice.settings(), cache::shape_of(model->config()));
  cache::Session session(model, policy, 1, 300);
  session.prefill(tokens);
  const auto reads = session.reads();
  EXPECT_NEAR(double(reads.prompt_pairs) / double(reads.prompt_visible), choice.mean_density(), 0.02);
}

TEST(PromptPatterns, APatternThatReadsEverythingHasNoError) {
  auto model = testing::small_decoder(4, 2);
  const auto tokens = testing::random_tokens(1, 200, 82);
  const json dense{{"pattern", "a_shape"}, {"window", 200}}, thin{{"pattern", "a_shape"}, {"sinks", 1}, {"window", 3}};
  const auto choice = choose_patterns(model, tokens, {thin, dense});
  EXPECT_LE(choice.mean_error(), 1e-5);
  EXPECT_GT(choice.mean_error_of(0), 0.05);
  EXPECT_EQ(choice.mean_density(), 1);
  for (const auto& layer : choice.best)
    for (const size_t pattern : layer) EXPECT_EQ(pattern, 1u);
}

}  // namespace
}  // namespace heed::probe::prompt_patterns_test
