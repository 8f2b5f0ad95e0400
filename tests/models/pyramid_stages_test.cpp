// Stages of a pyramid with mixers, settings, depths and widths of their own; those of docs/vision.md.
#include <gtest/gtest.h>

#include <map>
#include <sstream>

#include "heed/error.h"
#include "heed/models/vision_pyramid.h"
#include "support/temporary_directory.h"
#include "support/torch_support.h"
#include "support/vision_support.h"

namespace heed::pyramid_stages_test {
namespace {

using nlohmann::json;
using torch::Tensor;

/// Blocks of the page that begin with ```json NAME.
std::map<std::string, json> stages_of_the_page() {
  std::map<std::string, json> found;
  std::istringstream page(slurp(std::string(HEED_TEST_SOURCE_DIR) + "/../docs/vision.md"));
  std::string line, name, text;
  while (std::getline(page, line)) {
    if (line.starts_with("```json ")) {
      name = line.substr(8), text.clear();
    } else if (line == "```" && !name.empty()) {
      found[name] = json::parse(text);
      name.clear();
    } else {
      text += line;
    }
  }
  return found;
}

/// As the page says, --dim 64 --heads 2.
VisionSpec spec_of(const json& stages) {
  auto spec = test::vision_spec(1, 64, 64);
  spec.patch = 4;
  spec.base.dim = 64, spec.base.head_dim = 32, spec.base.hidden = 256;
  spec.settings = {{"stages", stages}};
  return spec;
}

int64_t parameters_of(torch::nn::Module& model, const std::string& prefix) {
  int64_t count = 0;
  for (const auto& entry : model.named_parameters())
    if (entry.key().starts_with(prefix)) count += entry.value().numel();
  return count;
}

TEST(PyramidStages, ThoseOfThePageLearn) {
  const auto pages = stages_of_the_page();
  ASSERT_EQ(pages.size(), 7u);
  for (const auto& [name, stages] : pages) {
    torch::manual_seed(1);
    auto spec = spec_of(stages);
    if (name == "large_kernel_attention") spec.settings.update({{"norm", "batch"}, {"layer_scale", 0.01}});
    if (name == "bilevel_routing_attention") spec.settings["local_conv"] = {{"name", "depthwise"}};
    if (name == "context_mixing_conv") spec.settings["layer_scale"] = 1;
    const auto model = make_backbone(name == "context_mixing_conv" ? "overlock" : "pyramid", spec);
    const auto judge = [](const Tensor& answers) { return answers.square().sum(); };
    const auto answers = model->answers(model->states(torch::randn({2, 1, 64, 64})));
    ASSERT_EQ(answers.sizes(), (std::vector<int64_t>{2, 1, 3})) << name;
    model->training_loss(judge(answers.squeeze(1)), judge).backward();
    for (const auto& entry : model->named_parameters()) {
      const auto& gradient = entry.value().grad();
      EXPECT_TRUE(gradient.defined() && test::all_finite(gradient)) << name << " " << entry.key();
    }
  }
}

/// What a block of dense attention with biases of its MLP alone has, and what is around it in a stage.
int64_t block_parameters(int64_t dim, int64_t hidden) {
  return 4 * dim * dim + 2 * dim * hidden + hidden + dim + 4 * dim;
}

TEST(PyramidStages, ParametersAreThoseOfTheStages) {
  auto spec = test::vision_spec(2);
  spec.settings = {{"stages", json::parse(R"([
    {"width": 16, "depth": 1},
    {"width": 24, "depth": 3, "hidden": 50},
    {"width": 20, "heads": 5, "depth": 2, "mixer": "spectral_gating"}])")}};
  const auto model = make_backbone("pyramid", spec);
  const auto entered = [](int64_t in, int64_t out, int64_t kernel) { return (in * kernel * kernel + 1) * out; };
  const int64_t norm = 2;  // numbers a channel
  EXPECT_EQ(parameters_of(*model, "stage_0."), entered(1, 16, 2) + block_parameters(16, 20) + norm * 16);
  EXPECT_EQ(parameters_of(*model, "stage_1."), entered(16, 24, 3) + 3 * block_parameters(24, 50) + norm * 24);
  // Grids of 4 x 4, 2 x 2 and 1 x 1 cells: filters of one cell, 1 x 1 complex numbers a channel.
  const int64_t hidden = 20 * 20 / 16;
  const int64_t spectral = 2 * 20 + 2 * 20 * hidden + hidden + 20 + 4 * 20;
  EXPECT_EQ(parameters_of(*model, "stage_2."), entered(24, 20, 3) + 2 * spectral + norm * 20);
}

TEST(PyramidStages, AnEmptyObjectIsAStageAsWithoutTheList) {
  const auto states = [](const json& stages) {
    torch::manual_seed(3);
    auto spec = test::vision_spec(2, 12, 20);
    spec.settings = {{"stages", stages}};
    const auto model = make_backbone("pyramid", spec);
    torch::manual_seed(4);
    return model->states(torch::randn({2, 1, 12, 20}));
  };
  EXPECT_TRUE(torch::equal(states(3), states(json::array({json::object(), json::object(), json::object()}))));
  EXPECT_TRUE(torch::equal(states(2), states({json{{"depth", 2}, {"width", 16}}, json{{"width", 32}}})));
  EXPECT_FALSE(
      torch::equal(states(2), states({json{{"mixer", "sliding_window"}, {"set", {{"window", 1}}}}, json::object()})));
}

TEST(PyramidStages, LayersComeInTurn) {
  auto spec = test::vision_spec(1, 16, 16);
  spec.settings = {{"stages", json::parse(R"([{"depth": 3, "layers": [
    {"mixer": "multi_axis_attention", "set": {"size": 2, "axes": "block"}},
    {"mixer": "spectral_gating"}]}])")}};
  const auto model = make_backbone("pyramid", spec);
  const auto has = [&](const std::string& name) { return parameters_of(*model, name) > 0; };
  const std::vector<std::string> filters{"stage_0.layers_0.self_attn.filter", "stage_0.layers_1.self_attn.filter",
                                         "stage_0.layers_2.self_attn.filter"};
  EXPECT_FALSE(has(filters[0]));
  EXPECT_TRUE(has(filters[1]));
  EXPECT_FALSE(has(filters[2]));
  EXPECT_TRUE(has("stage_0.layers_2."));
}

TEST(PyramidStages, WhatDoesNotFitIsNamed) {
  for (const auto& [stages, word] : std::vector<std::pair<const char*, const char*>>{
           {"[]", "0 stages"},
           {"0", "stages = 0"},
           {"\"4\"", "stages"},
           {"[4]", "stages[0]: configuration 4"},
           {R"([{"mixr": "dense"}])", "mixer"},
           {R"([{}, {"mixer": "dence"}])", "dense"},
           {R"([{"set": {"window": 3}}])", "name of its mixer"},
           {R"([{"mixer": "dense", "set": 3}])", "set = 3"},
           {R"([{"mixer": "dense", "layers": [{"mixer": "dense"}]}])", "one of the two"},
           {R"([{"layers": []}])", "layers = []"},
           {R"([{"layers": [{"set": {}}]}])", "name of a mixer"},
           {R"([{"depth": 0}])", "depth = 0"},
           {R"([{"width": 20}])", "heads is needed"},
           {R"([{"width": 20, "heads": 3}])", "heads = 3"},
           {R"([{"mixer": "sliding_window", "set": {"windw": 3}}])", "windw"},
           {R"([{"downsampling": {"mixer": "halo_attention"}}])", "cuts patches"},
           {R"([{}, {"downsampling": {}}])", "downsampling = {}"}}) {
    auto spec = test::vision_spec(1, 16, 16);
    spec.settings = {{"stages", json::parse(stages)}};
    try {
      make_backbone("pyramid", spec);
      ADD_FAILURE() << stages;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << stages << ": " << error.what();
    }
  }
  auto spec = test::vision_spec(1, 16, 16);
  spec.settings = {{"stages", json::parse("[{}, {}, {}]")}};
  EXPECT_THROW(make_backbone("overlock", spec), Error);
}

/// A mixer that halves the grid in place of the convolution, of odd sides, too; one that does not is named.
TEST(PyramidStages, AttentionHalvesTheGrid) {
  auto spec = test::vision_spec(1, 12, 20);
  spec.settings = {{"stages", json::parse(R"([{}, {}, {"downsampling":
    {"mixer": "halo_attention", "set": {"block": 4, "halo": 1, "stride": 2}}}])")}};
  const auto model = make_backbone("pyramid", spec);
  const auto states = model->states(torch::randn({2, 1, 12, 20}));
  EXPECT_EQ(states.sizes(), (std::vector<int64_t>{2, 1, 48}));
  states.square().sum().backward();
  EXPECT_EQ(parameters_of(*model, "stage_2.embedding"), 0);
  for (const auto& entry : model->named_parameters()) {
    if (entry.key().starts_with("stage_2.downsampling")) {
      EXPECT_TRUE(entry.value().grad().defined() && test::all_finite(entry.value().grad())) << entry.key();
    }
  }
  spec.settings = {{"stages", json::parse(R"([{}, {"downsampling": {"mixer": "dense"}}])")}};
  EXPECT_THROW(make_backbone("pyramid", spec)->states(torch::randn({2, 1, 12, 20})), Error);
  spec.settings = {{"stages", json::parse(R"([{"mixer": "halo_attention", "set": {"block": 4, "stride": 2}}])")}};
  EXPECT_THROW(make_backbone("pyramid", spec)->states(torch::randn({2, 1, 12, 20})), Error);
}

}  // namespace
}  // namespace heed::pyramid_stages_test
