// The card of branches beside self-attention.
#include "heed/models/dual_cross.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"
#include "support/vision_support.h"

namespace heed::dual_cross_test {
namespace {

using test::relative_error;
using torch::Tensor;

VisionSpec spec_of() { return test::vision_spec(2); }

DualCross model_of(double share) {
  torch::manual_seed(1);
  DualCross model(spec_of(), DualCrossConfig{share, true, true});
  torch::NoGradGuard no_grad;
  for (auto& parameter : model->parameters()) parameter.add_(torch::randn_like(parameter) * 0.2);
  model->to(torch::kFloat64);
  return model;
}

TEST(DualCross, APairWithItselfIsNoDistraction) {
  torch::NoGradGuard no_grad;
  auto model = model_of(0.1);
  const auto pixels = torch::randn({3, 1, 8, 8}, torch::kFloat64);
  const auto itself = model->branches(pixels, torch::tensor({0, 1, 2}));
  EXPECT_LT(relative_error(itself.pair, itself.self), 1e-12);
  const auto other = model->branches(pixels, torch::tensor({1, 2, 0}));
  EXPECT_GT(relative_error(other.pair, other.self), 1e-3);
  EXPECT_TRUE(torch::equal(other.self, itself.self));
}

/// An image whose distractor is hidden is an image alone, whatever the others have.
TEST(DualCross, HiddenDistractorsAreNoDistraction) {
  torch::NoGradGuard no_grad;
  auto model = model_of(0.1);
  const auto pixels = torch::randn({3, 1, 8, 8}, torch::kFloat64);
  const auto alone = model->branches(pixels, torch::tensor({-1, -1, -1}));
  EXPECT_LT(relative_error(alone.pair, alone.self), 1e-12);
  const auto some = model->branches(pixels, torch::tensor({1, -1, 0}));
  EXPECT_LT(relative_error(some.pair[1], alone.self[1]), 1e-12);
  for (const int64_t b : {0, 2}) EXPECT_GT(relative_error(some.pair[b], alone.self[b]), 1e-3);
  EXPECT_THROW(model->branches(pixels, torch::tensor({0, 1})), Error);
  EXPECT_THROW(model->branches(pixels, torch::tensor({0, 1, 3})), Error);
  EXPECT_THROW(model->branches(pixels, torch::tensor({0, 1, -2})), Error);
}

/// What an image is told by the pair: softmax over the keys of both, in every layer.
TEST(DualCross, PairsAreOneSoftmaxOverBothImages) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(2);
  auto spec = spec_of();
  spec.base.layers.resize(1);
  DualCross model(spec, DualCrossConfig{0.2, true, true});
  for (auto& parameter : model->parameters()) parameter.add_(torch::randn_like(parameter) * 0.2);
  model->to(torch::kFloat64);
  const auto pixels = torch::randn({2, 1, 8, 8}, torch::kFloat64);
  auto& block = model->vit->blocks[0];
  const auto p = block->mixer->named_parameters();
  const auto x = model->vit->embed(pixels), normed = block->input_norm(x);
  const auto heads = [&](const char* name) {
    return torch::matmul(normed, p[name].t()).view({2, 17, 2, 8}).transpose(1, 2);
  };
  const auto both = [](const Tensor& t) { return torch::cat({t, t.flip({0})}, 2); };
  const auto weights = torch::softmax(
      torch::matmul(heads("q_proj.weight"), both(heads("k_proj.weight")).transpose(2, 3)) / std::sqrt(8.0), 3);
  const auto mixed = torch::matmul(weights, both(heads("v_proj.weight"))).transpose(1, 2).flatten(2);
  const auto y = x + torch::matmul(mixed, p["o_proj.weight"].t());
  MixerInput input;
  input.x = x;
  const auto expected = model->vit->finish(block->channel_half(input, y)).select(1, 0);
  EXPECT_LT(relative_error(model->branches(pixels, torch::tensor({1, 0})).pair, expected), 1e-10);
}

/// With all patches and the last block's weights, the local branch is that block once more.
TEST(DualCross, AllPatchesAreAnotherBlock) {
  torch::NoGradGuard no_grad;
  auto model = model_of(1);
  auto target = model->local_block->named_parameters();
  for (const auto& entry : model->vit->blocks[1]->named_parameters()) target[entry.key()].copy_(entry.value());
  const auto pixels = torch::randn({2, 1, 8, 8}, torch::kFloat64);
  MixerInput input;
  input.x = model->vit->embed(pixels);
  for (const size_t block : {0, 1, 1}) input.x = model->vit->blocks[block]->forward(input);
  EXPECT_LT(relative_error(model->branches(pixels).local, model->local_norm(input.x).select(1, 0)), 1e-10);
}

TEST(DualCross, AnswersAddUpProbabilities) {
  torch::NoGradGuard no_grad;
  auto model = model_of(0.3);
  model->eval();
  const auto pixels = torch::randn({2, 1, 8, 8}, torch::kFloat64);
  const auto branches = model->branches(pixels);
  EXPECT_FALSE(branches.pair.defined());
  const auto expected = torch::softmax(model->vit->logits(branches.self.unsqueeze(1)), 1) +
                        torch::softmax(model->local_classifier(branches.local), 1);
  EXPECT_LT(relative_error(torch::exp(model->answers(model->states(pixels)).squeeze(1)), expected), 1e-12);
}

/// Where the loss is smallest in w, e^w is the branch's loss.
TEST(DualCross, UncertaintiesSettleAtTheLosses) {
  auto model = model_of(0.3);
  const std::vector<double> losses{0.5, 1.5, 3};
  {
    torch::NoGradGuard no_grad;
    for (int64_t i = 0; i < 3; ++i) model->uncertainty[i] = std::log(losses[size_t(i)]);
  }
  model->train();
  model->states(torch::randn({3, 1, 8, 8}, torch::kFloat64), 5);
  size_t asked = 0;
  const auto loss =
      model->training_loss({}, [&](const Tensor& answers) { return answers.sum() * 0 + losses[asked++]; });
  EXPECT_EQ(asked, 3u);
  const auto gradient = torch::autograd::grad({loss}, {model->uncertainty})[0];
  EXPECT_LT(gradient.abs().max().item<double>(), 1e-12);
  EXPECT_THROW(model->training_loss({}, [](const Tensor& answers) { return answers.sum(); }), Error);
}

TEST(DualCross, WrongPartsAreNamed) {
  auto spec = spec_of();
  spec.base.layers[1].mixer = "rala";
  EXPECT_THROW(DualCross(spec, DualCrossConfig{}), Error);
  EXPECT_THROW(DualCross(spec_of(), DualCrossConfig{0, true, true}), Error);
}

}  // namespace
}  // namespace heed::dual_cross_test
