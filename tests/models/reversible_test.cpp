#include <gtest/gtest.h>

#include <set>

#include "heed/error.h"
#include "heed/mixers/taps.h"
#include "heed/models/decoder_lm.h"
#include "heed/models/reversible.h"
#include "support/torch_support.h"

namespace heed::reversible_test {
namespace {

using test::relative_error;
using torch::Tensor;

TransformerConfig config(int64_t layers) {
  TransformerConfig c;
  c.dim = 16, c.heads = 2, c.kv_heads = 2, c.head_dim = 8, c.hidden = 24, c.max_length = 32;
  for (int64_t i = 0; i < layers; ++i)
    c.layers.push_back({"reformer", {{"rounds", 2}, {"buckets", 2}, {"chunk", 4}, {"dropout", 0.3}}});
  return c;
}

struct Owner : torch::nn::Module {
  explicit Owner(const TransformerConfig& c) { blocks = make_blocks(*this, c, true, torch::kFloat64); }
  std::vector<TransformerBlock> blocks;
};

TEST(Reversible, GradientsAreThoseOfKeptActivations) {
  torch::manual_seed(1);
  const auto c = config(3);
  Owner owner(c);
  owner.train();
  MixerInput in;
  in.x = torch::randn({2, 11, 16}, torch::kFloat64).requires_grad_();
  // libtorch's own random numbers are replayed as well.
  auto layers = reversible_layers(owner.blocks, in, 5);
  for (auto& layer : layers) {
    const auto g = layer.g;
    layer.g = [g](const Tensor& x) { return torch::dropout(g(x), 0.4, true); };
  }
  const auto weights = torch::randn({2, 11, 16}, torch::kFloat64);
  const auto gradients = [&](const std::pair<Tensor, Tensor>& y) {
    owner.zero_grad();
    in.x.mutable_grad() = Tensor();
    ((y.first + 2 * y.second) * weights).sum().backward();
    std::vector<Tensor> grads{in.x.grad().clone()};
    for (const auto& parameter : owner.parameters())
      if (parameter.grad().defined()) grads.push_back(parameter.grad().clone());
    return grads;
  };
  torch::manual_seed(2);
  Tensor x1 = in.x, x2 = in.x;
  for (const auto& layer : layers) {
    x1 = x1 + layer.f(x2);
    x2 = x2 + layer.g(x1);
  }
  const auto expected = gradients({x1, x2});
  torch::manual_seed(2);
  const auto y = nn::run_reversible(layers, in.x, in.x);
  EXPECT_TRUE(torch::equal(y.first, x1));
  EXPECT_TRUE(torch::equal(y.second, x2));
  const auto actual = gradients(y);
  ASSERT_EQ(actual.size(), expected.size());
  EXPECT_GT(actual.size(), 10u);
  for (size_t i = 0; i < actual.size(); ++i) EXPECT_LT(relative_error(actual[i], expected[i]), 1e-9) << i;
}

TEST(Reversible, TheInverseFindsTheInputs) {
  torch::manual_seed(3);
  const auto c = config(6);
  Owner owner(c);
  owner.eval();
  MixerInput in;
  in.x = torch::randn({1, 9, 16}, torch::kFloat64);
  const auto layers = reversible_layers(owner.blocks, in);
  torch::NoGradGuard no_grad;
  const auto x2 = torch::randn_like(in.x);
  const auto y = nn::run_reversible(layers, in.x, x2);
  const auto x = nn::invert_reversible(layers, y.first, y.second);
  EXPECT_LT(relative_error(x.first, in.x), 1e-12);
  EXPECT_LT(relative_error(x.second, x2), 1e-12);
}

/// Tensors that the graph behind `y` keeps, counted through all of its nodes.
int64_t nodes(const Tensor& y) {
  std::set<torch::autograd::Node*> seen;
  std::vector<torch::autograd::Node*> open{y.grad_fn().get()};
  while (!open.empty()) {
    auto* node = open.back();
    open.pop_back();
    if (node == nullptr || !seen.insert(node).second) continue;
    for (const auto& edge : node->next_edges()) open.push_back(edge.function.get());
  }
  return int64_t(seen.size());
}

TEST(Reversible, DepthKeepsNothing) {
  MixerInput in;
  in.x = torch::randn({1, 9, 16}, torch::kFloat64);
  std::vector<int64_t> sizes;
  for (const int64_t depth : {2, 8}) {
    const auto c = config(depth);
    Owner owner(c);
    sizes.push_back(nodes(run_reversible_blocks(owner.blocks, in)));
  }
  EXPECT_EQ(sizes[0], sizes[1]);
  auto post = config(1);
  post.block.placement = formats::NormPlacement::post;
  Owner owner(post);
  EXPECT_THROW(run_reversible_blocks(owner.blocks, in), Error);
}

DecoderConfig decoder_config(const std::string& mixer) {
  DecoderConfig c;
  static_cast<TransformerConfig&>(c) = config(0);
  c.vocab_size = 30;
  c.block.placement = formats::NormPlacement::reversible;
  nlohmann::json own = nlohmann::json::object();
  if (mixer == "reformer") own = {{"rounds", 2}, {"buckets", 2}, {"chunk", 4}};
  c.layers.assign(3, {mixer, own});
  return c;
}

TEST(Reversible, ADecoderIsItsTwoStreams) {
  torch::manual_seed(4);
  for (const char* mixer : {"reformer", "dense"}) {
    DecoderLm model(decoder_config(mixer), torch::kFloat64);
    model->eval();
    const auto tokens = torch::randint(30, {2, 13}, torch::kInt64);
    const auto by_hand = [&] {
      auto x1 = model->embed(tokens), x2 = x1;
      for (auto& block : model->blocks) {
        MixerInput in;
        in.x = block->input_norm(x2);
        x1 = x1 + block->mixer->forward(in);
        x2 = x2 + block->mlp->forward(block->mlp_norm(x1), {});
      }
      return model->logits(model->named_children()["norm"]->as<nn::NormImpl>()->forward((x1 + x2) / 2));
    };
    const auto weights = torch::randn({2, 13, 30}, torch::kFloat64);
    const auto gradients = [&](const Tensor& logits) {
      model->zero_grad();
      (logits * weights).sum().backward();
      std::vector<Tensor> grads;
      for (const auto& parameter : model->parameters()) grads.push_back(parameter.grad().clone());
      return grads;
    };
    const auto found = model->forward(tokens), expected = by_hand();
    EXPECT_LT(relative_error(found, expected), 1e-12) << mixer;
    const auto a = gradients(found), b = gradients(expected);
    for (size_t i = 0; i < a.size(); ++i) EXPECT_LT(relative_error(a[i], b[i]), 1e-9) << mixer << i;
    // Steps are the whole.
    torch::NoGradGuard no_grad;
    auto state = model->make_state(2);
    std::vector<Tensor> parts;
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 6}, {6, 7}, {7, 8}, {8, 13}})
      parts.push_back(model->forward(tokens.slice(1, begin, end), &state));
    // Reformer's scores of -1e5 for a token itself round to 1e-11.
    EXPECT_LT(relative_error(torch::cat(parts, 1), expected), 1e-9) << mixer;
  }
}

