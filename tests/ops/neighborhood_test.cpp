// ops::neighborhood, fused and written out, against masked softmax by torch with its gradients.
#include "heed/ops/neighborhood.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::ops::neighborhood_test {
namespace {

using test::relative_error;
using torch::Tensor;

std::vector<NeighborhoodOptions> some_grids() {
  std::vector<NeighborhoodOptions> grids(6);
  grids[0].grid = {23}, grids[0].window = {6};
  grids[1].grid = {9, 13}, grids[1].window = {3, 4};
  grids[2].grid = {8, 10}, grids[2].window = {4}, grids[2].stride = {2, 3}, grids[2].causal = {true, false};
  grids[3].grid = {11, 9}, grids[3].window = {3, 2}, grids[3].dilation = {3, 2};
  grids[4].grid = {4, 5, 7}, grids[4].window = {3, 2, 5}, grids[4].causal = {true};
  grids[5].grid = {6, 8}, grids[5].window = {6, 8};
  return grids;
}

/// bool [N, N].
Tensor visible(const NeighborhoodOptions& options) {
  const auto around = neighborhood_of(options);
  const int64_t tokens = around.tokens();
  auto mask = torch::zeros({tokens, tokens}, torch::kBool);
  auto at = mask.accessor<bool, 2>();
  for (int64_t i = 0; i < tokens; ++i)
    for (int64_t j = 0; j < tokens; ++j) at[i][j] = kernels::sees(around, i, j);
  return mask;
}

NeighborhoodOutput dense(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask) {
  const int64_t group = q.size(1) / k.size(1);
  const auto scores = torch::matmul(q, k.repeat_interleave(group, 1).transpose(2, 3)) / std::sqrt(double(q.size(3)));
  const auto hidden = scores.masked_fill(mask.logical_not(), -INFINITY);
  return {torch::matmul(torch::softmax(hidden, -1), v.repeat_interleave(group, 1)), torch::logsumexp(hidden, -1)};
}

Tensor written(const Tensor& q, const Tensor& k, const Tensor& v, const NeighborhoodOptions& options) {
  return neighborhood_av(torch::softmax(neighborhood_qk(q, k, options), -1), v, options);
}

TEST(NeighborhoodOp, FusedAndWrittenEqualMaskedSoftmaxWithGradients) {
  for (const auto dtype : {torch::kFloat32, torch::kFloat64}) {
    for (const auto& options : some_grids()) {
      torch::manual_seed(3);
      SCOPED_TRACE(testing::PrintToString(options.grid));
      const auto mask = visible(options);
      const int64_t tokens = mask.size(0);
      const auto q = torch::randn({2, 4, tokens, 9}, dtype).requires_grad_(),
                 k = torch::randn({2, 2, tokens, 9}, dtype).requires_grad_(),
                 v = torch::randn({2, 2, tokens, 5}, dtype).requires_grad_();
      const auto d_out = torch::randn({2, 4, tokens, 5}, dtype), d_lse = torch::randn({2, 4, tokens}, dtype);
      const auto want = dense(q, k, v, mask), got = neighborhood(q, k, v, options);
      const auto banded = written(q, k, v, options);
      EXPECT_LT(relative_error(got.out, want.out), test::kForwardTolerance);
      EXPECT_LT(relative_error(got.lse, want.lse), test::kForwardTolerance);
      EXPECT_LT(relative_error(banded, want.out), test::kForwardTolerance);
      const auto with_lse = [&](const NeighborhoodOutput& o) { return (o.out * d_out).sum() + (o.lse * d_lse).sum(); };
      const std::vector<Tensor> inputs{q, k, v};
      const auto wanted = torch::autograd::grad({with_lse(want)}, inputs, {}, true),
                 grads = torch::autograd::grad({with_lse(got)}, inputs);
      const auto wanted_out = torch::autograd::grad({(want.out * d_out).sum()}, inputs),
                 of_band = torch::autograd::grad({(banded * d_out).sum()}, inputs);
      for (size_t i = 0; i < 3; ++i) {
        EXPECT_LT(relative_error(grads[i], wanted[i]), test::kGradientTolerance) << i;
        EXPECT_LT(relative_error(of_band[i], wanted_out[i]), test::kGradientTolerance) << i;
      }
    }
  }
}

TEST(NeighborhoodOp, TokensBeyondTheGridAreSeenByAll) {
  torch::manual_seed(4);
  NeighborhoodOptions options;
  options.grid = {6, 7}, options.window = {3};
  options.key_padding = torch::zeros({2, 47}, torch::kBool);
  options.key_padding->index_put_({0, 45}, true);
  options.key_padding->index_put_({1, 3}, true);
  const auto q = torch::randn({2, 2, 42, 8}).requires_grad_(), k = torch::randn({2, 2, 47, 8}).requires_grad_(),
             v = torch::randn({2, 2, 47, 8}).requires_grad_();
  auto mask = torch::ones({2, 1, 42, 47}, torch::kBool);
  mask.slice(3, 0, 42) = visible(options);
  mask = mask.logical_and(options.key_padding->logical_not().view({2, 1, 1, 47}));
  const auto got = neighborhood(q, k, v, options), want = dense(q, k, v, mask);
  EXPECT_LT(relative_error(got.out, want.out), test::kForwardTolerance);
  const auto grads = torch::autograd::grad({got.out.square().sum()}, {q, k, v}),
             wanted = torch::autograd::grad({want.out.square().sum()}, {q, k, v});
  for (size_t i = 0; i < 3; ++i) EXPECT_LT(relative_error(grads[i], wanted[i]), test::kGradientTolerance) << i;
}

TEST(NeighborhoodOp, ASinkTakesWeightAndHasAGradient) {
  torch::manual_seed(5);
  NeighborhoodOptions options;
  options.grid = {5, 6}, options.window = {3};
  const auto q = torch::randn({1, 2, 30, 4}), k = torch::randn({1, 2, 30, 4}), v = torch::randn({1, 2, 30, 4});
  const auto sink = torch::randn({2}).requires_grad_();
  options.sink_logit = sink;
  const auto got = neighborhood(q, k, v, options);
  const auto scores = torch::matmul(q, k.transpose(2, 3)) / 2;
  const auto hidden = scores.masked_fill(visible(options).logical_not(), -INFINITY);
  const auto weights = torch::softmax(torch::cat({hidden, sink.view({1, 2, 1, 1}).expand({1, 2, 30, 1})}, -1), -1);
  const auto want = torch::matmul(weights.narrow(3, 0, 30), v);
  EXPECT_LT(relative_error(got.out, want), test::kForwardTolerance);
  const auto d_out = torch::randn_like(want);
  EXPECT_LT(relative_error(torch::autograd::grad({(got.out * d_out).sum()}, {sink})[0],
                           torch::autograd::grad({(want * d_out).sum()}, {sink})[0]),
            test::kGradientTolerance);
}

TEST(NeighborhoodOp, WeightsOfAnyKindSumTheWindow) {
  torch::manual_seed(6);
  NeighborhoodOptions options;
  options.grid = {7, 8}, options.window = {3};
  const auto v = torch::randn({2, 3, 56, 4});
  // One weight at the first entry of each window: its first row and column.
  auto weights = torch::zeros({2, 3, 56, 9});
  weights.select(3, 0).fill_(1);
  const auto out = neighborhood_av(weights, v, options);
  for (int64_t i = 0; i < 56; ++i) {
    const int64_t row = std::clamp<int64_t>(i / 8 - 1, 0, 4), column = std::clamp<int64_t>(i % 8 - 1, 0, 5);
    EXPECT_TRUE(torch::equal(out.select(2, i), v.select(2, row * 8 + column))) << i;
  }
  // Weights that add up to 1 keep a constant, at the borders too.
  const auto kernels = torch::softmax(torch::randn({2, 3, 56, 9}), -1);
  EXPECT_LT(relative_error(neighborhood_av(kernels, torch::ones_like(v), options), torch::ones_like(v)), 1e-6);
}

TEST(NeighborhoodOp, OffsetsNameRelativePositions) {
  NeighborhoodOptions options;
  options.grid = {5, 6}, options.window = {3, 2}, options.dilation = {1, 2};
  const auto offsets = neighborhood_offsets(options), wide = neighborhood_offsets(options, {5, 4});
  const auto around = neighborhood_of(options);
  const auto position = torch::stack({torch::arange(30).div(6, "floor"), torch::arange(30).remainder(6)}, 1);
  for (int64_t axis = 0; axis < 2; ++axis) {
    // Positions of keys by the band itself: a score of 1 times the coordinate.
    const auto at = position.select(1, axis).to(torch::kFloat64).view({1, 1, 30, 1});
    auto plain = options;
    plain.scale = 1;
    const auto keys = neighborhood_qk(torch::ones_like(at), at, plain)[0][0].to(torch::kInt64);
    const int64_t e = around.axes[axis].dilation, w = around.axes[axis].window;
    const auto relative = (keys - position.select(1, axis).unsqueeze(1)).div(e, "floor") + w - 1;
    const auto got = axis == 0 ? offsets.div(3, "floor") : offsets.remainder(3);
    EXPECT_TRUE(torch::equal(got, relative)) << axis;
    const int64_t more = axis == 0 ? 5 - w : 4 - w;
    const auto got_wide = axis == 0 ? wide.div(7, "floor") : wide.remainder(7);
    EXPECT_TRUE(torch::equal(got_wide, relative + more)) << axis;
  }
}

TEST(NeighborhoodOp, SmallTypesAndShapesWithoutValues) {
  NeighborhoodOptions options;
  options.grid = {6, 9}, options.window = {3};
  torch::manual_seed(7);
  const auto q = torch::randn({1, 2, 54, 16}), k = torch::randn({1, 2, 54, 16}), v = torch::randn({1, 2, 54, 16});
  for (const auto& [dtype, unit] :
       {std::pair{torch::kBFloat16, std::ldexp(1, -8)}, {torch::kFloat16, std::ldexp(1, -11)}}) {
    const auto a = q.to(dtype), b = k.to(dtype), c = v.to(dtype);
    const auto got = neighborhood(a, b, c, options);
    const auto want = neighborhood(a.to(torch::kFloat64), b.to(torch::kFloat64), c.to(torch::kFloat64), options);
    EXPECT_EQ(got.out.scalar_type(), dtype);
    EXPECT_LT(relative_error(got.out, want.out), 2 * unit);
    const auto banded = written(a, b, c, options);
    EXPECT_EQ(banded.scalar_type(), dtype);
    EXPECT_LT(relative_error(banded, want.out), 2 * unit);
  }
  const auto meta = neighborhood(q.to(torch::kMeta), k.to(torch::kMeta), v.to(torch::kMeta), options);
  EXPECT_EQ(meta.out.sizes(), q.sizes());
  EXPECT_EQ(neighborhood_qk(q.to(torch::kMeta), k.to(torch::kMeta), options).size(3), 9);
}

TEST(NeighborhoodOp, SaysWhatDoesNotFit) {
  const auto q = torch::randn({1, 2, 54, 16});
  const auto message = [&](const std::function<void(NeighborhoodOptions&)>& change) -> std::string {
    NeighborhoodOptions options;
    options.grid = {6, 9}, options.window = {3};
    change(options);
    try {
      neighborhood(q, q, q, options);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message([](auto&) {}), "");
  EXPECT_NE(message([](auto& o) {
              o.grid = {6, 8};
            }).find("54 queries and 54 keys for a grid of 48 cells"),
            std::string::npos);
  EXPECT_NE(message([](auto& o) { o.window = {7}; }).find("window 7 along axis 0 of 6 cells"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.stride = {4}; }).find("stride 4 along axis 0 of window 3"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.window = {3, 3, 3}; }).find("3 values of window"), std::string::npos);
  NeighborhoodOptions options;
  options.grid = {6, 9}, options.window = {3};
  EXPECT_THROW(neighborhood_av(torch::randn({1, 2, 54, 8}), q, options), Error);
  const auto out = neighborhood(torch::randn({1, 2, 54, 16}).requires_grad_(), q, q, options).out;
  EXPECT_TRUE(out.requires_grad());
}

}  // namespace
}  // namespace heed::ops::neighborhood_test
