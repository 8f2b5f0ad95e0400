// What is read off the layers of a model is what its mixers do.
#include "results/trained_maps.h"

#include <gtest/gtest.h>

#include <cmath>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::results::trained_maps_test {
namespace {

using test::relative_error;
using torch::Tensor;

constexpr int64_t kHeads = 2;

std::unique_ptr<train::TaskModel> model_of(const tasks::Task& task, const std::string& mixer,
                                           const nlohmann::json& settings = nlohmann::json::object()) {
  train::TaskModelOptions options;
  options.mixer = mixer, options.settings = {{mixer, settings}};
  options.dim = 16, options.heads = kHeads, options.hidden = 16;
  auto model = train::make_task_model(task, options);
  // Weights as they begin are so small that all attention is even.
  torch::NoGradGuard no_grad;
  for (auto& parameter : model->module().parameters()) parameter.mul_(8);
  return model;
}

/// The layer's output, made of the weights that were read.
Tensor output_from(const Tensor& weights, const LayerCall& call) {
  const auto p = call.mixer->named_parameters();
  const auto v = torch::matmul(call.input.x, p["v_proj.weight"].t()).unflatten(2, {kHeads, -1}).transpose(1, 2);
  return torch::matmul(torch::matmul(weights, v).transpose(1, 2).flatten(2), p["o_proj.weight"].t());
}

TEST(TrainedMaps, WeightsAreThoseOfTheLayers) {
  torch::NoGradGuard no_grad;
  const auto task = tasks::make_task("copy", {{"length", 7}});
  const auto batch = train::task_batch(*task, tasks::Split::test, 0, 3);
  for (const std::string mixer : {"dense", "linear_attention"}) {
    const auto model = model_of(*task, mixer);
    const auto before = model->hidden(batch);
    const auto calls = layer_calls(*model, batch);
    ASSERT_EQ(calls.size(), 2u);
    EXPECT_TRUE(torch::equal(model->hidden(batch), before)) << mixer;
    for (const auto& call : calls) {
      const auto weights = weights_of(call, kHeads);
      const int64_t tokens = batch.inputs.size(1);
      EXPECT_EQ(weights.sizes(), (at::IntArrayRef{3, kHeads, tokens, tokens}));
      EXPECT_EQ(weights.triu(1).abs().max().item<double>(), 0) << mixer;
      // Sums of up to 16 products in float32, one behind the other.
      EXPECT_LT(relative_error(output_from(weights, call), call.mixer->forward(call.input)), 1e-5) << mixer;
    }
  }
}

TEST(TrainedMaps, DistanceAndEntropyOfKnownWeights) {
  const auto own = torch::eye(4).view({1, 1, 4, 4}), even = torch::full({1, 1, 4, 4}, 0.25);
  EXPECT_EQ(mean_distance(own), 0);
  EXPECT_EQ(mean_distance(even), 1.25);  // (6 + 4 + 4 + 6) / 4 / 4
  EXPECT_EQ(mean_entropy(own), 0);
  EXPECT_NEAR(mean_entropy(even), std::log(4.0), 1e-6);
}

TEST(TrainedMaps, FiguresAreKeptByLearnerAndLayer) {
  const auto task = tasks::make_task("copy", {{"length", 7}});
  const auto model = model_of(*task, "dense");
  LayerFigures tokens("tokens", 5, [](const LayerCall& call) { return double(call.input.x.size(0)); });
  const auto learner = plain("dense");
  for (int seed = 0; seed < 2; ++seed) tokens.inspect()(learner, *model, *task);
  EXPECT_EQ(tokens.of("dense", 2).name, "tokens in layer 2, dense");
  EXPECT_EQ(tokens.of("dense", 2).values, (std::vector<double>{5, 5}));
  EXPECT_EQ(tokens.table("", {learner}).columns, (std::vector<std::string>{"mixer", "layer 1", "layer 2"}));
  EXPECT_THROW(tokens.of("dense", 3), Error);
  EXPECT_THROW(tokens.of("gru", 1), Error);
}

TEST(TrainedMaps, LayersWithoutSuchWeightsAreNamed) {
  const auto task = tasks::make_task("copy", {{"length", 7}});
  const auto model = model_of(*task, "mamba");
  const auto calls = layer_calls(*model, train::task_batch(*task, tasks::Split::test, 0, 1));
  EXPECT_THROW(weights_of(calls[0], kHeads), Error);
}

}  // namespace
}  // namespace heed::results::trained_maps_test