TEST(Reversible, WhatLooksBetweenLayersIsRefused) {
  torch::manual_seed(5);
  const auto tokens = torch::randint(30, {1, 5}, torch::kInt64);
  Taps taps;
  DecoderLm model(decoder_config("dense"));
  EXPECT_THROW(model->forward(tokens, nullptr, 0, &taps), Error);
  EXPECT_THROW(model->blocks[0]->forward({.x = torch::randn({1, 5, 16})}), Error);
  // Layers that use the attention, the embeddings or the companion of the model.
  for (const nlohmann::json& own :
       {nlohmann::json{{"mixer", "shared_attention"}, {"config", {{"role", "follower"}}}},
        nlohmann::json{{"mixer", "deconstructed_attention"}, {"config", {{"variant", "static_emb_qk"}}}},
        nlohmann::json{{"mixer", "deconstructed_attention"}, {"config", {{"variant", "rnd_emb_qk"}}}}}) {
    auto c = decoder_config("dense");
    c.layers[0] = {own["mixer"] == "shared_attention" ? "shared_attention" : "dense", nlohmann::json::object()};
    c.layers[1] = {own["mixer"], own["config"]};
    DecoderLm other(c);
    EXPECT_THROW(other->forward(tokens), Error) << own.dump();
  }
}

}  // namespace
}  // namespace heed::reversible_test
