// heed::ops::delta_chunk against a loop over tokens in torch, its gradients, and its refusals.
#include "heed/ops/delta_chunk.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::delta_chunk_test {
namespace {

using ops::delta_chunk;
using test::relative_error;
using torch::Tensor;

constexpr int64_t kBatch = 2, kHeads = 2, kD = 6, kDv = 5;

ops::DeltaChunkOutput token_loop(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& beta, const Tensor& g,
                                 const Tensor& initial_state, double scale) {
  const auto wide = [](const Tensor& x, int64_t t) { return x.select(2, t).unsqueeze(2).to(torch::kFloat64); };
  auto state = initial_state.to(torch::kFloat64);
  std::vector<Tensor> rows;
  for (int64_t t = 0; t < q.size(2); ++t) {
    if (g.defined()) state = wide(g, t).exp().unsqueeze(3) * state;
    const auto key = wide(k, t);
    const auto written = wide(beta, t).unsqueeze(3) * (wide(v, t) - torch::matmul(key, state));
    state = state + torch::matmul(key.transpose(2, 3), written);
    rows.push_back(scale * torch::matmul(wide(q, t), state));
  }
  return {torch::cat(rows, 2), state};
}

struct Inputs {
  Tensor q, k, v, beta, g, state;
};
Inputs inputs(int64_t tokens, torch::ScalarType dtype = torch::kFloat32) {
  torch::manual_seed(tokens);
  const auto random = [&](int64_t d) { return torch::randn({kBatch, kHeads, tokens, d}); };
  const auto keys = random(kD);
  return {random(kD).to(dtype),
          (keys / keys.norm(2, -1, true)).to(dtype),
          random(kDv).to(dtype),
          torch::rand({kBatch, kHeads, tokens}),
          -torch::rand({kBatch, kHeads, tokens}),
          torch::randn({kBatch, kHeads, kD, kDv})};
}

TEST(DeltaChunkOp, EqualsTheTokenLoopWithGradients) {
  for (const bool decays : {false, true})
    for (const int64_t tokens : {1, 7, 65, 130}) {
      SCOPED_TRACE(::testing::Message() << "decays " << decays << " T " << tokens);
      auto [q, k, v, beta, g, s] = inputs(tokens);
      if (!decays) g = Tensor();
      std::vector<Tensor> wanted{q, k, v, beta, s};
      if (decays) wanted.push_back(g);
      for (auto& x : wanted) x.requires_grad_();
      ops::DeltaChunkOptions options;
      options.scale = 0.7;
      const auto got = delta_chunk(q, k, v, beta, g, s, options), expected = token_loop(q, k, v, beta, g, s, 0.7);
      EXPECT_LT(relative_error(got.out, expected.out), test::kForwardTolerance);
      EXPECT_LT(relative_error(got.state, expected.state), test::kForwardTolerance);
      const auto a = torch::randn_like(got.out), b = torch::randn_like(got.state);
      const auto loss = [&](const ops::DeltaChunkOutput& result) {
        return (result.out * a).sum() + (result.state * b).sum();
      };
      const auto grads = torch::autograd::grad({loss(got)}, wanted);
      const auto reference = torch::autograd::grad({loss(expected)}, wanted);
      for (size_t i = 0; i < grads.size(); ++i)
        EXPECT_LT(relative_error(grads[i], reference[i]), test::kGradientTolerance) << i;
    }
}

TEST(DeltaChunkOp, TheLastValueOfAKeyCounts) {
  const auto k = torch::zeros({1, 1, 2, 4});
  k.select(3, 1).fill_(1);
  const auto v = torch::randn({1, 1, 2, 3});
  const auto result = delta_chunk(k, k, v, torch::ones({1, 1, 2}));
  EXPECT_LT(relative_error(result.out, v), 1e-6);
  EXPECT_LT(relative_error(result.state.select(2, 1), v.select(2, 1)), 1e-6);
}

TEST(DeltaChunkOp, SixteenBitTypesComeBackInTheirType) {
  for (const auto dtype : {torch::kBFloat16, torch::kFloat16}) {
    auto [q, k, v, beta, g, s] = inputs(40, dtype);
    k.requires_grad_();
    const auto result = delta_chunk(q, k, v, beta, g, s);
    EXPECT_EQ(result.out.scalar_type(), dtype);
    const double unit = dtype == torch::kBFloat16 ? std::exp2(-8.0) : std::exp2(-11.0);
    EXPECT_LT(relative_error(result.out, token_loop(q, k, v, beta, g, s, 1).out), unit);
    result.out.sum().backward();
    EXPECT_EQ(k.grad().scalar_type(), dtype);
  }
}

TEST(DeltaChunkOp, ShapesWithoutData) {
  const auto meta = torch::TensorOptions().device(torch::kMeta);
  const auto q = torch::empty({1, 4, 50, 8}, meta), beta = torch::empty({1, 4, 50}, meta);
  const auto result = delta_chunk(q, q, q, beta);
  EXPECT_EQ(result.out.sizes(), q.sizes());
  EXPECT_EQ(result.state.sizes(), at::IntArrayRef({1, 4, 8, 8}));
}

TEST(DeltaChunkOp, BadInputIsRefused) {
  auto [q, k, v, beta, g, s] = inputs(9);
  EXPECT_THROW(delta_chunk(q, k, v, Tensor()), Error);
  EXPECT_THROW(delta_chunk(q, k, v, beta.slice(2, 1)), Error);
  EXPECT_THROW(delta_chunk(q, k, v, beta, -g), Error);
  EXPECT_THROW(delta_chunk(q, k, v, beta, g.unsqueeze(3).expand({kBatch, kHeads, 9, kD})), Error);
  EXPECT_THROW(delta_chunk(q, k, v, beta, {}, s.slice(2, 1)), Error);
  ops::DeltaChunkOptions options;
  options.chunk = 0;
  EXPECT_THROW(delta_chunk(q, k, v, beta, {}, {}, options), Error);
}

}  // namespace
}  // namespace heed::delta_chunk_test
