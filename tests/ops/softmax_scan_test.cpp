// ops::softmax_scan against causal attention of one repeated query, with torch's gradients, and its refusals.
#include "heed/ops/softmax_scan.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::ops::softmax_scan_test {
namespace {

using test::relative_error;
using torch::Tensor;

/// Every row of the scores is the same, the causal mask cuts it to prefixes.
SoftmaxScanOutput dense(const Tensor& scores, const Tensor& v) {
  const int64_t tokens = scores.size(2), heads = std::max(scores.size(1), v.size(1));
  const auto rows = scores.repeat_interleave(heads / scores.size(1), 1).unsqueeze(2).expand({-1, -1, tokens, -1});
  const auto masked = rows.masked_fill(torch::ones({tokens, tokens}, torch::kBool).triu(1), -INFINITY);
  return {torch::matmul(torch::softmax(masked, -1), v.repeat_interleave(heads / v.size(1), 1)),
          torch::logsumexp(masked, -1),
          {}};
}

TEST(SoftmaxScanOp, EqualsCausalAttentionOfOneQueryWithGradients) {
  for (const auto& [score_heads, value_heads] : {std::pair<int64_t, int64_t>{4, 4}, {4, 2}, {2, 4}}) {
    torch::manual_seed(score_heads * 10 + value_heads);
    const auto scores = (2 * torch::randn({2, score_heads, 70})).requires_grad_();
    const auto v = torch::randn({2, value_heads, 70, 9}).requires_grad_();
    const auto got = softmax_scan(scores, v), want = dense(scores, v);
    EXPECT_LT(relative_error(got.out, want.out), test::kForwardTolerance);
    EXPECT_LT(relative_error(got.lse, want.lse), test::kForwardTolerance);
    const auto d_out = torch::randn_like(want.out), d_lse = torch::randn_like(want.lse);
    const auto loss = [&](const SoftmaxScanOutput& o) { return (o.out * d_out).sum() + (o.lse * d_lse).sum(); };
    const auto grads = torch::autograd::grad({loss(got)}, {scores, v}),
               wanted = torch::autograd::grad({loss(want)}, {scores, v});
    for (size_t i = 0; i < 2; ++i) EXPECT_LT(relative_error(grads[i], wanted[i]), test::kGradientTolerance) << i;
  }
}

TEST(SoftmaxScanOp, StepsWithACarriedStateAreOneRun) {
  torch::manual_seed(2);
  const auto scores = torch::randn({2, 3, 11}, torch::kFloat64).requires_grad_(),
             v = torch::randn({2, 3, 11, 4}, torch::kFloat64).requires_grad_();
  const auto whole = softmax_scan(scores, v);
  std::optional<Tensor> state;
  std::vector<Tensor> rows;
  for (int64_t t = 0; t < 11; ++t) {
    const auto step = softmax_scan(scores.narrow(2, t, 1), v.narrow(2, t, 1), state);
    rows.push_back(step.out);
    state = step.state;
  }
  const auto out = torch::cat(rows, 2);
  EXPECT_LT(relative_error(out, whole.out), 1e-14);
  EXPECT_LT(relative_error(*state, whole.state), 1e-14);
  const auto d_out = torch::randn_like(out);
  const auto through = torch::autograd::grad({(out * d_out).sum()}, {scores, v}),
             at_once = torch::autograd::grad({(whole.out * d_out).sum()}, {scores, v});
  for (size_t i = 0; i < 2; ++i) EXPECT_LT(relative_error(through[i], at_once[i]), 1e-13) << i;
}

TEST(SoftmaxScanOp, PackedSequencesDoNotSeeEachOther) {
  torch::manual_seed(3);
  const auto scores = torch::randn({1, 2, 12}), v = torch::randn({1, 2, 12, 5});
  SoftmaxScanOptions options;
  options.cu_seqlens = torch::tensor({0, 5, 5, 12}, torch::kInt64);
  const auto packed = softmax_scan(scores, v, {}, options);
  EXPECT_EQ(packed.state.sizes(), (std::vector<int64_t>{3, 2, 7}));
  EXPECT_TRUE(torch::equal(packed.out.slice(2, 5), softmax_scan(scores.slice(2, 5), v.slice(2, 5)).out));
  EXPECT_TRUE(torch::equal(packed.out.slice(2, 0, 5), softmax_scan(scores.slice(2, 0, 5), v.slice(2, 0, 5)).out));
}

TEST(SoftmaxScanOp, RefusalsAndMeta) {
  const auto scores = torch::randn({1, 2, 12}), v = torch::randn({1, 2, 12, 5});
  EXPECT_THROW(softmax_scan(scores.unsqueeze(0), v), Error);
  EXPECT_THROW(softmax_scan(scores, v.slice(2, 1)), Error);
  EXPECT_THROW(softmax_scan(scores, v, torch::zeros({1, 2, 6})), Error);
  EXPECT_THROW(softmax_scan(scores.to(torch::kInt32), v), Error);
  const auto meta = torch::TensorOptions().device(torch::kMeta);
  const auto result = softmax_scan(torch::empty({2, 3, 1000000}, meta), torch::empty({2, 3, 1000000, 8}, meta));
  EXPECT_EQ(result.out.sizes(), (std::vector<int64_t>{2, 3, 1000000, 8}));
  EXPECT_EQ(result.state.sizes(), (std::vector<int64_t>{2, 3, 10}));
  auto grad_scores = scores.clone().requires_grad_();
  const auto grad = torch::autograd::grad({softmax_scan(grad_scores, v).out.sum()}, {grad_scores}, {}, true, true)[0];
  EXPECT_THROW(grad.sum().backward(), std::exception);
}

}  // namespace
}  // namespace heed::ops::softmax_scan_test
