#include "heed/cache/generate.h"

#include <gtest/gtest.h>

#include "cache/small_model.h"
#include "heed/error.h"

namespace heed::cache::generate_test {
namespace {

using torch::Tensor;

TEST(Sampling, GreedyTakesTheLowestOfEquals) { EXPECT_EQ(sample(torch::tensor({1.0f, 3.0f, 3.0f, -2.0f}), {}, 0), 1); }

TEST(Sampling, CutsKeepWhatTheyPromise) {
  const auto p = torch::tensor({0.4, 0.05, 0.3, 0.25}, torch::kFloat64);
  Sampling s;
  s.temperature = 1;
  const auto expect = [&](std::vector<double> want) {
    const auto got = distribution(p.log(), s);
    for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[int64_t(i)].item<double>(), want[i], 1e-12) << i;
  };
  expect({0.4, 0.05, 0.3, 0.25});
  s.top_k = 2;
  expect({4.0 / 7, 0, 3.0 / 7, 0});
  s = {.temperature = 1, .min_p = 0.7};
  expect({4.0 / 7, 0, 3.0 / 7, 0});
  s = {.temperature = 1, .top_p = 0.71};
  expect({0.4 / 0.95, 0, 0.3 / 0.95, 0.25 / 0.95});
  s.top_p = 1e-9;
  expect({1, 0, 0, 0});
  s = {.temperature = 0.5};
  const double squares = 0.16 + 0.0025 + 0.09 + 0.0625;
  expect({0.16 / squares, 0.0025 / squares, 0.09 / squares, 0.0625 / squares});
}

TEST(Sampling, DrawsFollowTheDistribution) {
  const auto p = torch::tensor({0.5, 0.2, 0.3}, torch::kFloat64);
  Sampling s;
  s.temperature = 1;
  s.seed = 7;
  constexpr int kDraws = 4000;
  std::vector<int> counts(3);
  for (int i = 0; i < kDraws; ++i) ++counts[sample(p.log(), s, i)];
  // Five standard deviations of a binomial count.
  for (int c = 0; c < 3; ++c) {
    const double share = p[c].item<double>();
    EXPECT_NEAR(counts[c], kDraws * share, 5 * std::sqrt(kDraws * share * (1 - share)));
  }
  EXPECT_EQ(sample(p.log(), s, 5), sample(p.log(), s, 5));
}

TEST(Sampling, BadValuesAreRefused) {
  EXPECT_THROW((Sampling{.temperature = -1}.check()), Error);
  EXPECT_THROW((Sampling{.top_p = 0}.check()), Error);
  EXPECT_THROW((Sampling{.min_p = 2}.check()), Error);
  EXPECT_THROW(sample(torch::tensor({0.0f, NAN}), {}, 0), Error);
}

class Generate : public ::testing::Test {
 protected:
  Generate() : model(testing::small_decoder()), policy(make_policy("full", {}, shape_of(model->config()))) {}

  Generated run(const GenerateOptions& options) {
    Session session(model, policy);
    pieces.clear();
    return generate(session, formats::Tokenizer::bytes(), prompt, options,
                    [&](const std::string& piece) { pieces += piece; });
  }

  DecoderLm model;
  Policy policy;
  std::vector<int64_t> prompt{3, 1, 4, 1, 5};
  std::string pieces;
};

TEST_F(Generate, IsGreedyDecodingOfTheModel) {
  const auto got = run({.max_tokens = 12});
  auto ids = prompt;
  for (int i = 0; i < 12; ++i) {
    const auto logits = model->forward(torch::tensor(ids, torch::kInt64).unsqueeze(0));
    ids.push_back(logits[0][-1].argmax().item<int64_t>());
  }
  EXPECT_EQ(got.ids, std::vector<int64_t>(ids.begin() + 5, ids.end()));
  EXPECT_EQ(got.finish, Finish::length);
  EXPECT_EQ(got.decode_steps, 11);
  EXPECT_EQ(pieces, got.text);
  EXPECT_EQ(got.text, std::string(got.ids.begin(), got.ids.end()));
}

TEST_F(Generate, StopsBeforeAStopStringAndAtTheEnd) {
  const auto all = run({.max_tokens = 12});
  const auto stop = all.text.substr(5, 3);
  const auto stopped = run({.max_tokens = 12, .stop = {"never", stop}});
  EXPECT_EQ(stopped.finish, Finish::stop);
  EXPECT_EQ(stopped.text, all.text.substr(0, all.text.find(stop)));
  EXPECT_EQ(pieces, stopped.text);
  const auto ended = run({.max_tokens = 12, .eos = {all.ids[4]}});
  EXPECT_EQ(ended.finish, Finish::eos);
  EXPECT_LE(ended.ids.size(), 4u);
  EXPECT_EQ(run({.max_tokens = 0}).text, "");
  // A stop string of which only the beginning comes holds nothing back in the end.
  EXPECT_EQ(run({.max_tokens = 12, .stop = {all.text.substr(11) + "?"}}).text, all.text);
}

TEST_F(Generate, RefusesAnEmptyPrompt) {
  prompt.clear();
  EXPECT_THROW(run({}), Error);
}

}  // namespace
}  // namespace heed::cache::generate_test
