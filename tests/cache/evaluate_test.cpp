#include "heed/cache/evaluate.h"

#include <gtest/gtest.h>

#include <array>

#include "heed/assets.h"
#include "heed/bench/compare_policies.h"
#include "heed/error.h"
#include "support/temporary_directory.h"
#include "support/xml_check.h"

namespace heed::cache::evaluate_test {
namespace {

TEST(Fidelity, OfEqualsIsNothing) {
  torch::manual_seed(3);
  const auto logits = torch::randn({40, 17});
  const auto same = fidelity(logits, logits + 2.5, torch::zeros({40}, torch::kInt64));
  EXPECT_LE(same.kl, 1e-9);
  EXPECT_EQ(same.top1, 1);
  EXPECT_NEAR(same.nll_delta, 0, 1e-6);
}

TEST(Fidelity, IsTheFormula) {
  const auto p = torch::tensor({{0.5, 0.25, 0.25}, {0.1, 0.2, 0.7}}, torch::kFloat64);
  const auto q = torch::tensor({{0.25, 0.5, 0.25}, {0.1, 0.2, 0.7}}, torch::kFloat64);
  const auto got = fidelity(p.log(), q.log(), torch::tensor({0, 2}));
  const double kl = 0.5 * std::log(2.0) - 0.25 * std::log(2.0);
  EXPECT_NEAR(got.kl, kl / 2, 1e-12);
  EXPECT_NEAR(got.kl_max, kl, 1e-12);
  EXPECT_EQ(got.top1, 0.5);
  EXPECT_NEAR(got.nll_delta, std::log(2.0) / 2, 1e-12);
}

class Shipped : public ::testing::Test {
 protected:
  checkpoint::LanguageModel lm = checkpoint::load_language_model(find_asset("tiny-lm"));
};

TEST_F(Shipped, StepsScoreATextAsTheWholeForwardDoes) {
  const TemporaryDirectory folder;
  std::ofstream text(folder / "text");
  for (int i = 0; i < 120; ++i) text << "Line " << i << " of a file that is neither long nor short.\n";
  text.close();
  const auto corpus = tasks::Corpus::read({folder / "text"});
  const auto full = make_policy("full", {}, shape_of(lm.model->config()));
  const auto stepped = score_text(lm, &full, corpus, tasks::Split::train, 128, 3);
  EXPECT_EQ(stepped.tokens, 3 * 64);
  EXPECT_NEAR(stepped.bits_per_byte, stepped.nats / std::log(2.0), 1e-9);  // a byte a token
  const auto whole = score_text(lm, nullptr, corpus, tasks::Split::train, 128, 3);
  EXPECT_EQ(whole.tokens, 3 * 128);
  EXPECT_LT(std::abs(whole.nats - stepped.nats), 1);  // other halves of the same text
}

TEST_F(Shipped, TheComparisonFindsWhatFits) {
  bench::PolicyCompareOptions options;
  options.policies = {"streaming_llm", "snap_kv"};
  options.budgets = {0.25};
  options.prompt = 192;
  options.steps = 24;
  options.repeats = 1;
  options.task = "";
  options.batches = {1, 2};
  std::string text;
  for (int i = 0; i < 40; ++i) text += "The quick brown fox number " + std::to_string(i) + " jumps. ";
  auto c = bench::compare_policies(lm, text, options);
  ASSERT_EQ(c.rows.size(), 3u);
  EXPECT_LE(c.rows[0].fidelity.kl, 1e-9);
  EXPECT_EQ(c.rows[0].read, 192 + 1);  // every step at the length of the prompt
  EXPECT_EQ(c.rows[0].fidelity.top1, 1);
  EXPECT_EQ(c.rows[0].fidelity.top5_overlap, 1);
  EXPECT_EQ(c.rows[0].mass, 1);
  EXPECT_EQ(c.rows[0].attention_kl, 0);
  EXPECT_EQ(c.rows[0].recall, 1);
  EXPECT_LE(c.rows[0].out_rel_err, 1e-6);
  EXPECT_EQ(c.rows[0].first_divergence, options.steps);
  EXPECT_EQ(c.rows[0].full_steps, 1);
  EXPECT_EQ(c.rows[0].slots_mean, 192 + 23);
  const int64_t pair = 2 * lm.model->config().head_dim * 4;
  const int64_t rows = int64_t(lm.model->config().layers.size()) * lm.model->config().kv_heads;
  for (const auto& row : c.rows) {
    // The formula, and what is really held: rows grow by pages and, while a prompt comes, in steps.
    EXPECT_EQ(row.kv_bytes_used, std::llround(row.slots_mean * double(rows)) * pair) << row.choice.name;
    EXPECT_GE(row.kv_bytes_hot + row.kv_bytes_cold, row.kv_bytes_used) << row.choice.name;
    EXPECT_EQ(row.read_bytes, std::llround(row.read * double(pair))) << row.choice.name;
    EXPECT_TRUE(row.slots_min <= row.slots_mean && row.slots_mean <= row.slots_max) << row.choice.name;
    EXPECT_TRUE(row.build_s <= row.prefill_s && row.ttft_s <= row.prefill_s) << row.choice.name;
    EXPECT_LE(row.decode_ms, row.decode_p95_ms) << row.choice.name;
    EXPECT_GE(row.peak_bytes, row.cache_bytes) << row.choice.name;
    EXPECT_EQ(row.layers.size(), lm.model->config().layers.size()) << row.choice.name;
  }
  EXPECT_NE(c.chosen, std::optional<size_t>(0));
  for (size_t i = 1; i < 3; ++i) {
    EXPECT_LT(c.rows[i].cache_bytes, c.rows[0].cache_bytes / 2) << c.rows[i].choice.name;
    EXPECT_GT(c.rows[i].fidelity.kl, 0) << c.rows[i].choice.name;
    EXPECT_TRUE(c.rows[i].mass > 0 && c.rows[i].mass < 1) << c.rows[i].choice.name;
    EXPECT_TRUE(c.rows[i].recall > 0 && c.rows[i].recall < 1) << c.rows[i].choice.name;
    EXPECT_GT(c.rows[i].out_rel_err, 1e-4) << c.rows[i].choice.name;
    EXPECT_EQ(c.rows[i].full_steps, 0) << c.rows[i].choice.name;
  }
  ASSERT_EQ(c.speeds.size(), 3u * 3 * 2);  // at 48, 96 and 192 tokens, batches of 1 and 2
  constexpr std::array<int64_t, 3> kLengths{48, 96, 192};
  for (size_t i = 0; i < c.speeds.size(); ++i) {
    EXPECT_EQ(c.speeds[i].prompt, kLengths[i / 2 % 3]);
    EXPECT_EQ(c.speeds[i].batch, int64_t(1 + i % 2));
    EXPECT_GE(c.speeds[i].decode_ms, c.speeds[i].attention_ms);
    EXPECT_GT(c.speeds[i].attention_ms, 0);
  }
  const auto json = bench::to_json(c);
  for (const char* key : {"model_hash", "dtype", "seed", "repeats"}) EXPECT_TRUE(json["source"].contains(key)) << key;
  for (const char* key : {"isa", "threads", "commit"}) EXPECT_TRUE(json["machine"].contains(key)) << key;
  // Fidelity is the same to the bit in another run; times are not.
  const auto again = bench::compare_policies(lm, text, options);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(c.rows[i].fidelity.kl, again.rows[i].fidelity.kl);
    EXPECT_EQ(c.rows[i].mass, again.rows[i].mass);
    EXPECT_EQ(c.rows[i].out_rel_err, again.rows[i].out_rel_err);
  }
  options.limits.max_kl = 0;
  c = bench::compare_policies(lm, text, options);
  EXPECT_EQ(c.chosen, std::optional<size_t>(0));
  options.limits.max_bytes = 10;
  c = bench::compare_policies(lm, text, options);
  EXPECT_FALSE(c.chosen);
  EXPECT_NE(bench::decision(c).find("no policy fits"), std::string::npos);
  const auto page = bench::policy_html(c);
  EXPECT_EQ(testing::xml_complaint(page.substr(page.find("<html")), {"meta"}), "");
  size_t plots = 0;
  for (auto at = page.find("<svg"); at != std::string::npos; at = page.find("<svg", at + 1)) ++plots;
  EXPECT_EQ(plots, 3u);  // the task's is missing where there is none
}

TEST_F(Shipped, PoliciesWithAnotherDialAreComparedByIt) {
  bench::PolicyCompareOptions options;
  options.policies = {"kv_quant", "flex_prefill"};
  options.prompt = 512;
  options.steps = 12;
  options.repeats = 1;
  options.task_samples = 1;
  options.lengths = {64};
  std::string text;
  for (int i = 0; i < 60; ++i) text += "The quick brown fox number " + std::to_string(i) + " jumps. ";
  const auto c = bench::compare_policies(lm, text, options);
  ASSERT_EQ(c.rows.size(), 1u + 4 + 4);
  for (size_t i = 1; i < c.rows.size(); ++i) {
    EXPECT_GT(c.rows[i].budget, 0) << i;
    EXPECT_LE(c.rows[i].budget, 1) << i;
    if (c.rows[i].choice.name == "flex_prefill") {
      EXPECT_EQ(c.rows[i].budget, c.rows[i].prompt_density) << i;
      EXPECT_TRUE(i == 1 || c.rows[i].budget >= c.rows[i - 1].budget) << i;  // the masses ascend
    } else {
      EXPECT_LT(c.rows[i].budget, 0.5) << i;
    }
  }
  ASSERT_EQ(c.speeds.size(), 1u);  // of the full cache: neither has a budget
  const auto page = bench::policy_html(c);
  for (const char* format : {"int8", "int4", "kivi2", "kivi2_token"})
    EXPECT_NE(page.find(std::string("<code>") + format + "</code>"), std::string::npos) << format;
}

TEST(PolicyChoice, IsWrittenAndReadBack) {
  const TemporaryDirectory folder;
  const PolicyChoice choice{"quest", {{"budget", 64}}};
  choice.save(folder / "policy.json");
  const auto read = PolicyChoice::parse((folder / "policy.json").string());
  EXPECT_EQ(read.name, "quest");
  EXPECT_EQ(read.settings, choice.settings);
  std::ofstream(folder / "other.json") << R"({"policy": "quest", "setings": {}})";
  EXPECT_THROW(PolicyChoice::parse((folder / "other.json").string()), Error);
  for (const char* settings : {"[1]", "7", "null", "\"budget=64\""}) {
    std::ofstream(folder / "other.json") << R"({"policy": "quest", "settings": )" << settings << "}";
    EXPECT_THROW(PolicyChoice::parse((folder / "other.json").string()), Error) << settings;
  }
}

TEST_F(Shipped, AFileOfAPolicyDrivesASession) {
  const TemporaryDirectory folder;
  PolicyChoice{"streaming_llm", {{"sinks", 4}, {"window", 28}}}.save(folder / "policy.json");
  const auto policy = PolicyChoice::parse((folder / "policy.json").string()).make(shape_of(lm.model->config()));
  Session session(lm.model, policy);
  const auto tokens = torch::arange(32, 112).unsqueeze(0);
  session.prefill(tokens);
  session.step(torch::tensor({int64_t{65}}));
  each_cache(session.state(), [](LayerCache& layer) {
    for (int64_t r = 0; r < layer.kv().rows(); ++r) EXPECT_EQ(layer.kv().length(r), 32);
  });
}

}  // namespace
}  // namespace heed::cache::evaluate_test
