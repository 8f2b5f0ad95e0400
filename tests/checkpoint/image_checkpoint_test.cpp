// Models of images and sequences in folders of heed's own: what is read back computes the same, damage is named.
#include "heed/checkpoint/image_checkpoint.h"

#include <gtest/gtest.h>

#include "heed/checkpoint/decoder_checkpoint.h"
#include "heed/checkpoint/encoder_checkpoint.h"
#include "heed/checkpoint/sequence_checkpoint.h"
#include "heed/checkpoint/tensor_file.h"
#include "heed/error.h"
#include "heed/tasks/task.h"
#include "heed/train/task_run.h"
#include "support/temporary_directory.h"
#include "support/test_files.h"
#include "support/torch_support.h"
#include "support/vision_support.h"

namespace heed::image_checkpoint_test {
namespace {

using nlohmann::json;
using torch::Tensor;

/// Two steps of training change parameters and buffers.
checkpoint::ImageModel trained(const std::string& backbone, VisionSpec spec) {
  torch::manual_seed(5);
  if (traits_of(backbone).colours) spec.channels = 4, spec.labels = 2 * spec.patch * spec.patch;
  spec.dense = !traits_of(backbone).images;
  checkpoint::ImageModel image{backbone, spec, make_backbone(backbone, spec)};
  torch::optim::SGD optimizer(image.model->parameters(), torch::optim::SGDOptions(0.1));
  for (int step = 0; step < 2; ++step) {
    optimizer.zero_grad();
    const auto judge = [](const Tensor& answers) { return answers.square().mean(); };
    const auto pixels = torch::randn({4, spec.channels, spec.image_height, spec.image_width});
    const auto answers = image.model->answers(image.model->states(pixels, uint64_t(step)));
    image.model->training_loss(judge(answers), [&](const Tensor& a) { return judge(a); }).backward();
    optimizer.step();
  }
  return image;
}

Tensor answers_of(VisionBackbone& model, const VisionSpec& spec) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(6);
  model.eval();
  return model.answers(model.states(torch::randn({3, spec.channels, spec.image_height, spec.image_width})));
}

void expect_same_when_read(const checkpoint::ImageModel& image) {
  const TemporaryDirectory folder;
  checkpoint::save_image_model(folder.path(), image);
  torch::manual_seed(7);
  const auto again = checkpoint::load_image_model(folder.path());
  EXPECT_EQ(again.backbone, image.backbone);
  EXPECT_TRUE(torch::equal(answers_of(*again.model, again.spec), answers_of(*image.model, image.spec)));
  EXPECT_EQ(folder.entries(), 3u);
}

class ImageCheckpoint : public testing::TestWithParam<std::string> {};

TEST_P(ImageCheckpoint, WhatIsReadComputesTheSame) {
  expect_same_when_read(trained(GetParam(), test::vision_spec(2, 12, 20)));
}

INSTANTIATE_TEST_SUITE_P(Names, ImageCheckpoint, testing::ValuesIn(backbone_names()),
                         [](const auto& info) { return info.param; });

TEST(ImageCheckpoints, SettingsAndBuffersComeBack) {
  auto spec = test::vision_spec(2, 12, 20);
  spec.channels = 3;
  spec.settings = json::parse(R"({"norm": "batch", "layer_scale": 0.1, "local_conv": {"name": "mbconv", "layers": [1]},
    "stages": [{"mixer": "subspace_attention"}, {"width": 24, "depth": 1, "mixer": "halo_attention", "set": {"halo": 1}}]})");
  expect_same_when_read(trained("pyramid", spec));
  spec = test::vision_spec(2, 12, 20);
  spec.dense = true;
  spec.base.layers[1] = {"routing_attention", {{"clusters", 4}, {"window", 6}}, "depthwise", "", false};
  spec.base.attention.qkv_bias = true;
  spec.base.norm_eps = 1e-3;
  spec.base.shared_norm = true;
  spec.patch_positions = false;
  spec.reducer = {{"name", "token_merging"}, {"count", 2}, {"layers", {0}}};
  spec.reducer = json::object();
  expect_same_when_read(trained("vit", spec));
  spec.base.layers = {{}, {}};
  spec.reducer = {{"name", "ia_red2"}, {"layers", {1}}};
  expect_same_when_read(trained("vit", spec));
}

