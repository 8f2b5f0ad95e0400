#include "heed/train/task_trainer.h"

#include <gtest/gtest.h>

#include "support/torch_support.h"

namespace heed::train {
namespace {

using tasks::Split;
using tasks::TokenSample;

DecoderLm small_model(int64_t vocabulary) {
  DecoderConfig config;
  config.vocab_size = vocabulary;
  config.dim = 32;
  config.heads = config.kv_heads = 2;
  config.head_dim = 16;
  config.hidden = 64;
  config.max_length = 64;
  config.positions.kind = "rope";
  config.layers.assign(2, {});
  torch::manual_seed(1);
  return DecoderLm(config);
}

TEST(TaskBatch, HoldsTheSamplesAndNothingElse) {
  const auto task = tasks::make_task("copy", {{"length", 9}, {"min_length", 3}});
  const auto batch = task_batch(*task, Split::valid, 5, 4);
  for (int64_t b = 0; b < 4; ++b) {
    const auto sample = task->tokens(Split::valid, uint64_t(5 + b));
    const auto count = int64_t(sample.inputs.size());
    ASSERT_LE(count, batch.inputs.size(1));
    for (int64_t t = 0; t < batch.inputs.size(1); ++t) {
      EXPECT_EQ(batch.inputs[b][t].item<int64_t>(), t < count ? sample.inputs[size_t(t)] : 0);
      EXPECT_EQ(batch.labels[b][t].item<int64_t>(), t < count ? sample.labels[size_t(t)] : TokenSample::kNoLabel);
    }
  }
}

TEST(TaskTrainer, LearnsToCopyAndIsScoredByWholeSamplesToo) {
  const auto task = tasks::make_task("copy", {{"length", 4}, {"symbols", 4}});
  auto model = small_model(task->vocabulary());
  const auto before = score_task(model, *task, Split::test, 64);
  TaskTrainOptions options;
  options.steps = 150;
  options.learning_rate = 5e-3;
  int64_t reports = 0;
  const double rate = train_task(model, *task, options, [&](int64_t step, double loss) {
    EXPECT_EQ(step, reports++);
    return std::isfinite(loss);
  });
  EXPECT_GT(rate, 0);
  EXPECT_EQ(reports, 150);
  const auto after = score_task(model, *task, Split::test, 64);
  EXPECT_LT(after.loss, 0.5 * before.loss);
  EXPECT_GT(after.tokens, before.tokens);
  EXPECT_LE(after.samples, after.tokens);
}

TEST(TaskTrainer, StopsWhenAskedTo) {
  const auto task = tasks::make_task("copy", {{"length", 4}});
  auto model = small_model(task->vocabulary());
  int64_t steps = 0;
  train_task(model, *task, {}, [&](int64_t, double) { return ++steps < 3; });
  EXPECT_EQ(steps, 3);
}

}  // namespace
}  // namespace heed::train
