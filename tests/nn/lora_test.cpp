#include "heed/nn/lora.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/mixers/token_mixer.h"
#include "support/torch_support.h"

namespace heed::lora_test {
namespace {

using torch::Tensor;

struct Model : torch::nn::Module {
  Model() {
    torch::manual_seed(1);
    embedding = register_module("embed_tokens", torch::nn::Embedding(10, 16));
    norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({16})));
    mixer = register_module("self_attn", make_mixer("dense", {{"dim", 16}, {"heads", 2}}));
  }
  Tensor forward(const Tensor& ids) {
    MixerInput in;
    in.x = norm(embedding(ids));
    return mixer->forward(in);
  }
  torch::nn::Embedding embedding{nullptr};
  torch::nn::LayerNorm norm{nullptr};
  std::shared_ptr<TokenMixer> mixer;
};

TEST(Lora, StartsAsTheModelAndTrainsWhatItSays) {
  Model model;
  const auto ids = torch::arange(10).view({1, 10});
  const auto before = model.forward(ids).detach();
  nn::Lora lora(model, nn::LoraOptions{4, 8, {"q_proj", "o_proj"}, {"embed", "norm"}});
  lora->apply_updates();
  EXPECT_TRUE(torch::equal(model.forward(ids), before));
  int64_t count = 0;
  for (const auto& parameter : lora->trainable()) count += parameter.numel();
  EXPECT_EQ(count, 2 * 4 * (16 + 16) + 10 * 16 + 2 * 16);  // A and B of two layers, embeddings, norm

  const auto frozen = model.named_parameters()["self_attn.q_proj.weight"].clone();
  torch::optim::Adam optimizer(lora->trainable(), torch::optim::AdamOptions(0.05));
  const auto target = torch::randn_like(before);
  double first = 0, last = 0;
  for (int step = 0; step < 40; ++step) {
    optimizer.zero_grad();
    lora->apply_updates();
    const auto loss = (model.forward(ids) - target).square().mean();
    loss.backward();
    optimizer.step();
    (step == 0 ? first : last) = loss.item<double>();
  }
  EXPECT_LT(last, 0.9 * first);
  EXPECT_TRUE(torch::equal(model.named_parameters()["self_attn.q_proj.weight"], frozen));
  EXPECT_FALSE(model.named_parameters()["self_attn.k_proj.weight"].grad().defined());
  // The updates are of rank 4.
  lora->apply_updates();
  const auto trained = model.forward(ids).detach();
  lora->merge();
  EXPECT_LT(test::relative_error(model.forward(ids), trained), 1e-5);
  const auto change = model.named_parameters()["self_attn.q_proj.weight"] - frozen;
  const auto values = std::get<1>(torch::linalg_svd(change.detach(), false, c10::nullopt));
  EXPECT_GT(values[3].item<double>(), 1e-4 * values[0].item<double>());
  EXPECT_LT(values[4].item<double>(), 1e-4 * values[0].item<double>());
}

TEST(Lora, WhatItRefuses) {
  Model model;
  EXPECT_THROW(nn::Lora(model, nn::LoraOptions{17}), Error);
  EXPECT_THROW(nn::Lora(model, nn::LoraOptions{0}), Error);
  EXPECT_THROW(nn::Lora(model, nn::LoraOptions{4, 8, {"no_such_proj"}}), Error);
}

}  // namespace
}  // namespace heed::lora_test