TEST(ImageCheckpoints, APlainVitIsAVisionTransformer) {
  const TemporaryDirectory folder;
  const auto image = trained("vit", test::vision_spec(2, 12, 20)),
             other = trained("pyramid", test::vision_spec(1, 12, 20));
  checkpoint::save_image_model(folder.path(), image);
  auto model = checkpoint::load_vision(folder.path());
  model->eval();
  torch::NoGradGuard no_grad;
  torch::manual_seed(6);
  const auto logits = model->logits(model->forward(torch::randn({3, 1, 12, 20})));
  EXPECT_TRUE(torch::allclose(logits, answers_of(*image.model, image.spec).squeeze(1), 1e-6, 1e-7));
  checkpoint::save_image_model(folder.path(), other);
  EXPECT_NE(error_of([&] { checkpoint::load_vision(folder.path()); }).find("backbone pyramid"), std::string::npos);
}

TEST(ImageCheckpoints, DamageIsNamed) {
  const auto image = trained("vit", test::vision_spec(1));
  const TemporaryDirectory whole;
  checkpoint::save_image_model(whole.path(), image);
  const auto config = json::parse(slurp(whole / "config.json"));
  const auto message_of = [&](const json& changed, const checkpoint::TensorMap& tensors) {
    const TemporaryDirectory folder;
    spill(folder / "config.json", changed.dump());
    checkpoint::save_tensors(folder / "model.safetensors", tensors);
    return error_of([&] { checkpoint::load_image_model(folder.path()); });
  };
  const auto with = [&](const char* place, const json& value) {
    auto changed = config;
    changed[json::json_pointer(place)] = value;
    return changed;
  };
  const auto tensors = checkpoint::load_tensors(whole / "model.safetensors");
  for (const auto& [place, value, word] : std::vector<std::tuple<const char*, json, const char*>>{
           {"/architectures", json{"ViTModel"}, "'ViTModel', accepted: HeedForImages"},
           {"/architectures", 3, "accepted: HeedForImages"},
           {"/heed", 3, "heed"},
           {"/heed/backbone", "vitt", "did you mean vit"},
           {"/heed/image/patch", 3, "does not divide into patches of 3"},
           {"/heed/image/height", -1, "height = -1"},
           {"/heed/colour", 1, "unknown key colour"},
           {"/heed/base/layers", json::array(), "layers"},
           {"/heed/base/layers/0/mixer", "dence", "dense"},
           {"/heed/base/layers/0/config", {{"windw", 1}}, "windw"},
           {"/heed/base/block/norm", "bach", "block.norm"},
           {"/heed/base/dim", 24, "shape"},
           {"/heed/base/dim", int64_t{1} << 23, "MB"},
           {"/heed/labels", 4, "classifier"},
           {"/heed/settings", {{"stages", 3}}, "stages"}}) {
    const auto message = message_of(with(place, value), tensors);
    EXPECT_NE(message.find(word), std::string::npos) << place << ": " << message;
  }
  auto fewer = tensors;
  fewer.erase("model.layers_0.self_attn.q_proj.weight");
  EXPECT_NE(message_of(config, fewer).find("q_proj.weight is missing"), std::string::npos);
  auto more = tensors;
  more["model.layers_1.mlp.up_proj.weight"] = torch::zeros({2, 2});
  EXPECT_NE(message_of(config, more).find("belongs to no part"), std::string::npos);
  EXPECT_NE(error_of([] { checkpoint::load_image_model("/nowhere"); }).find("/nowhere"), std::string::npos);
  EXPECT_NE(error_of([&] { checkpoint::load_decoder(whole.path()); }).find("HeedForImages"), std::string::npos);

  // Running statistics are no less needed than weights.
  auto spec = test::vision_spec(1);
  spec.settings = {{"norm", "batch"}};
  const TemporaryDirectory normed;
  checkpoint::save_image_model(normed.path(), trained("vit", spec));
  auto without = checkpoint::load_tensors(normed / "model.safetensors");
  EXPECT_EQ(without.erase("model.norm.running_var"), 1u);
  EXPECT_NE(message_of(json::parse(slurp(normed / "config.json")), without).find("running_var is missing"),
            std::string::npos);
}

