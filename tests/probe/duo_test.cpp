// Gates trained on the shipped model choose the heads that its answers need.
#include "heed/probe/duo.h"

#include <gtest/gtest.h>

#include "heed/assets.h"
#include "heed/cache/evaluate.h"
#include "support/temporary_directory.h"

namespace heed::probe::duo_test {
namespace {

const checkpoint::LanguageModel& shipped() {
  static const auto lm = checkpoint::load_language_model(find_asset("tiny-lm"));
  return lm;
}

TEST(Duo, QuestionsAndPasskeysAreLabelled) {
  const auto& tokenizer = shipped().tokenizer;
  for (const int64_t context : {300, 1024, 4096, 32000}) {
    const auto task = passkeys_for(context, 1);
    for (uint64_t i = 0; i < 5; ++i) {
      const auto sample = task->sample(tasks::Split::train, i);
      EXPECT_LE(int64_t(sample.text().size()), context);
      const auto [tokens, tail] = labelled_tokens(tokenizer, sample);
      const auto* ids = tokens.data_ptr<int64_t>();
      const auto text = tokenizer.decode({ids + tokens.size(1) - tail, size_t(tail)});
      EXPECT_TRUE(text.starts_with("the first passkey is ")) << text;
      EXPECT_TRUE(text.ends_with(sample.answers[0])) << text;
      EXPECT_EQ(tokenizer.decode({ids, size_t(tokens.size(1))}), sample.text());
    }
  }
}

TEST(Duo, GatesOfTheShippedModelKeepItsAnswers) {
  const auto& lm = shipped();
  train::DuoOptions options;
  options.steps = 60;
  options.sinks = 8;
  options.recent = 64;
  const auto gates = duo_gates(lm, *passkeys_for(640, 2), options);
  const TemporaryDirectory directory;
  const auto file = (directory / "gates.json").string();
  gates.save(file);
  const auto task = tasks::make_text_task("niah_single", {{"max_tokens", 400}});
  const auto score = [&](const nlohmann::json& which) {
    nlohmann::json settings{{"sinks", 8}, {"recent", 64}};
    settings.update(which);
    const auto policy = cache::make_policy("duo_attention", settings, cache::shape_of(lm.model->config()));
    return cache::score_task(lm, policy, *task, tasks::Split::test, 20).score;
  };
  const double full = score({{"streaming", "none"}});
  ASSERT_GE(full, 0.95);
  EXPECT_GE(score({{"heads", file}, {"sparsity", 0.5}}), 0.95 * full);
  EXPECT_LT(score({{"streaming", "all"}}), 0.5 * full);
}

}  // namespace
}  // namespace heed::probe::duo_test
