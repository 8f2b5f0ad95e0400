// What is lost in each layer, against the full model's own attention weights.
#include "heed/cache/layer_fidelity.h"

#include <gtest/gtest.h>

#include "heed/assets.h"
#include "heed/checkpoint/language_model.h"
#include "heed/error.h"
#include "probe/observed_layer.h"

namespace heed::cache::layer_fidelity_test {
namespace {

using torch::Tensor;

class LayerFidelity : public ::testing::Test {
 protected:
  checkpoint::LanguageModel lm = checkpoint::load_language_model(find_asset("tiny-lm"));
  ModelShape shape = shape_of(lm.model->config());
  Tensor tokens =
      torch::tensor(lm.tokenizer.encode("The number of apples is 12. A road runs by the river, and the lamp burns all "
                                        "night. Every reader knows the number of apples; the number of apples is 12."))
          .unsqueeze(0);
  static constexpr int64_t kPrompt = 96;
};

TEST_F(LayerFidelity, OfTheFullCacheIsNoLoss) {
  for (const auto& loss : layer_losses(lm.model, make_policy("full", {}, shape), tokens, kPrompt)) {
    EXPECT_EQ(loss.mass, 1);
    EXPECT_EQ(loss.kl, 0);
    EXPECT_EQ(loss.recall, 1);
    EXPECT_LE(loss.out_rel_err, 1e-6);
  }
}

// Sinks and a window are a set that is known beforehand, so mass and recall are sums over the full model's weights; the
// KL of the renormalised weights is computed term by term.
TEST_F(LayerFidelity, IsThatOfTheFullModelsWeights) {
  constexpr int64_t kSinks = 2, kWindow = 24, kTop = 8;
  const int64_t n = tokens.size(1);
  const auto losses = layer_losses(
      lm.model, make_policy("streaming_llm", {{"sinks", kSinks}, {"window", kWindow}}, shape), tokens, kPrompt, kTop);

  std::vector<Tensor> weights(size_t(shape.layers));
  probe::Observer observer;
  observer.rows = [&](int64_t, int64_t size) { return torch::arange(kPrompt, size); };
  observer.weights = [&](int64_t layer, const Tensor& part, const Tensor&) {
    auto& all = weights[size_t(layer)];
    all = all.defined() ? torch::cat({all, part}, 2) : part;
  };
  Session session(lm.model, make_policy("full", {}, shape), 1, n);
  probe::replace_caches(session, [&](int64_t) { return std::make_unique<probe::ObservedLayer>(observer); });
  session.prefill(tokens);

  ASSERT_EQ(losses.size(), weights.size());
  for (size_t l = 0; l < losses.size(); ++l) {
    const auto a = weights[l].to(torch::kFloat64)[0];  // [H, R, n]
    double mass = 0, kl = 0, recall = 0;
    for (int64_t h = 0; h < a.size(0); ++h)
      for (int64_t r = 0; r < a.size(1); ++r) {
        const int64_t own = kPrompt + r;
        const auto row = a[h][r].slice(0, 0, own + 1);
        const auto j = torch::arange(own + 1);
        const auto read = (j < kSinks) | (j > own - kWindow);
        const auto kept = (row / row.sum()).masked_select(read);
        mass += kept.sum().item<double>();
        const auto again = kept / kept.sum();
        kl += (again * (again / kept).log()).sum().item<double>();
        recall += read.index_select(0, std::get<1>(row.topk(kTop))).to(torch::kFloat64).mean().item<double>();
      }
    const double count = double(a.size(0) * a.size(1));
    // The weights come from two kernels, whose logits differ by a few units of float32.
    EXPECT_NEAR(losses[l].mass, mass / count, 1e-5) << l;
    EXPECT_NEAR(losses[l].kl, kl / count, 1e-4) << l;
    EXPECT_NEAR(losses[l].recall, recall / count, 0.01) << l;
  }
}

TEST_F(LayerFidelity, WhatIsReadThroughListsIsFound) {
  for (const char* name : {"quest", "h2o", "snap_kv"}) {
    PolicyRow row;
    for (const auto& policy : policies())
      if (policy.row.name == name) row = policy;
    const auto losses = layer_losses(lm.model, make_policy(name, row.at_budget(48), shape), tokens, kPrompt);
    double left_out = 0;
    for (const auto& loss : losses) {
      EXPECT_TRUE(loss.mass > 0.05 && loss.mass <= 1) << name << " " << loss.mass;
      EXPECT_EQ(loss.mass<1, loss.out_rel_err> 1e-5) << name;  // the first layers of Quest read everything
      left_out += 1 - loss.mass;
      EXPECT_GE(loss.kl, -std::log(loss.mass) - 1e-12) << name << ": Jensen";
    }
    EXPECT_GT(left_out, 0.01) << name;
    const auto covering = layer_losses(lm.model, make_policy(name, row.covering, shape), tokens, kPrompt);
    for (const auto& loss : covering) {
      EXPECT_EQ(loss.mass, 1) << name;
      EXPECT_LE(loss.out_rel_err, 1e-5) << name;
    }
  }
}

TEST_F(LayerFidelity, RefusesTextsWithoutSteps) {
  const auto full = make_policy("full", {}, shape);
  EXPECT_THROW(layer_losses(lm.model, full, tokens, tokens.size(1)), Error);
  EXPECT_THROW(layer_losses(lm.model, full, tokens, 0), Error);
  EXPECT_THROW(layer_losses(lm.model, full, tokens.repeat({2, 1}), 10), Error);
  EXPECT_THROW(layer_losses(lm.model, full, tokens, 10, 0), Error);
}

}  // namespace
}  // namespace heed::cache::layer_fidelity_test