TEST(SequenceCheckpoints, WhatIsReadComputesTheSame) {
  for (const bool bare : {false, true})
    for (const bool tokens : {false, true}) {
      torch::manual_seed(8);
      SequenceConfig c;
      c.dim = 16, c.heads = c.kv_heads = 2, c.head_dim = 8, c.hidden = 20;
      (tokens ? c.vocab_size : c.channels) = 5;
      c.outputs = 3, c.bare = bare, c.causal = tokens;
      c.positions.kind = "rope";
      c.layers = {{"dense"}, {tokens ? "gla" : "linear_attention"}};
      SequenceModel model(c);
      const TemporaryDirectory folder;
      checkpoint::save_sequence_model(folder.path(), model, {{"task", "none"}});
      auto again = checkpoint::load_sequence_model(folder.path());
      model->eval(), again->eval();
      torch::NoGradGuard no_grad;
      const auto inputs = tokens ? torch::randint(0, 5, {2, 7}, torch::kInt64) : torch::randn({2, 7, 5});
      EXPECT_TRUE(torch::equal(again->answers(again->forward(inputs)), model->answers(model->forward(inputs))));
      EXPECT_NE(error_of([&] { checkpoint::load_image_model(folder.path()); }).find("HeedForSequences"),
                std::string::npos);
    }
}

/// What is learned beside the gradients is part of a decoder, too.
TEST(DecoderBuffers, ComeBack) {
  torch::manual_seed(9);
  DecoderConfig c;
  c.dim = 16, c.heads = c.kv_heads = 2, c.head_dim = 8, c.hidden = 20, c.max_length = 64;
  c.positions.kind = "rope";
  c.layers = {{"routing_attention", {{"clusters", 4}, {"window", 6}}}};
  DecoderLm model(c);
  const auto tokens = torch::randint(0, 256, {2, 24}, torch::kInt64);
  for (int step = 0; step < 3; ++step) model->forward(tokens, nullptr, uint64_t(step));
  const TemporaryDirectory folder;
  checkpoint::save_decoder(folder.path(), model, torch::kFloat32);
  auto again = checkpoint::load_decoder(folder.path());
  model->eval(), again->eval();
  torch::NoGradGuard no_grad;
  EXPECT_TRUE(torch::equal(again->forward(tokens), model->forward(tokens)));
}

TEST(TaskModels, AreReadForTasksThatFit) {
  const auto save = [](const char* task, const json& parameters, const std::filesystem::path& folder) {
    train::TaskModelOptions o;
    o.dim = 16, o.heads = 2, o.hidden = 20, o.layers = 1;
    const auto made = tasks::make_task(task, parameters);
    auto model = train::make_task_model(*made, o);
    model->save(folder, json::object());
    return train::score_task(*model, *made, tasks::Split::test, 32).loss;
  };
  const TemporaryDirectory folder;
  for (const auto& [task, parameters, other] :
       std::vector<std::tuple<const char*, json, const char*>>{{"digits", {{"patch", 2}}, "shapes"},
                                                               {"shapes", {{"answer", "segments"}}, "digits"},
                                                               {"algo", json::object(), "listops"},
                                                               {"listops", json::object(), "digits"},
                                                               {"mqar", {{"length", 16}, {"pairs", 2}}, "digits"}}) {
    const auto place = folder / task;
    const double loss = save(task, parameters, place);
    const auto made = tasks::make_task(task, parameters);
    const auto model = train::load_task_model(place, *made);
    EXPECT_EQ(train::score_task(*model, *made, tasks::Split::test, 32).loss, loss) << task;
    const auto wrong = tasks::make_task(other, json::object());
    const auto message = error_of([&] { train::load_task_model(place, *wrong); });
    EXPECT_NE(message.find(std::string("does not fit ") + other), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace heed::image_checkpoint_test
