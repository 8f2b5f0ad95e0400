// Head scores against the formula on the shipped model, and what masking heads does to its answers.
#include "heed/probe/head_scores.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "heed/assets.h"
#include "heed/cache/evaluate.h"
#include "heed/error.h"
#include "heed/mixers/taps.h"
#include "heed/probe/head_masking.h"
#include "heed/tasks/task.h"
#include "probe/greedy.h"
#include "probe/repeated_tokens.h"

namespace heed::probe::head_scores_test {
namespace {

using torch::Tensor;

const checkpoint::LanguageModel& shipped() {
  static const auto lm = checkpoint::load_language_model(find_asset("tiny-lm"));
  return lm;
}

HeadScoreOptions small_options() {
  HeadScoreOptions options;
  options.parameters = {{"max_tokens", 200}};
  options.samples = 8;
  options.sequences = 1;
  options.repeated = 40;
  return options;
}

TEST(TokensOf, FindsTheTokensThatHoldAText) {
  const auto& tokenizer = shipped().tokenizer;
  const auto ids = tokenizer.encode("the number of abcd is 4417. abcd");
  const auto [begin, end] = tokens_of(tokenizer, ids, "4417");
  EXPECT_EQ(tokenizer.decode({ids.data() + begin, size_t(end - begin)}), "4417");
  const auto none = tokens_of(tokenizer, ids, "9999");
  EXPECT_EQ(none.first, none.second);
}

/// Weights of every layer by the definition, double [H, N, N].
class Weights : public Taps {
 public:
  void core_input(const LayerContext&, CoreInput& core) override {
    const int64_t n = core.q.size(2), group = core.q.size(1) / core.k.size(1);
    const auto k = core.k[0].to(torch::kFloat64).repeat_interleave(group, 0);
    auto logits = core.q[0].to(torch::kFloat64).matmul(k.transpose(1, 2)) / std::sqrt(double(k.size(2)));
    logits.masked_fill_(torch::ones({n, n}, torch::kBool).triu(1), -INFINITY);
    layers.push_back(logits.softmax(2));
  }
  std::vector<Tensor> layers;
};

TEST(HeadScores, OfPromptsFollowTheirDefinition) {
  torch::NoGradGuard no_grad;
  const auto& lm = shipped();
  auto options = small_options();
  options.samples = 1;
  options.recent = 30;
  const auto scores = score_heads(lm, options);
  const auto sample =
      tasks::make_text_task("niah_single", options.parameters, cache::token_count(lm))->sample(tasks::Split::valid, 0);
  const auto ids = lm.tokenizer.encode(sample.prompt);
  const int64_t n = int64_t(ids.size()) - 1, half = int64_t(ids.size()) / 2;  // the last token is a step
  Weights weights;
  auto model = lm.model;
  model->hidden(as_tokens(ids).narrow(1, 0, n), nullptr, 0, &weights);
  const auto distance = torch::arange(n).unsqueeze(1) - torch::arange(n);
  for (size_t l = 0; l < weights.layers.size(); ++l) {
    const auto& a = weights.layers[l];
    const auto expect = [&](const char* name, const Tensor& of_rows, double tolerance) {
      const auto want = of_rows.slice(1, half).mean(1);
      EXPECT_LE((scores.at(name).values[int64_t(l)] - want).abs().max().item<double>(), tolerance) << name << " " << l;
    };
    expect("previous", (a * (distance == 1)).sum(2), 1e-5);
    expect("streaming", (a * ((distance < 30) | (torch::arange(n) < options.sinks))).sum(2), 1e-5);
    expect("first", a.select(2, 0), 1e-5);
    const auto rows = a.slice(1, half);
    const auto seen = (torch::arange(half, n).unsqueeze(1) >= torch::arange(n)).sum(0);
    auto sinks = (rows.sum(1) / seen > options.sink_weight) & (seen >= 16);
    sinks.select(1, 0) = false;
    expect("later_sinks", (a * sinks.unsqueeze(1)).sum(2), 1e-5);
    expect("entropy", -torch::xlogy(a, a).sum(2), 1e-4);
    expect("distance", (a * distance.clamp_min(0)).sum(2), 1e-5 * double(n));
  }
}

TEST(HeadScores, OfRepeatedTokensFollowTheirDefinition) {
  torch::NoGradGuard no_grad;
  const auto& lm = shipped();
  auto options = small_options();
  options.samples = 1;
  const auto scores = score_heads(lm, options);
  const auto text = repeated_tokens(lm, options, 0);
  const auto ids = torch::tensor(text.ids);
  const int64_t n = ids.numel(), seen = text.first + text.period;
  Weights weights;
  auto model = lm.model;
  model->hidden(ids.unsqueeze(0), nullptr, 0, &weights);
  // Pairs of equal tokens, the key first; and the keys behind those.
  const auto earlier = (ids.unsqueeze(1) == ids.unsqueeze(0)).to(torch::kFloat64).tril(-1);
  const auto behind = torch::constant_pad_nd(earlier.narrow(1, 0, n - 1), {1, 0});
  for (size_t l = 0; l < weights.layers.size(); ++l)
    for (const auto& [name, pairs] : {std::pair("echo", earlier), std::pair("induction", behind)}) {
      const auto want = (weights.layers[l] * pairs).sum(2).slice(1, seen).mean(1);
      EXPECT_LE((scores.at(name).values[int64_t(l)] - want).abs().max().item<double>(), 1e-5) << name << " " << l;
    }
}

TEST(HeadScores, AreShares) {
  const auto scores = score_heads(shipped(), small_options());
  EXPECT_EQ(scores.repeated, 40);
  for (const char* name : {"retrieval", "induction", "echo", "previous", "streaming", "first", "later_sinks"}) {
    const auto& values = scores.at(name).values;
    EXPECT_GE(values.min().item<double>(), 0) << name;
    EXPECT_LE(values.max().item<double>(), 1 + 1e-6) << name;
  }
  EXPECT_THROW(scores.at("inducton"), Error);
  const auto table = to_table(scores.at("induction"));
  EXPECT_EQ(table.number(1, 2), scores.at("induction").values[1][2].item<double>());
}

TEST(HeadScores, OfRetrievalAreTheSameAlone) {
  const auto options = small_options();
  const auto alone = retrieval_scores(shipped(), options), all = score_heads(shipped(), options);
  EXPECT_TRUE(torch::equal(alone.at("retrieval").values, all.at("retrieval").values));
  EXPECT_EQ(alone.answered, all.answered);
}

TEST(RankCorrelation, FollowsSpearman) {
  const auto score = [](std::vector<double> values) {
    return HeadScore{"x", "", torch::tensor(values, torch::kFloat64).view({1, -1})};
  };
  EXPECT_NEAR(rank_correlation(score({1, 2, 3, 4}), score({0, 10, 200, 3000})), 1, 1e-12);
  EXPECT_NEAR(rank_correlation(score({1, 2, 3, 4}), score({4, 3, 2, 1})), -1, 1e-12);
  // Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5).
  EXPECT_NEAR(rank_correlation(score({0, 1, 1, 2}), score({1, 2, 3, 4})), std::sqrt(0.9), 1e-12);
  EXPECT_TRUE(std::isnan(rank_correlation(score({1, 1}), score({1, 2}))));
  EXPECT_THROW(rank_correlation(score({1}), score({1, 2})), Error);
}

TEST(Masking, DrawsNoneOfTheSpared) {
  const auto& lm = shipped();
  const auto config = lm.model->config();
  HeadScore order{"x", "", -torch::arange(int64_t(config.layers.size()) * config.heads, torch::kFloat64)};
  order.values = order.values.view({int64_t(config.layers.size()), config.heads});
  const auto top = top_heads(order, 6);
  EXPECT_EQ(top, heads_above(order, -6));
  MaskingOptions options;
  options.parameters = {{"max_tokens", 100}};
  options.samples = 1;
  options.draws = 8;
  options.spared = top;
  for (const auto& drawn : mask_heads(lm, top_heads(order, 2), Masking::zero, options).drawn) {
    EXPECT_EQ(drawn.size(), 2u);
    for (const auto& head : drawn) EXPECT_EQ(std::find(top.begin(), top.end(), head), top.end());
  }
}

TEST(Masking, RetrievalHeadsCarryTheAnswer) {
  const auto scores = score_heads(shipped(), small_options());
  ASSERT_GE(scores.answered, 4);
  const auto found = heads_above(scores.at("retrieval"), 0.1);
  ASSERT_FALSE(found.empty());
  MaskingOptions options;
  options.parameters = {{"max_tokens", 200}};
  options.samples = 8;
  options.draws = 3;
  for (const auto masking : {Masking::zero, Masking::uniform}) {
    const auto result = mask_heads(shipped(), found, masking, options);
    EXPECT_LT(result.found, result.unmasked) << to_string(masking);
    EXPECT_LT(result.found, result.random_mean()) << to_string(masking);
  }
  EXPECT_THROW(mask_heads(shipped(), {}, Masking::zero, options), Error);
}

}  // namespace
}  // namespace heed::probe::head_scores_test
