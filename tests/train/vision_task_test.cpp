// Models of images learn to name and to find: token mixers, channel mixers and backbones by name.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/models/vision_backbone.h"
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
    training.warmup = 10, training.learning_rate = 5e-3;
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

}  // namespace
}  // namespace heed::train::vision_task_test
