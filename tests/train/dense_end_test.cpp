// Layers that draw their keys: when they do in training, and what a training leaves behind.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/mixers/subsampling.h"
#include "heed/train/lm_trainer.h"
#include "heed/train/task_trainer.h"

namespace heed::train::dense_end_test {
namespace {

constexpr const char* kDrawn = "stochastic_subsampled_attention";

std::unique_ptr<TaskModel> model_of(const tasks::Task& task, const std::string& mixer,
                                    const nlohmann::json& settings = nlohmann::json::object()) {
  TaskModelOptions options;
  options.mixer = mixer;
  options.settings[mixer] = settings;
  options.layers = 1, options.dim = 16, options.heads = 2, options.hidden = 24;
  options.seed = 1;
  return make_task_model(task, options);
}

std::vector<double> losses(TaskModel& model, const tasks::Task& task, double dense_end) {
  TaskTrainOptions options;
  options.steps = 8, options.batch = 4, options.dense_end = dense_end;
  std::vector<double> found;
  train_task(model, task, options, [&](const TaskStep& at) {
    found.push_back(at.loss);
    return true;
  });
  return found;
}

TEST(DenseEnd, TheLastStepsOfATaskSeeAll) {
  const auto task = tasks::make_task("copy", {{"length", 12}});
  const auto of = [&](const char* mixer, double dense_end) {
    return losses(*model_of(*task, mixer), *task, dense_end);
  };
  const auto dense = of("dense", 0);
  EXPECT_EQ(of(kDrawn, 1), dense);
  const auto drawn = of(kDrawn, 0), half = of(kDrawn, 0.5);
  EXPECT_NE(drawn[0], dense[0]);
  EXPECT_TRUE(std::equal(half.begin(), half.begin() + 4, drawn.begin()));
  EXPECT_NE(half[4], drawn[4]);
  EXPECT_THROW(of(kDrawn, 1.5), Error);
}

TEST(DenseEnd, LayersAreLeftAsTheyWere) {
  const auto task = tasks::make_task("copy", {{"length", 12}});
  for (const char* evaluate : {"dense", "subsampled"}) {
    const auto model = model_of(*task, kDrawn, {{"evaluate", evaluate}});
    const auto when = [&] { return dynamic_cast<Subsampling&>(*model->decoder()->get()->blocks[0]->mixer).subsampled; };
    const auto before = when();
    losses(*model, *task, 0.5);
    EXPECT_EQ(when(), before) << evaluate;
    LmTrainOptions options;
    options.steps = 4, options.dense_end = 0.5;
    const auto batch = [](int64_t) {
      return LmBatch{torch::arange(9).remainder(5).expand({2, 9}).contiguous(), torch::ones({2, 8})};
    };
    train_lm(*model->decoder(), batch, options, [](DecoderLm&) {});
    EXPECT_EQ(when(), before) << evaluate;
  }
}

}  // namespace
}  // namespace heed::train::dense_end_test
