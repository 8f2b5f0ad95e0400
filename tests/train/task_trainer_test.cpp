// Models of every face learn what a task asks, and are scored by it.
#include "heed/train/task_trainer.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/train/task_run.h"
#include "support/torch_support.h"

namespace heed::train::task_trainer_test {
namespace {

using tasks::Example;
using tasks::Face;
using tasks::Split;

TaskModelOptions small_options(const std::string& mixer = "dense") {
  TaskModelOptions options;
  options.mixer = mixer;
  options.dim = 32;
  options.heads = 2;
  options.hidden = 64;
  options.seed = 1;
  return options;
}

TaskTrainOptions few_steps(int64_t steps, double rate = 5e-3) {
  TaskTrainOptions options;
  options.steps = steps;
  options.warmup = 10;
  options.learning_rate = rate;
  return options;
}

TEST(TaskBatch, HoldsTheSamplesAndNothingElse) {
  const auto task = tasks::make_task("copy", {{"length", 9}, {"min_length", 3}});
  const auto batch = task_batch(*task, Split::valid, 5, 4);
  std::vector<int64_t> asked;
  for (int64_t b = 0; b < 4; ++b) {
    const auto sample = task->example(Split::valid, uint64_t(5 + b));
    const auto count = int64_t(sample.tokens.size());
    ASSERT_LE(count, batch.inputs.size(1));
    for (int64_t t = 0; t < batch.inputs.size(1); ++t) {
      const int64_t label = t < count ? sample.labels[size_t(t)] : Example::kNoLabel;
      EXPECT_EQ(batch.inputs[b][t].item<int64_t>(), t < count ? sample.tokens[size_t(t)] : 0);
      EXPECT_EQ(batch.labels[b][t].item<int64_t>(), label);
      EXPECT_EQ(batch.padding[b][t].item<bool>(), t >= count);
      if (label != Example::kNoLabel) asked.push_back(b * batch.inputs.size(1) + t);
    }
  }
  const auto places = batch.asked();
  EXPECT_EQ(std::vector<int64_t>(places.data_ptr<int64_t>(), places.data_ptr<int64_t>() + places.numel()), asked);
}

TEST(TaskBatch, HasTheShapesOfTheFace) {
  const auto shape = [](const torch::Tensor& t) { return t.sizes().vec(); };
  using Sizes = std::vector<int64_t>;
  const auto image = task_batch(*tasks::make_task("digits"), Split::test, 0, 3);
  EXPECT_EQ(shape(image.inputs), (Sizes{3, 1, 8, 8}));
  EXPECT_EQ(shape(image.labels), (Sizes{3, 1}));
  const auto vectors = task_batch(*tasks::make_task("ts_forecast", {{"horizon", 2}}), Split::test, 0, 3);
  EXPECT_EQ(shape(vectors.inputs), (Sizes{3, 96, 8}));
  EXPECT_EQ(shape(vectors.targets), (Sizes{3, 96, 16}));
  EXPECT_FALSE(vectors.labels.defined());
  EXPECT_EQ(vectors.asked().numel(), 3);  // the last step of each
  const auto events = task_batch(*tasks::make_task("hawkes"), Split::test, 0, 3);
  EXPECT_EQ(shape(events.targets), (Sizes{3, 63, 1}));
  EXPECT_EQ(shape(events.labels), (Sizes{3, 63}));
}

TEST(TaskTrainer, LearnsToCopyAndIsScoredByWholeSamplesToo) {
  const auto task = tasks::make_task("copy", {{"length", 4}, {"symbols", 4}});
  auto model = make_task_model(*task, small_options());
  ASSERT_TRUE(model->decoder());
  const auto before = score_task(*model, *task, Split::test, 64);
  int64_t reports = 0;
  const double rate = train_task(*model, *task, few_steps(150), [&](const TaskStep& at) {
    EXPECT_EQ(at.step, reports++);
    EXPECT_GT(at.tokens_per_second, 0);
    return std::isfinite(at.loss);
  });
  EXPECT_GT(rate, 0);
  EXPECT_EQ(reports, 150);
  const auto after = score_task(*model, *task, Split::test, 64);
  EXPECT_LT(after.loss, 0.5 * before.loss);
  EXPECT_GT(after.score, before.score);
  EXPECT_LE(after.detail("samples"), after.score);
  ASSERT_EQ(after.places.size(), 4u);
  double mean = 0;
  for (const auto& [place, score] : after.places) mean += score / 4;
  EXPECT_NEAR(mean, after.score, 1e-9);
}

TEST(TaskTrainer, StopsWhenAskedTo) {
  const auto task = tasks::make_task("copy", {{"length", 4}});
  auto model = make_task_model(*task, small_options());
  int64_t steps = 0;
  train_task(*model, *task, {}, [&](const TaskStep&) { return ++steps < 3; });
  EXPECT_EQ(steps, 3);
}

/// A task that small models get better at within a few steps, and by how much: the share of the way from what guessing
/// scores to what can be reached.
struct Progress {
  const char* task;
  nlohmann::json parameters;
  const char* mixer;
  int64_t steps;
  double share;
};

class EveryFace : public ::testing::TestWithParam<Progress> {};

TEST_P(EveryFace, IsLearned) {
  const auto& p = GetParam();
  const auto task = tasks::make_task(p.task, p.parameters);
  auto model = make_task_model(*task, small_options(p.mixer));
  const auto run = run_task(*model, *task, few_steps(p.steps), 128);
  const double chance = task->chance(), best = more_is_better(task->face().metric) ? 1 : task->ideal().value_or(0);
  const double share = (run.score.score - chance) / (best - chance);
  EXPECT_GT(share, p.share) << run.score.score << " where chance is " << chance << " and the best " << best;
  EXPECT_LT(run.losses.back().second, run.losses.front().second);
  EXPECT_EQ(run.losses.back().first, p.steps);
}

const nlohmann::json kShortLists{{"max_depth", 3}, {"max_args", 3}, {"min_length", 4}, {"max_length", 16}};

INSTANTIATE_TEST_SUITE_P(
    Tasks, EveryFace,
    ::testing::Values(Progress{"listops", kShortLists, "dense", 200, 0.25},
                      Progress{"listops", kShortLists, "aaren", 200, 0.25},
                      Progress{"algo", {{"function", "max"}}, "positional_attention", 200, 0.8},
                      Progress{"algo", {{"function", "sort"}}, "dense", 200, 0.8},
                      Progress{"icl_regression", {{"dim", 2}, {"points", 8}}, "deltanet", 300, 0.7},
                      Progress{"ts_forecast", {{"channels", 2}, {"horizon", 2}, {"context", 32}}, "aaren", 150, 0.12},
                      Progress{"hawkes", {{"events", 32}}, "aaren", 200, 0.4},
                      Progress{"digits", nlohmann::json::object(), "dense", 300, 0.4},
                      Progress{"digits", nlohmann::json::object(), "rala", 150, 0.4},
                      Progress{"byte_lm", {{"context", 64}}, "sliding_window", 250, 0.05}),
    [](const auto& info) { return std::string(info.param.task) + "_" + info.param.mixer; });

TEST(TaskModel, LooksBothWaysWhereItMay) {
  const auto free = tasks::make_task("listops"), both = tasks::make_task("algo"),
             past = tasks::make_task("icl_regression");
  EXPECT_FALSE(make_task_model(*free, small_options())->causal());
  EXPECT_TRUE(make_task_model(*free, small_options("dense+aaren"))->causal());
  EXPECT_TRUE(make_task_model(*past, small_options())->causal());
  EXPECT_THROW(make_task_model(*both, small_options("aaren")), Error);
  EXPECT_THROW(make_task_model(*past, small_options("rala")), Error);
  EXPECT_THROW(make_task_model(*tasks::make_task("digits"), small_options("aaren")), Error);
  auto told = small_options();
  told.settings["dense"] = {{"causal", true}};
  EXPECT_TRUE(make_task_model(*free, told)->causal());
}

// Where the answer to position i must not depend on what follows, it does not; an answer for all depends on all.
TEST(TaskModel, SeesWhatTheFaceAllows) {
  torch::NoGradGuard no_grad;
  for (const char* name : {"icl_regression", "algo"}) {
    const auto task = tasks::make_task(name);
    auto model = make_task_model(*task, small_options());
    for (auto& parameter : model->module().parameters()) parameter.add_(torch::randn_like(parameter) * 0.1);
    auto batch = task_batch(*task, Split::valid, 0, 2);
    const auto before = model->hidden(batch);
    batch.inputs.slice(1, 5).add_(1);
    const auto change = (model->hidden(batch) - before).abs().amax({0, 2});
    EXPECT_GT(change[6].item<double>(), 1e-4) << name;
    if (model->causal())
      EXPECT_EQ(change.slice(0, 0, 5).max().item<double>(), 0) << name;
    else
      EXPECT_GT(change[0].item<double>(), 1e-6) << name;
  }
}

// What stands behind a sample's end changes neither the mean of a model that sees everything nor the last token of one
// that looks back.
TEST(TaskModel, AnswersForAWholeSampleIgnorePadding) {
  torch::NoGradGuard no_grad;
  const auto task = tasks::make_task("listops", {{"min_length", 20}, {"max_length", 60}});
  for (const char* mixer : {"dense", "mamba", "aaren"}) {
    auto model = make_task_model(*task, small_options(mixer));
    model->module().eval();
    const auto together = task_batch(*task, Split::valid, 0, 4);
    ASSERT_TRUE(together.padding.defined());
    const auto hidden = model->hidden(together);
    for (int64_t b = 0; b < 4; ++b) {
      const auto alone = model->hidden(task_batch(*task, Split::valid, uint64_t(b), 1));
      EXPECT_LT(test::relative_error(hidden.narrow(0, b, 1), alone), 1e-4) << mixer << " " << b;
    }
  }
}

TEST(TaskModel, HasTheParametersThatAreAskedFor) {
  for (const char* name : {"mqar", "algo", "digits"}) {
    const auto task = tasks::make_task(name);
    auto options = small_options();
    const int64_t plain = make_task_model(*task, options)->parameters();
    options.parameters = 2 * plain;
    // One channel of each channel mixer, three matrices and a bias at most.
    EXPECT_NEAR(double(make_task_model(*task, options)->parameters()), 2.0 * double(plain), 2 * (3 * 32 + 1)) << name;
  }
}

TEST(TaskModel, StatesHoldOneSample) {
  const auto task = tasks::make_task("icl_regression");
  const auto longer = tasks::make_task("icl_regression", {{"points", 40}});
  const auto bytes = [&](const char* mixer, const tasks::Task& t) {
    return make_task_model(*task, small_options(mixer))->state_bytes(task_batch(t, Split::valid, 0, 2));
  };
  EXPECT_EQ(bytes("aaren", *longer), bytes("aaren", *task));
  EXPECT_GT(bytes("dense", *longer), bytes("dense", *task));
  const auto digits = tasks::make_task("digits");
  EXPECT_THROW(make_task_model(*digits, small_options())->state_bytes(task_batch(*digits, Split::valid, 0, 1)), Error);
}

TEST(TaskRun, TestsBeyondTheTask) {
  const nlohmann::json parameters{{"length", 4}, {"symbols", 4}};
  const auto task = tasks::make_task("copy", parameters);
  const auto beyond = tasks_beyond("copy", parameters, {{{"length", 8}}, {{"symbols", 4}}});
  auto model = make_task_model(*task, small_options());
  const auto run = run_task(*model, *task, few_steps(60), 64, beyond);
  ASSERT_EQ(run.beyond.size(), 2u);
  EXPECT_LT(run.beyond[0], run.beyond[1]);
  EXPECT_EQ(run.beyond[1], run.score.score);  // the same samples
  EXPECT_EQ(run.losses.size(), 30u);
  EXPECT_THROW(tasks_beyond("copy", parameters, {{{"lenght", 8}}}), Error);
}

}  // namespace
}  // namespace heed::train::task_trainer_test
