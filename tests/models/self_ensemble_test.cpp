// Draws of one model's keys, averaged.
#include "heed/models/self_ensemble.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/mixers/subsampling.h"
#include "support/torch_support.h"

namespace heed::self_ensemble_test {
namespace {

DecoderLm drawn(const char* mixer) {
  torch::manual_seed(3);
  DecoderConfig config;
  config.dim = 16, config.heads = 2, config.kv_heads = 2, config.head_dim = 8, config.hidden = 24,
  config.vocab_size = 12;
  config.layers.assign(2, {mixer, {}});
  DecoderLm model(config);
  torch::NoGradGuard no_grad;
  for (auto& parameter : model->parameters()) parameter.add_(torch::randn_like(parameter) * 0.3);
  return model;
}

TEST(SelfEnsemble, IsTheMeanOfItsDraws) {
  torch::NoGradGuard no_grad;
  auto model = drawn("stochastic_subsampled_attention");
  const auto tokens = torch::randint(12, {2, 20}, torch::kInt64);
  const auto found = ensemble_log_probabilities(model, tokens, 5, 9);
  EXPECT_LT((found.exp().sum(2) - 1).abs().max().item<double>(), 1e-5);
  EXPECT_TRUE(torch::equal(found, ensemble_log_probabilities(model, tokens, 5, 9)));
  EXPECT_TRUE(model->is_training());
  model->eval();
  set_subsampling(*model, Subsampling::When::always);
  torch::Tensor sum;
  for (uint64_t draw = 0; draw < 5; ++draw) {
    const auto p = torch::softmax(model->forward(tokens, nullptr, 9 + (draw << 40)), 2);
    sum = sum.defined() ? sum + p : p;
  }
  EXPECT_LT(test::relative_error(found.exp(), sum / 5), 1e-5);
  // What is left behind is a model as it was: dense in evaluation.
  set_subsampling(*model, Subsampling::When::training);
  ensemble_log_probabilities(model, tokens, 1);
  auto dense = drawn("dense");
  dense->eval();
  EXPECT_LT(test::relative_error(model->forward(tokens), dense->forward(tokens)), test::kForwardTolerance);
  EXPECT_THROW(ensemble_log_probabilities(dense, tokens, 2), Error);
  // One that draws in evaluation still does.
  const auto draws = [&] { return model->forward(tokens, nullptr, 4); };
  set_subsampling(*model, Subsampling::When::always);
  const auto before = draws();
  ensemble_log_probabilities(model, tokens, 1);
  EXPECT_TRUE(torch::equal(draws(), before));
  EXPECT_GT(test::relative_error(before, dense->forward(tokens)), 1e-3);
  EXPECT_THROW(ensemble_log_probabilities(model, tokens, 0), Error);
}

}  // namespace
}  // namespace heed::self_ensemble_test
