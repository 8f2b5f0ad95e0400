// Models that learn from a teacher beside their task.
#include "heed/train/distilled_model.h"

#include <gtest/gtest.h>

#include <cmath>

#include "heed/error.h"
#include "heed/train/task_trainer.h"
#include "support/torch_support.h"

namespace heed::train::distilled_model_test {
namespace {

using torch::Tensor;

TEST(Distillation, IsDivergenceOfClassesAndDistanceOfTokens) {
  torch::manual_seed(1);
  const auto logits = torch::randn({3, 4}, torch::kFloat64), wanted = torch::randn({3, 4}, torch::kFloat64);
  const auto tokens = torch::randn({2, 5, 6}, torch::kFloat64), shown = torch::randn({2, 5, 6}, torch::kFloat64);
  double divergence = 0;
  for (int64_t r = 0; r < 3; ++r) {
    double p_sum = 0, q_sum = 0;
    for (int64_t c = 0; c < 4; ++c) {
      p_sum += std::exp(wanted[r][c].item<double>());
      q_sum += std::exp(logits[r][c].item<double>());
    }
    for (int64_t c = 0; c < 4; ++c) {
      const double p = std::exp(wanted[r][c].item<double>()) / p_sum, q = std::exp(logits[r][c].item<double>()) / q_sum;
      divergence += p * std::log(p / q) / 3;
    }
  }
  auto padding = torch::zeros({2, 5}, torch::kBool);
  padding[0].slice(0, 3).fill_(true);
  const auto apart = (tokens - shown).square();
  const double all = apart.mean().item<double>(),
               real = (apart[0].slice(0, 0, 3).sum() + apart[1].sum()).item<double>() / (8 * 6);
  EXPECT_NEAR(distillation_loss(logits, wanted, tokens, shown).item<double>(), 0.5 * divergence + 0.5 * all, 1e-12);
  EXPECT_NEAR(distillation_loss(logits, wanted, tokens, shown, padding, {2, 3}).item<double>(),
              2 * divergence + 3 * real, 1e-12);
  EXPECT_NEAR(distillation_loss(wanted, wanted, shown, shown).item<double>(), 0, 1e-12);
  EXPECT_NEAR(distillation_loss(logits, wanted, {}, {}, {}, {1, 0}).item<double>(), divergence, 1e-12);
  EXPECT_THROW(distillation_loss(logits, wanted.narrow(1, 0, 3), tokens, shown), Error);
  EXPECT_THROW(distillation_loss(logits, wanted, tokens, shown.narrow(2, 0, 3)), Error);
}

TaskModelOptions options_of(const std::string& mixer) {
  TaskModelOptions options;
  options.mixer = mixer;
  options.layers = 2, options.dim = 16, options.heads = 2, options.hidden = 24;
  options.settings["sparsifiner"] = {{"keep", 0.25}, {"class_tokens", 0}, {"reconstruction", 0.0}};
  return options;
}

/// A dense teacher of digits, and a student of masked attention that begins with its weights.
struct Pair {
  Pair() {
    TaskTrainOptions training;
    training.steps = 60, training.learning_rate = 5e-3, training.warmup = 5;
    teacher = make_task_model(*task, options_of("dense"));
    train_task(*teacher, *task, training);
    for (auto& p : teacher->module().parameters()) p.mutable_grad() = Tensor();
    student = make_task_model(*task, options_of("sparsifiner"));
    torch::NoGradGuard no_grad;
    auto target = student->module().named_parameters();
    for (const auto& entry : teacher->module().named_parameters()) target[entry.key()].copy_(entry.value());
  }
  const std::unique_ptr<tasks::Task> task = tasks::make_task("digits");
  std::shared_ptr<TaskModel> teacher;
  std::unique_ptr<TaskModel> student;
};

bool is_of_predictor(const std::string& name) {
  for (const char* part : {"q_down", "k_down", "tokens_down", "basis"})
    if (name.ends_with(part)) return true;
  return false;
}

/// Sparsifiner's second phase: the task, half the divergence and half the distance of all patches; masks have no
/// gradient.
TEST(DistilledModel, AddsWhatTheTeacherSays) {
  Pair pair;
  const auto batch = task_batch(*pair.task, tasks::Split::train, 0, 8);
  const auto taught = pair.teacher->states(batch);
  ASSERT_EQ(taught.tokens.size(1), batch.positions(pair.task->face()));  // patches, not their mean
  ASSERT_EQ(taught.hidden.size(1), 1);
  auto& student = *pair.student;
  const auto own = student.states(batch);
  const auto expected =
      distillation_loss(student.answers(own.hidden.flatten(0, 1)), pair.teacher->answers(taught.hidden.flatten(0, 1)),
                        own.tokens, taught.tokens);
  EXPECT_GT(expected.item<double>(), 0);
  auto model = distilled_model(std::move(pair.student), pair.teacher);
  model->module().train();
  const auto hidden = model->hidden(batch);
  EXPECT_TRUE(torch::equal(hidden, own.hidden));
  const auto loss = model->training_loss(torch::full({}, 2.0), [](const Tensor& answers) { return answers.mean(); });
  EXPECT_NEAR(loss.item<double>(), 2 + expected.item<double>(), 1e-6);
  loss.backward();
  for (const auto& entry : model->module().named_parameters())
    EXPECT_EQ(entry.value().grad().defined(), !is_of_predictor(entry.key())) << entry.key();
  for (const auto& p : pair.teacher->module().parameters()) EXPECT_FALSE(p.grad().defined());
  // Another loss needs another batch; judged models see no teacher.
  EXPECT_THROW(model->training_loss(torch::zeros({}), [](const Tensor& x) { return x; }), Error);
  model->module().eval();
  EXPECT_TRUE(torch::equal(model->hidden(batch), own.hidden));
}

TEST(DistilledModel, ComesNearerToTheTeacherThanTheTaskAloneBringsIt) {
  const auto apart_after = [](bool taught) {
    Pair pair;
    std::vector<Tensor> before;
    for (const auto& p : pair.teacher->module().parameters()) before.push_back(p.detach().clone());
    const auto test = task_batch(*pair.task, tasks::Split::test, 0, 64);
    auto model = std::move(pair.student);
    if (taught) model = distilled_model(std::move(model), pair.teacher);
    TaskTrainOptions training;
    training.steps = 60, training.learning_rate = 2e-3, training.warmup = 5, training.seed = 1;
    train_task(*model, *pair.task, training);
    const auto after = pair.teacher->module().parameters();
    for (size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(torch::equal(after[i], before[i]));
    torch::NoGradGuard no_grad;
    return (model->states(test).tokens - pair.teacher->states(test).tokens).square().mean().item<double>();
  };
  const double taught = apart_after(true), alone = apart_after(false);
  EXPECT_LT(taught, 0.8 * alone);
}

TEST(DistilledModel, WrongTermsAreNamed) {
  const auto task = tasks::make_task("digits");
  const auto model = [&] { return make_task_model(*task, options_of("dense")); };
  EXPECT_THROW(distilled_model(model(), nullptr), Error);
  EXPECT_THROW(distilled_model(model(), model(), {-1, 0}), Error);
}

}  // namespace
}  // namespace heed::train::distilled_model_test
