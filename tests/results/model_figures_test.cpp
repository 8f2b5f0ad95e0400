// Figures of trained models are those of what the models answer.
#include "results/model_figures.h"

#include <gtest/gtest.h>

#include <cmath>

#include "heed/error.h"
#include "heed/train/task_batch.h"

namespace heed::results::model_figures_test {
namespace {

using torch::Tensor;

/// Answers with `told` [B, P], whatever it is shown.
class Oracle final : public train::TaskModel {
 public:
  explicit Oracle(const Tensor& told) : told_(torch::one_hot(told, 5).to(torch::kFloat32)) {}
  Tensor hidden(const train::TaskBatch&, uint64_t) override { return told_; }
  Tensor answers(const Tensor& hidden) override { return hidden; }
  torch::nn::Module& module() override { return module_; }
  int64_t state_bytes(const train::TaskBatch&) override { return 0; }
  bool causal() const override { return false; }

 private:
  Tensor told_;
  torch::nn::Module module_;
};

TEST(ModelFigures, DiceCountsPatchesThatAreTold) {
  const auto task = tasks::make_task("shapes", {{"answer", "segments"}});
  constexpr int64_t kSamples = 8;
  const auto labels = train::task_batch(*task, tasks::Split::test, 0, kSamples).labels;
  const auto covered = (labels > 0).sum().item<double>();
  const auto dice_of_answers = [&](const Tensor& told) {
    Oracle model(told);
    return dice(model, *task, kSamples);
  };
  EXPECT_DOUBLE_EQ(dice_of_answers(labels), 1);
  EXPECT_DOUBLE_EQ(dice_of_answers(torch::zeros_like(labels)), 0);
  // Every patch is told to be some shape, and never the right one.
  EXPECT_DOUBLE_EQ(dice_of_answers(labels % 4 + 1), 0);
  // One patch more than there is, one less.
  auto more = labels.clone().flatten(), less = labels.clone().flatten();
  more[(labels.flatten() == 0).nonzero()[0].item<int64_t>()] = 1;
  less[(labels.flatten() > 0).nonzero()[0].item<int64_t>()] = 0;
  EXPECT_DOUBLE_EQ(dice_of_answers(more.view_as(labels)), 2 * covered / (2 * covered + 1));
  EXPECT_DOUBLE_EQ(dice_of_answers(less.view_as(labels)), 2 * (covered - 1) / (2 * covered - 1));
}

TEST(ModelFigures, AreKeptByLearnerOnceASeed) {
  double next = 0;
  ModelFigures figures({"one", "two"}, [&](train::TaskModel& model) {
    EXPECT_FALSE(model.module().is_training());
    EXPECT_FALSE(torch::GradMode::is_enabled());
    ++next;
    return std::vector{next, next == 3 ? std::nan("") : -next};
  });
  Oracle model(torch::zeros({1, 1}, torch::kInt64));
  const auto task = tasks::make_task("shapes");
  const auto inspect = figures.inspect();
  for (const char* learner : {"a", "a", "b"}) {
    model.module().train();
    inspect(Learner{learner, "dense", {}, {}, {}}, model, *task);
  }
  EXPECT_EQ(figures.of("a", "two").values, (std::vector<double>{-1, -2}));
  EXPECT_EQ(figures.of("b", "one").values, std::vector<double>{3});
  EXPECT_EQ(figures.table("").rows,
            (std::vector<std::vector<std::string>>{{"a", "1.5 (1 to 2)", "-1.5 (-2 to -1)"}, {"b", "3", "-"}}));
  EXPECT_EQ(figures.table("").columns, (std::vector<std::string>{"mixer", "one", "two"}));
  EXPECT_THROW(figures.of("c", "one"), Error);
  EXPECT_THROW(figures.of("a", "three"), Error);
}

}  // namespace
}  // namespace heed::results::model_figures_test
