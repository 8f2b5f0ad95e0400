// Groups and spans that are known beforehand: shifted_sparse_attention and masformer.
#include <gtest/gtest.h>

#include "heed/attention.h"
#include "heed/error.h"
#include "heed/mixers/token_mixer.h"
#include "heed/models/mixer_stack.h"
#include "support/torch_support.h"

namespace heed::spans_test {
namespace {

using nlohmann::json;
using test::relative_error;
using torch::Tensor;

CoreInput input(int64_t n, int64_t heads = 4, int64_t kv_heads = 2) {
  torch::manual_seed(n);
  return {torch::randn({2, heads, n, 8}), torch::randn({2, kv_heads, n, 8}), torch::randn({2, kv_heads, n, 8})};
}

Tensor core(const char* name, json config, const CoreInput& in, bool training) {
  config.update({{"dim", in.q.size(1) * 8}, {"heads", in.q.size(1)}, {"kv_heads", in.k.size(1)}});
  auto mixer = make_mixer(name, config);
  mixer->train(training);
  return mixer->mix(in);
}

Tensor dense(const CoreInput& in) {
  AttentionOptions options;
  options.mask = Causal{};
  return attention(in.q, in.k, in.v, options);
}

TEST(ShiftedSparse, OneGroupIsDenseAndInferenceIsDense) {
  const auto in = input(32);
  const json one{{"group", 32}, {"shift", false}}, four{{"group", 8}};
  EXPECT_LT(relative_error(core("shifted_sparse_attention", one, in, true), dense(in)), test::kForwardTolerance);
  EXPECT_LT(relative_error(core("shifted_sparse_attention", four, in, false), dense(in)), test::kForwardTolerance);
  EXPECT_GT(relative_error(core("shifted_sparse_attention", four, in, true), dense(in)), 1e-2);
}

TEST(ShiftedSparse, HeadsSeeTheirGroups) {
  constexpr int64_t kTokens = 32, kGroup = 8;
  for (const char* edges : {"split", "wrap"}) {
    auto in = input(kTokens);
    in.v.requires_grad_();
    const auto out = core("shifted_sparse_attention", {{"group", kGroup}, {"edges", edges}}, in, true);
    for (int64_t h = 0; h < 4; ++h)
      for (int64_t i = 0; i < kTokens; ++i) {
        const auto grad =
            torch::autograd::grad({out.select(1, h).select(1, i).sum()}, {in.v}, {}, true)[0].select(1, h / 2);
        const auto seen = grad.abs().sum(at::IntArrayRef{0, 2}) > 0;
        for (int64_t j = 0; j < kTokens; ++j) {
          const int64_t shift = h < 2 ? 0 : kGroup / 2;
          bool expected = j <= i && (i + shift) / kGroup == (j + shift) / kGroup;
          // Around the ends the first half group sees all of the last.
          if (shift > 0 && std::string(edges) == "wrap" && i < shift && j >= kTokens - shift) expected = true;
          EXPECT_EQ(seen[j].item<bool>(), expected) << edges << ", head " << h << ": " << i << " sees " << j;
        }
      }
  }
}

TEST(ShiftedSparse, TwoLayersCrossGroupsOnlyWithTheShift) {
  for (const bool shift : {true, false}) {
    torch::manual_seed(4);
    const json config{{"heads", 2}, {"group", 8}, {"shift", shift}};
    MixerStack stack("shifted_sparse_attention", config, 16, 2);
    stack->train();
    auto x = torch::randn({1, 32, 16}).requires_grad_();
    MixerInput in;
    in.x = x;
    const auto grad = torch::autograd::grad({stack->forward(in).select(1, 17).sum()}, {x})[0].abs().sum(2).select(0, 0);
    // Token 17 stands in group [16, 24), and in the shifted one [12, 20), whose tokens see [8, 16) by groups.
    EXPECT_EQ(grad.slice(0, 8, 16).max().item<double>() > 0, shift);
    EXPECT_EQ(grad.slice(0, 0, 8).max().item<double>(), 0);
  }
}

TEST(ShiftedSparse, GradientsInTraining) {
  auto mixer = make_mixer("shifted_sparse_attention", {{"dim", 16}, {"heads", 2}, {"group", 4}});
  mixer->to(torch::kFloat64);
  torch::manual_seed(8);
  MixerInput in;
  in.x = torch::randn({1, 12, 16}, torch::kFloat64).requires_grad_();
  const auto weights = torch::randn({1, 12, 16}, torch::kFloat64);
  const auto value = [&] { return (mixer->forward(in) * weights).sum(); };
  const auto grad = torch::autograd::grad({value()}, {in.x})[0];
  torch::NoGradGuard no_grad;
  const auto direction = torch::randn_like(grad);
  in.x.add_(direction, 1e-5);
  const double above = value().item<double>();
  in.x.add_(direction, -2e-5);
  const double expected = (grad * direction).sum().item<double>();
  EXPECT_NEAR((above - value().item<double>()) / 2e-5, expected, 1e-6 * std::max(1.0, std::fabs(expected)));
}

TEST(ShiftedSparse, PaddingIsSeenByNobodyInTraining) {
  constexpr int64_t kTokens = 24, kGroup = 8;
  for (const char* edges : {"split", "wrap"}) {
    auto in = input(kTokens);
    in.key_padding = torch::zeros({2, kTokens}, torch::kBool);
    in.key_padding->select(0, 0).slice(0, 5, 9).fill_(true);
    in.key_padding->select(0, 1).slice(0, 20).fill_(true);
    const auto out = core("shifted_sparse_attention", {{"group", kGroup}, {"edges", edges}}, in, true);
    // The formula, head by head.
    const auto index = torch::arange(kTokens), i = index.unsqueeze(1);
    const auto k = in.k.repeat_interleave(2, 1), v = in.v.repeat_interleave(2, 1);
    for (int64_t h = 0; h < 4; ++h) {
      const int64_t shift = h < 2 ? 0 : kGroup / 2;
      const auto group = (index + shift).div(kGroup, "floor");
      auto visible = (group.unsqueeze(1) == group) & (index <= i);
      if (shift > 0 && std::string(edges) == "wrap") visible = visible | ((i < shift) & (index >= kTokens - shift));
      const auto seen = visible & in.key_padding->logical_not().unsqueeze(1);
      const auto s = torch::matmul(in.q.select(1, h), k.select(1, h).transpose(1, 2)) / std::sqrt(8.0);
      const auto p = torch::softmax(s.masked_fill(~seen, -1e30), 2).masked_fill(~seen, 0);
      EXPECT_LT(relative_error(out.select(1, h), torch::matmul(p, v.select(1, h))), test::kForwardTolerance)
          << edges << h;
    }
  }
}

TEST(ShiftedSparse, WhatItRefuses) {
  const auto in = input(30);
  EXPECT_THROW(core("shifted_sparse_attention", {{"group", 8}}, in, true), Error);   // 30 tokens
  EXPECT_THROW(core("shifted_sparse_attention", {{"group", 15}}, in, true), Error);  // half of 15
  EXPECT_THROW(core("shifted_sparse_attention", {}, in, true), Error);               // a quarter of 30
  EXPECT_THROW(make_mixer("shifted_sparse_attention", {{"dim", 30}, {"heads", 3}}), Error);
}

/// How far before token `at` the input still changes the output of a stack of masformer layers.
int64_t reach(int64_t layers, const json& config, int64_t tokens) {
  torch::manual_seed(2);
  auto own = config;
  own["heads"] = 2;
  MixerStack stack("masformer", own, 8, layers);
  stack->to(torch::kFloat64);
  auto x = torch::randn({1, tokens, 8}, torch::kFloat64).requires_grad_();
  MixerInput in;
  in.x = x;
  const auto grad = torch::autograd::grad({stack->forward(in).select(1, tokens - 1).sum()}, {x})[0].abs().sum(2)[0];
  for (int64_t j = 0; j < tokens; ++j)
    if (grad[j].item<double>() > 0) return tokens - j;
  return 0;
}

TEST(Masformer, TheReceptiveFieldOfItsLayers) {
  for (const int64_t layers : {1, 2, 3}) EXPECT_EQ(reach(layers, {{"window", 5}}, 40), layers * 4 + 1);
  for (const char* placement : {"bottom", "middle", "top", "spread"})
    EXPECT_EQ(reach(3, {{"window", 5}, {"full", 1}, {"placement", placement}}, 40), 40) << placement;
  EXPECT_EQ(reach(3, {{"window", 5}, {"layers", {1}}}, 40), 40);
  EXPECT_EQ(reach(2, {{"window", 5}, {"layers", {7}}}, 40), 9);
  EXPECT_EQ(reach(1, {{"window", 10}, {"local", "blocks"}}, 40), 20);
}

TEST(Masformer, AWideSpanIsDense) {
  const auto in = input(40);
  for (const char* local : {"window", "blocks"})
    EXPECT_LT(relative_error(core("masformer", {{"window", 40}, {"local", local}}, in, false), dense(in)),
              test::kForwardTolerance);
}

TEST(Masformer, AllLayersFullIsADenseStack) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(6);
  const json two{{"heads", 2}}, all{{"heads", 2}, {"window", 3}, {"full", 3}},
      few{{"heads", 2}, {"window", 3}, {"full", 1}};
  MixerStack full("masformer", all, 16, 3), plain("dense", two, 16, 3), one("masformer", few, 16, 3);
  for (auto* stack : {&plain, &one}) {
    auto target = (*stack)->named_parameters();
    for (const auto& entry : full->named_parameters()) target[entry.key()].copy_(entry.value());
  }
  MixerInput in;
  in.x = torch::randn({1, 30, 16});
  EXPECT_LT(relative_error(full->forward(in), plain->forward(in)), test::kForwardTolerance);
  EXPECT_GT(relative_error(one->forward(in), plain->forward(in)), 1e-6);
}

TEST(Masformer, CostAndCacheAreThoseOfTheSpans) {
  // 4 of 24 layers full, w / n = 1/8: a share of 0.27 of the pairs; causal halves change it little.
  constexpr int64_t kTokens = 512, kWindow = 64;
  const auto in = input(kTokens, 2, 2);
  const auto pairs = [&](const json& config) {
    nn::CoreReport report;
    auto asked = in;
    asked.report = &report;
    core("masformer", config, asked, false);
    return double(report.pairs);
  };
  const double full = pairs({{"window", kTokens}}), local = pairs({{"window", kWindow}});
  EXPECT_EQ(full, 4.0 * kTokens * (kTokens + 1) / 2);
  EXPECT_EQ(local, 4.0 * (kWindow * (kWindow + 1) / 2.0 + (kTokens - kWindow) * kWindow));
  const json config{{"heads", 2}, {"window", 16}, {"full", 1}, {"placement", "top"}};
  MixerStack stack("masformer", config, 16, 3);
  stack->eval();
  torch::NoGradGuard no_grad;
  const auto x = torch::randn({1, 100, 16});
  MixerInput whole;
  whole.x = x;
  const auto expected = stack->forward(whole);
  const auto states = stack->make_states(1);
  for (int64_t t = 0; t < 100; ++t) {
    MixerInput step;
    step.x = x.slice(1, t, t + 1);
    EXPECT_LT(relative_error(stack->forward(step, &states), expected.slice(1, t, t + 1)), 1e-4) << t;
  }
  EXPECT_LT(states[0]->bytes(), states[2]->bytes() / 3);
  EXPECT_LT(states[1]->bytes(), states[2]->bytes() / 3);
}

}  // namespace
}  // namespace heed::spans_test
