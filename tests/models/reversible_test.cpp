#include <gtest/gtest.h>

#include <set>

#include "heed/error.h"
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
  auto layers = reversible_layers(c, owner.blocks, in, 5);
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
  const auto layers = reversible_layers(c, owner.blocks, in);
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
    sizes.push_back(nodes(run_reversible_blocks(c, owner.blocks, in)));
  }
  EXPECT_EQ(sizes[0], sizes[1]);
  auto post = config(1);
  post.block.placement = formats::NormPlacement::post;
  Owner owner(post);
  EXPECT_THROW(run_reversible_blocks(post, owner.blocks, in), Error);
}

}  // namespace
}  // namespace heed::reversible_test
