// The searches and attention to runs of keys as operators of torch.
#include "heed/ops/key_search.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/ops/span_attention.h"

namespace heed::ops::key_search_test {
namespace {

using torch::Tensor;

/// The results of torch.ops.heed.NAME.
torch::jit::Stack call(const char* name, torch::jit::Stack stack) {
  c10::Dispatcher::singleton().findSchemaOrThrow((std::string("heed::") + name).c_str(), "").callBoxed(stack);
  return stack;
}

struct Inputs {
  Tensor q, k, v, hidden;
  explicit Inputs(torch::ScalarType type = torch::kFloat32) {
    torch::manual_seed(20240613);
    q = torch::randn({2, 4, 20, 12}, type), k = torch::randn({2, 2, 45, 12}, type);
    v = torch::randn({2, 2, 45, 6}, type), hidden = torch::rand({2, 45}) < 0.2;
  }
};

/// Runs of different lengths, some of them empty.
std::pair<Tensor, Tensor> runs() {
  const auto begins = torch::randint(0, 40, {2, 4, 20, 3}), lengths = torch::randint(-2, 6, {2, 4, 20, 3});
  return {begins, begins + lengths};
}

TEST(KeySearchOp, IsAnOperatorOfTorch) {
  Inputs in;
  in.q.requires_grad_();
  const auto found = call("tree_search", {in.q, in.k, int64_t{4}, int64_t{2}, int64_t{5}, int64_t{1}, "center",
                                          c10::IValue(in.hidden)})[0]
                         .toTensor();
  const TreeSearchOptions options{4, 2, 5, 1, kernels::Representative::center};
  EXPECT_TRUE(torch::equal(found, tree_search(in.q, in.k, options, in.hidden)));
  EXPECT_EQ(found.sizes(), at::IntArrayRef({2, 4, 5, 5}));
  EXPECT_FALSE(found.requires_grad());
  const auto anchors =
      call("jump_search", {in.q, in.k, std::vector<int64_t>{0, 3, 7}, int64_t{2}, c10::IValue()})[0].toTensor();
  EXPECT_TRUE(torch::equal(anchors, jump_search(in.q, in.k, {0, 3, 7}, 2)));
  EXPECT_THROW(
      call("tree_search", {in.q, in.k, int64_t{4}, int64_t{2}, int64_t{5}, int64_t{1}, "middle", c10::IValue()}),
      Error);
}

TEST(KeySearchOp, MetaTensorsGiveShapesAndRefuseWhatTensorsDo) {
  const auto meta = [](at::IntArrayRef size) { return torch::empty(size, torch::device(torch::kMeta)); };
  const auto q = meta({1, 4, 33, 8}), k = meta({1, 2, 64, 8});
  const auto found = tree_search(q, k, {});
  EXPECT_TRUE(found.is_meta());
  EXPECT_EQ(found.sizes(), at::IntArrayRef({1, 4, 2, 32}));
  EXPECT_EQ(jump_search(q, k, {0, 1, 2}, 2).sizes(), at::IntArrayRef({1, 4, 33, 2}));
  EXPECT_THROW(tree_search(q, meta({1, 3, 64, 8}), {}), Error);
  EXPECT_THROW(tree_search(q[0], k, {}), Error);
  EXPECT_THROW(jump_search(q, k, {3, 1}, 2), Error);
  EXPECT_THROW(tree_search(q, k, {}, torch::zeros({1, 63}, torch::kBool)), Error);
}

TEST(SpanAttentionOp, IsADifferentiableOperatorOfTorch) {
  Inputs in(torch::kFloat64);
  const auto [begins, ends] = runs();
  const std::vector<Tensor> leaves{in.q.requires_grad_(), in.k.requires_grad_(), in.v.requires_grad_()};
  const auto results = call("span_attention", {in.q, in.k, in.v, begins, ends, 0.3, c10::IValue(in.hidden)});
  const auto out = results[0].toTensor(), lse = results[1].toTensor();
  ASSERT_EQ(out.sizes(), at::IntArrayRef({2, 4, 20, 3, 6}));
  ASSERT_EQ(lse.sizes(), at::IntArrayRef({2, 4, 20, 3}));

  // The formula on tensors: every run a softmax over a mask of its own.
  const auto j = torch::arange(45), wide_k = in.k.repeat_interleave(2, 1), wide_v = in.v.repeat_interleave(2, 1);
  const auto seen = (j >= begins.unsqueeze(4)) & (j < ends.unsqueeze(4)) & ~in.hidden.view({2, 1, 1, 1, 45});
  const auto logits = (0.3 * torch::matmul(in.q, wide_k.transpose(2, 3))).unsqueeze(3).masked_fill(~seen, -1e30);
  const auto empty = ~seen.any(-1);
  const auto want_lse = logits.logsumexp(-1).masked_fill(empty, -INFINITY);
  const auto weights = (logits - logits.logsumexp(-1, true)).exp() * seen;
  const auto want = torch::einsum("bhnrm,bhmd->bhnrd", {weights, wide_v});
  EXPECT_TRUE(torch::allclose(out, want, 0, 1e-12));
  EXPECT_TRUE(torch::allclose(lse, want_lse, 0, 1e-12));

  const auto g = torch::randn_like(out), h = torch::randn_like(lse).masked_fill(empty, 0);
  const auto loss = [&](const Tensor& o, const Tensor& l) {
    return (o * g).sum() + (l.masked_fill(empty, 0) * h).sum();
  };
  const auto got = torch::autograd::grad({loss(out, lse)}, leaves),
             expected = torch::autograd::grad({loss(want, want_lse)}, leaves);
  for (size_t i = 0; i < leaves.size(); ++i) EXPECT_TRUE(torch::allclose(got[i], expected[i], 0, 1e-12)) << i;
}

TEST(SpanAttentionOp, MetaTensorsGiveShapesAndGradients) {
  const auto meta = [](at::IntArrayRef size, torch::ScalarType type = torch::kBFloat16) {
    return torch::empty(size, torch::dtype(type).device(torch::kMeta));
  };
  const auto q = meta({1, 4, 9, 8}).requires_grad_(), k = meta({1, 2, 30, 8}), v = meta({1, 2, 30, 5});
  const auto run = meta({1, 4, 9, 2}, torch::kInt32);
  const auto result = span_attention(q, k, v, run, run);
  EXPECT_TRUE(result.out.is_meta());
  EXPECT_EQ(result.out.sizes(), at::IntArrayRef({1, 4, 9, 2, 5}));
  EXPECT_EQ(result.out.scalar_type(), torch::kBFloat16);
  EXPECT_EQ(result.lse.sizes(), at::IntArrayRef({1, 4, 9, 2}));
  EXPECT_EQ(torch::autograd::grad({result.out.sum()}, {q})[0].sizes(), q.sizes());
}

TEST(SpanAttentionOp, SaysWhatDoesNotFit) {
  Inputs in;
  const auto [begins, ends] = runs();
  EXPECT_THROW(span_attention(in.q, in.k, in.v, begins[0], ends), Error);
  EXPECT_THROW(span_attention(in.q, in.k[0], in.v, begins, ends), Error);
  EXPECT_THROW(span_attention(in.q, in.k, in.v, begins, ends + 45), Error);
  EXPECT_THROW(span_attention(in.q, in.k, in.v, begins, ends, 0, torch::zeros({2, 44}, torch::kBool)), Error);
  EXPECT_THROW(span_attention(in.q, in.k, in.v.to(torch::kInt32), begins, ends), Error);
}

}  // namespace
}  // namespace heed::ops::key_search_test
