// Models of images learn to name and to find: token mixers, channel mixers and backbones by name.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/models/vision_backbone.h"
#include "heed/nn/ia_red2.h"
#include "heed/train/task_run.h"

namespace heed::train::vision_task_test {
namespace {

TaskModelOptions small_options(const std::string& backbone) {
  TaskModelOptions options;
  options.backbone = backbone;
  options.layers = 1;
  options.dim = 16, options.heads = 2, options.hidden = 32;
  options.seed = 1;
  return options;
}

class VisionTask : public ::testing::TestWithParam<std::string> {};

/// More than a third of the way from a guess to all right, on digits and on the shapes in patches.
TEST_P(VisionTask, IsLearned) {
  for (const auto& [name, parameters] : {std::pair<std::string, nlohmann::json>{"digits", nlohmann::json::object()},
                                         {"shapes", {{"answer", "segments"}, {"noise", 0.0}}}}) {
    const auto task = tasks::make_task(name, parameters);
    const auto traits = traits_of(GetParam());
    if (traits.colours || !(task->face().whole ? traits.images : traits.patches)) continue;
    auto options = small_options(GetParam());
    TaskTrainOptions training;
    training.steps = 150;
    if (GetParam() == "vit" ||
        GetParam() == "transformer_in_transformer") {  // no stages: layers are as many as are told
      options.layers = 2, options.dim = 32, options.hidden = 64;
      training.steps = 300;
    }
    auto model = make_task_model(*task, options);
    training.warmup = 10, training.learning_rate = 3e-3;
    const auto run = run_task(*model, *task, training, 64);
    const double share = (run.score.score - task->chance()) / (1 - task->chance());
    EXPECT_GT(share, 1.0 / 3) << name << " score " << run.score.score << " where chance is " << task->chance();
  }
}

INSTANTIATE_TEST_SUITE_P(Backbones, VisionTask, ::testing::ValuesIn(backbone_names()),
                         [](const auto& info) { return info.param; });

TEST(VisionTaskModel, PartsAreNamed) {
  const auto task = tasks::make_task("digits", {{"patch", 1}});
  auto options = small_options("pyramid");
  const int64_t plain = make_task_model(*task, options)->parameters();
  options.channel_mixer = "conv_glu";
  options.mixer = "halo_attention+large_kernel_attention";
  EXPECT_GT(make_task_model(*task, options)->parameters(), plain);
  options.backbone_settings = {{"stages", 2}};
  EXPECT_LT(make_task_model(*task, options)->parameters(), plain);
  options.backbone = "pyramidd";
  EXPECT_THROW(make_task_model(*task, options), Error);
}

/// A picker of tokens learns by what the answers of its choice earn, in any training of a task.
TEST(VisionTaskModel, APolicyOfTokensLearnsByReward) {
  const auto task = tasks::make_task("digits", {{"patch", 2}});
  const auto policies = [](TaskModel& model) {
    std::vector<torch::Tensor> found;
    for (const auto& entry : model.module().named_parameters())
      if (entry.key().find("reducer") != std::string::npos) found.push_back(entry.value());
    return found;
  };
  for (const double weight : {1.0, 0.0}) {
    auto options = small_options("vit");
    options.layers = 2;
    options.backbone_settings = {
        {"reducer", {{"name", "ia_red2"}, {"layers", {1}}, {"first_score", 0.7}, {"reward_weight", weight}}}};
    auto model = make_task_model(*task, options);
    EXPECT_EQ(model->learns_by_reward(), weight > 0);
    std::vector<torch::Tensor> before;
    for (const auto& parameter : policies(*model)) before.push_back(parameter.detach().clone());
    ASSERT_EQ(before.size(), 5u);
    TaskTrainOptions training;
    training.steps = 40, training.warmup = 5, training.learning_rate = 5e-3, training.weight_decay = 0;
    train_task(*model, *task, training);
    const auto after = policies(*model);
    for (size_t p = 0; p < after.size(); ++p) EXPECT_EQ(torch::equal(after[p], before[p]), weight == 0) << p;
  }
}

/// One policy, one layer: the gradient is that of the formula.
TEST(VisionTaskModel, TheRewardIsThatOfTheDrawAgainstTheGreedyChoice) {
  const auto task = tasks::make_task("digits", {{"patch", 2}});
  auto options = small_options("vit");
  options.backbone_settings = {{"reducer", {{"name", "ia_red2"}, {"first_score", 0.5}, {"penalty", 0.5}}}};
  auto model = make_task_model(*task, options);
  const auto policy = nn::learning_policies(model->module()).at(0);
  const auto batch = task_batch(*task, tasks::Split::train, 0, 6);
  model->module().train();
  const auto hidden = model->hidden(batch, 3);
  const auto drawn = policy->choice();
  EXPECT_GT(drawn.kept.min().item<double>(), 0);
  EXPECT_LT(drawn.kept.max().item<double>(), 1);
  const auto drawn_right = torch::tensor({1.f, 0.f, 1.f, 0.f, 1.f, 0.f}),
             greedy_right = torch::tensor({1.f, 1.f, 0.f, 0.f, 1.f, 1.f});
  int asked = 0;
  const auto loss = model->reward_loss([&](const torch::Tensor& states) {
    EXPECT_EQ(states.sizes(), hidden.sizes());
    return asked++ == 0 ? drawn_right : greedy_right;
  });
  EXPECT_EQ(asked, 2);
  const auto& greedy = policy->choice();
  const auto reward = [](const torch::Tensor& kept, const torch::Tensor& right) {
    return torch::where(right > 0, 1 - kept * kept, torch::full_like(kept, -0.5));
  };
  const auto advantage = reward(drawn.kept, drawn_right) - reward(greedy.kept, greedy_right);
  EXPECT_NEAR(loss.item<double>(), -(advantage * drawn.log_likelihood).mean().item<double>(), 1e-6);
  EXPECT_TRUE(model->module().is_training());
  EXPECT_THROW(model->reward_loss([&](const torch::Tensor&) { return drawn_right; }), Error);
}

/// Mixers that are made for an image of one size are made for the model's, a pyramid's for that of each stage.
TEST(VisionTaskModel, MixersAreToldTheGrid) {
  const auto task = tasks::make_task("digits", {{"patch", 1}});
  auto options = small_options("pyramid");
  options.mixer = "spectral_gating";
  options.backbone_settings = {{"stages", 3}};
  const auto p = make_task_model(*task, options)->module().named_parameters();
  for (int64_t s = 0; s < 3; ++s) {
    const auto& filter = p["stage_" + std::to_string(s) + ".layers_0.self_attn.filter"];
    EXPECT_EQ(filter.size(0), 8 >> s);
    EXPECT_EQ(filter.size(1), (8 >> s) / 2 + 1);
  }
  options = small_options("vit");
  options.mixer = "aggregated_attention";
  options.settings["aggregated_attention"] = {{"bias", "table"}};
  const auto of = [&] { return make_task_model(*task, options)->module().named_parameters(); };
  const std::string table = "model.layers_0.self_attn.bias_table";
  EXPECT_EQ(of()[table].size(1), 2 * 8 - 1);
  options.settings["aggregated_attention"]["side"] = 5;  // what is asked for is what is had
  EXPECT_EQ(of()[table].size(1), 2 * 5 - 1);
}

}  // namespace
}  // namespace heed::train::vision_task_test
