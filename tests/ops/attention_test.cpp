// heed::attention against plain torch, its gradients, and its refusals.
#include "heed/attention.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "heed/ops/dispatch.h"
#include "support/torch_support.h"

namespace heed::attention_test {
namespace {

using test::relative_error;
using torch::Tensor;

/// matmul, softmax, matmul.
Tensor plain(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, const Tensor& bias = {}) {
  const int64_t group = q.size(1) / k.size(1), n = q.size(2), m = k.size(2);
  auto scores = torch::matmul(q, k.repeat_interleave(group, 1).transpose(2, 3)) / std::sqrt(double(q.size(3)));
  if (bias.defined()) scores = scores + bias;
  if (causal) scores = scores.masked_fill(torch::ones({n, m}, torch::kBool).triu(m - n + 1), -INFINITY);
  return torch::matmul(torch::softmax(scores, -1), v.repeat_interleave(group, 1));
}

struct Qkv {
  Tensor q, k, v;
};
Qkv qkv(int64_t n, int64_t m, torch::ScalarType dtype = torch::kFloat32) {
  torch::manual_seed(n * 1000 + m);
  return {torch::randn({2, 4, n, 24}, dtype), torch::randn({2, 2, m, 24}, dtype), torch::randn({2, 2, m, 24}, dtype)};
}

TEST(Attention, EqualsPlainTorchWithGradients) {
  for (const bool causal : {false, true})
    for (const auto& [n, m] : {std::pair<int64_t, int64_t>{1, 1}, {65, 65}, {37, 130}}) {
      auto [q, k, v] = qkv(n, m);
      auto bias = torch::randn({1, 4, n, m});
      for (auto* x : {&q, &k, &v, &bias}) x->requires_grad_();
      AttentionOptions options;
      if (causal) options.mask = Causal{};
      options.bias = bias;
      const auto out = attention(q, k, v, options), expected = plain(q, k, v, causal, bias);
      EXPECT_LT(relative_error(out, expected), test::kForwardTolerance);
      const auto weights = torch::randn_like(out);
      const auto grads = torch::autograd::grad({(out * weights).sum()}, {q, k, v, bias});
      const auto reference = torch::autograd::grad({(expected * weights).sum()}, {q, k, v, bias});
      for (size_t i = 0; i < grads.size(); ++i)
        EXPECT_LT(relative_error(grads[i], reference[i]), test::kGradientTolerance) << i;
    }
}

TEST(Attention, LseIsDifferentiable) {
  auto [q, k, v] = qkv(9, 14);
  q.requires_grad_();
  const auto lse = attention_with_lse(q, k, v).lse;
  const auto expected =
      torch::logsumexp(torch::matmul(q, k.repeat_interleave(2, 1).transpose(2, 3)) / std::sqrt(24.0), -1);
  EXPECT_LT(relative_error(lse, expected), test::kForwardTolerance);
  const auto weights = torch::randn_like(lse);
  const auto grad = torch::autograd::grad({(lse * weights).sum()}, {q})[0];
  EXPECT_LT(relative_error(grad, torch::autograd::grad({(expected * weights).sum()}, {q})[0]),
            test::kGradientTolerance);
}

TEST(Attention, WeightsAreRebuiltFromLse) {
  auto [q, k, v] = qkv(11, 17);
  q.requires_grad_();
  k.requires_grad_();
  AttentionOptions options;
  options.mask = Causal{};
  const auto lse = attention_with_lse(q, k, v, options).lse;
  const auto rows = torch::tensor({0, 4, 10}, torch::kInt64);
  const auto weights = attention_weights(q, k, lse, rows, options);
  auto scores = torch::matmul(q, k.repeat_interleave(2, 1).transpose(2, 3)) / std::sqrt(24.0);
  scores = scores.masked_fill(torch::ones({11, 17}, torch::kBool).triu(17 - 11 + 1), -INFINITY);
  const auto expected = torch::softmax(scores, -1).index_select(2, rows);
  EXPECT_LT(relative_error(weights, expected), test::kForwardTolerance);
  // Through q, k and lse together: the gradient of the whole softmax.
  const auto direction = torch::randn_like(expected);
  const auto grads = torch::autograd::grad({(weights * direction).sum()}, {q, k});
  const auto reference = torch::autograd::grad({(expected * direction).sum()}, {q, k});
  for (size_t i = 0; i < 2; ++i) EXPECT_LT(relative_error(grads[i], reference[i]), test::kGradientTolerance) << i;
  EXPECT_THROW(attention_weights(q, k, lse, torch::tensor({11}, torch::kInt64)), Error);
}

TEST(Attention, TwiceDifferentiatedIsRefused) {
  auto [q, k, v] = qkv(5, 5);
  q.requires_grad_();
  const auto grad = torch::autograd::grad({attention(q, k, v).sum()}, {q}, {}, true, true)[0];
  EXPECT_THROW(grad.sum().backward(), std::exception);
}

TEST(Attention, OnlyTheAskedGradientsExist) {
  auto [q, k, v] = qkv(6, 6);
  v.requires_grad_();
  auto sink = torch::zeros({4}).requires_grad_();
  AttentionOptions options;
  options.sink_logit = sink;
  attention(q, k, v, options).sum().backward();
  EXPECT_FALSE(q.grad().defined());
  EXPECT_TRUE(v.grad().defined());
  EXPECT_EQ(sink.grad().sizes(), sink.sizes());
}

TEST(Attention, SixteenBitTypesComeBackInTheirType) {
  for (const auto dtype : {torch::kBFloat16, torch::kFloat16}) {
    auto [q, k, v] = qkv(40, 40);
    q = q.to(dtype).requires_grad_();
    k = k.to(dtype);
    v = v.to(dtype);
    const auto out = attention(q, k, v);
    EXPECT_EQ(out.scalar_type(), dtype);
    // One rounding of the output and none inside: half a unit in the last place.
    const double unit = dtype == torch::kBFloat16 ? std::exp2(-8.0) : std::exp2(-11.0);
    const auto wide = plain(q.to(torch::kFloat64), k.to(torch::kFloat64), v.to(torch::kFloat64), false);
    EXPECT_LT(relative_error(out, wide), unit);
    out.sum().backward();
    EXPECT_EQ(q.grad().scalar_type(), dtype);
  }
}

TEST(Attention, StridesOfATransposedLayoutNeedNoCopy) {
  torch::manual_seed(3);
  const auto packed = torch::randn({2, 33, 3, 4, 16});  // [B, N, qkv, H, D]
  const auto part = [&](int64_t i) { return packed.select(2, i).transpose(1, 2); };
  const auto out = attention(part(0), part(1), part(2));
  EXPECT_LT(relative_error(out, plain(part(0).contiguous(), part(1).contiguous(), part(2).contiguous(), false)),
            test::kForwardTolerance);
}

TEST(Attention, WrongShapesAreNamed) {
  const auto q = torch::randn({1, 4, 5, 8});
  const auto refuse = [](const std::function<void()>& call, const std::string& word) {
    try {
      call();
      ADD_FAILURE() << "accepted: " << word;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
  };
  refuse([&] { attention(q, torch::randn({1, 4, 5, 9}), q); }, "9");
  refuse([&] { attention(q, q, torch::randn({1, 4, 6, 8})); }, "6");
  refuse([&] { attention(q, torch::randn({1, 3, 5, 8}), torch::randn({1, 3, 5, 8})); }, "3");
  refuse([&] { attention(q[0], q, q); }, "batch");
  refuse([&] { attention(q.to(torch::kInt64), q, q); }, "Long");
  refuse([&] { attention(q, q.to(torch::kFloat64), q); }, "Double");
  AttentionOptions options;
  options.bias = torch::zeros({1, 4, 5, 6});
  refuse([&] { attention(q, q, q, options); }, "bias");
  options = {};
  options.k_lengths = torch::tensor({1, 2}, torch::kInt64);
  refuse([&] { attention(q, q, q, options); }, "k_lengths");
}

TEST(Dispatch, FewQueriesDecodeAndAgreeWithFlash) {
  auto [q, k, v] = qkv(2, 300);
  AttentionOptions options;
  options.mask = Causal{} & (Window{50} | SinkTokens{3});
  options.softcap = 5;
  ops::FlashCall call(q, k, v, options);
  EXPECT_EQ(ops::implementations()[0].why_not(call), "");
  const auto fast = attention_with_lse(q, k, v, options);
  kernels::set_use_reference(true);
  const auto reference = attention_with_lse(q, k, v, options);
  kernels::set_use_reference(false);
  EXPECT_LT(relative_error(fast.out, reference.out), test::kForwardTolerance);
  EXPECT_LT(relative_error(fast.lse, reference.lse), test::kForwardTolerance);
}

TEST(Dispatch, SaysWhyNot) {
  auto [q, k, v] = qkv(40, 300);
  ops::FlashCall many(q, k, v, {});
  EXPECT_NE(ops::implementations()[0].why_not(many).find("40 queries"), std::string::npos);
  ops::FlashCall wide(q.to(torch::kFloat64), k.to(torch::kFloat64), v.to(torch::kFloat64), {});
  EXPECT_NE(ops::implementations()[1].why_not(wide).find("float64"), std::string::npos);
}

/// torch.ops.heed.flash, as Python calls it.
Tensor call_op(const Tensor& q, const Tensor& k, const Tensor& v, const std::string& mask) {
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("heed::flash", "");
  std::vector<c10::IValue> stack;
  for (const auto& argument : op.schema().arguments()) {
    if (argument.name() == "q")
      stack.emplace_back(q);
    else if (argument.name() == "k")
      stack.emplace_back(k);
    else if (argument.name() == "v")
      stack.emplace_back(v);
    else if (argument.name() == "mask")
      stack.emplace_back(mask);
    else
      stack.push_back(*argument.default_value());
  }
  op.callBoxed(stack);
  return stack[0].toTensor();
}

TEST(Library, TheOperatorIsTheFunction) {
  auto [q, k, v] = qkv(20, 20);
  q.requires_grad_();
  AttentionOptions options;
  options.mask = Causal{} & (Window{6} | SinkTokens{2});
  const auto expected = attention(q, k, v, options);
  const auto out = call_op(q, k, v, "causal & (window(6) | sinks(2))");
  EXPECT_TRUE(torch::equal(out, expected));
  EXPECT_TRUE(out.requires_grad());
  EXPECT_TRUE(
      torch::equal(torch::autograd::grad({out.sum()}, {q})[0], torch::autograd::grad({expected.sum()}, {q})[0]));
  torch::NoGradGuard no_grad;
  EXPECT_TRUE(torch::equal(call_op(q, k, v, "causal & (window(6) | sinks(2))"), expected));
  EXPECT_THROW(call_op(q, k, v, "causl"), std::exception);
}

TEST(Library, MetaTensorsGiveShapes) {
  const auto meta = [](std::vector<int64_t> size) {
    return torch::empty(size, torch::TensorOptions().device(torch::kMeta));
  };
  const auto out = call_op(meta({2, 4, 1000000, 64}), meta({2, 2, 1000000, 64}), meta({2, 2, 1000000, 32}), "causal");
  EXPECT_TRUE(out.is_meta());
  EXPECT_EQ(out.sizes(), (std::vector<int64_t>{2, 4, 1000000, 32}));
}

}  // namespace
}  // namespace heed::attention_test
