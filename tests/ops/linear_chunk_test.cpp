// heed::ops::linear_chunk and its neighbours against plain torch, their gradients, and their refusals.
#include "heed/ops/linear_chunk.h"

#include <gtest/gtest.h>
#include <torch/library.h>

#include "heed/error.h"
#include "heed/kernels/runtime.h"
#include "support/gradient_check.h"
#include "support/torch_support.h"

namespace heed::linear_chunk_test {
namespace {

using ops::linear_chunk;
using test::relative_error;
using torch::Tensor;

constexpr int64_t kBatch = 2, kHeads = 4, kD = 6, kDv = 5;

Tensor repeated(const Tensor& x) { return x.repeat_interleave(kHeads / x.size(1), 1); }

/// (scale q_i exp(B_i - B_j)) . k_j over all pairs at once, in double; log_decay [B, H, T, D] or undefined.
ops::LinearChunkOutput parallel_form(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& log_decay,
                                     const Tensor& initial_state, double scale) {
  const int64_t t = q.size(2), d = q.size(3);
  const auto wide = [](const Tensor& x) { return x.to(torch::kFloat64); };
  const auto queries = repeated(wide(q)) * scale, keys = repeated(wide(k)), values = repeated(wide(v));
  const auto sums = log_decay.defined() ? wide(log_decay).expand({kBatch, kHeads, t, d}).cumsum(2)
                                        : torch::zeros({kBatch, kHeads, t, d}, torch::kFloat64);
  const auto future = torch::ones({t, t}, torch::kBool).triu(1).view({t, t, 1});
  const auto factors = (sums.unsqueeze(3) - sums.unsqueeze(2)).masked_fill(future, -INFINITY).exp();
  const auto weights = torch::einsum("bhic,bhjc,bhijc->bhij", {queries, keys, factors});
  auto out = torch::matmul(weights, values);
  const auto last = t > 0 ? sums.slice(2, t - 1) : torch::zeros({kBatch, kHeads, 1, d}, torch::kFloat64);
  auto state = torch::matmul((keys * (last - sums).exp()).transpose(2, 3), values);
  if (initial_state.defined()) {
    out = out + torch::matmul(queries * sums.exp(), wide(initial_state));
    state = state + last.exp().transpose(2, 3) * wide(initial_state);
  }
  return {out, state};
}

struct Inputs {
  Tensor q, k, v, state;
};
Inputs inputs(int64_t tokens, torch::ScalarType dtype = torch::kFloat32) {
  torch::manual_seed(tokens);
  const auto random = [&](int64_t heads, int64_t d) { return torch::randn({kBatch, heads, tokens, d}, dtype); };
  return {random(kHeads, kD), random(2, kD), random(1, kDv), torch::randn({kBatch, kHeads, kD, kDv})};
}

enum class Decay { none, constant, scalar, channel };

/// As the op takes it.
Tensor decay_of(Decay kind, int64_t tokens) {
  const auto negative = [](at::IntArrayRef size) { return -torch::rand(size) * 2; };
  switch (kind) {
    case Decay::constant:
      return negative({kHeads});
    case Decay::scalar:
      return negative({kBatch, 2, tokens});
    case Decay::channel:
      return negative({kBatch, kHeads, tokens, kD});
    default:
      return {};
  }
}

Tensor per_channel(const Tensor& g) {
  if (!g.defined() || g.dim() == 4) return g;
  return g.dim() == 1 ? g.view({1, -1, 1, 1}) : repeated(g).unsqueeze(3);
}

TEST(LinearChunkOp, EqualsTheParallelFormWithGradients) {
  for (const auto kind : {Decay::none, Decay::constant, Decay::scalar, Decay::channel})
    for (const int64_t tokens : {1, 7, 65, 130}) {
      SCOPED_TRACE(::testing::Message() << "decay " << int(kind) << " T " << tokens);
      auto [q, k, v, s] = inputs(tokens);
      auto g = decay_of(kind, tokens);
      std::vector<Tensor> wanted{q, k, v, s};
      if (g.defined()) wanted.push_back(g);
      for (auto& x : wanted) x.requires_grad_();
      ops::LinearChunkOptions options;
      options.scale = 0.7;
      options.segment = tokens == 130 ? 64 : 0;
      const auto got = linear_chunk(q, k, v, g, s, options);
      const auto expected = parallel_form(q, k, v, per_channel(g), s, 0.7);
      EXPECT_LT(relative_error(got.out, expected.out), test::kForwardTolerance);
      EXPECT_LT(relative_error(got.state, expected.state), test::kForwardTolerance);
      const auto loss = [](const ops::LinearChunkOutput& result, const Tensor& a, const Tensor& b) {
        return (result.out * a).sum() + (result.state * b).sum();
      };
      const auto a = torch::randn_like(got.out), b = torch::randn_like(got.state);
      const auto grads = torch::autograd::grad({loss(got, a, b)}, wanted);
      const auto reference = torch::autograd::grad({loss(expected, a, b)}, wanted);
      for (size_t i = 0; i < grads.size(); ++i)
        EXPECT_LT(relative_error(grads[i], reference[i]), test::kGradientTolerance) << i;
    }
}

TEST(LinearChunkOp, NormalizedWeightsSumToOne) {
  auto [q, k, v, s] = inputs(70);
  q = q.exp(), k = k.exp();
  const auto g = decay_of(Decay::scalar, 70);
  ops::LinearChunkOptions options;
  options.normalize = true;
  const auto out = linear_chunk(q, k, v, g, {}, options).out;
  const auto wide = torch::cat({v, torch::ones({kBatch, 1, 70, 1})}, -1);
  const auto sums = parallel_form(q, k, wide, per_channel(g), {}, 1).out;
  EXPECT_LT(relative_error(out, sums.slice(3, 0, kDv) / sums.slice(3, kDv)), test::kForwardTolerance);
  const auto ones = linear_chunk(q, k, torch::ones_like(v), g, {}, options).out;
  EXPECT_LT((ones - 1).abs().max().item<double>(), 1e-5);
}

TEST(LinearChunkOp, StatesJoinTheHalvesOfASequence) {
  auto [q, k, v, s] = inputs(45);
  const auto g = decay_of(Decay::channel, 45);
  const auto whole = linear_chunk(q, k, v, g, s);
  const auto cut = [](const Tensor& x, int64_t begin, int64_t end) { return x.slice(2, begin, end); };
  const auto first = linear_chunk(cut(q, 0, 20), cut(k, 0, 20), cut(v, 0, 20), cut(g, 0, 20), s);
  const auto second = linear_chunk(cut(q, 20, 45), cut(k, 20, 45), cut(v, 20, 45), cut(g, 20, 45), first.state);
  EXPECT_LT(relative_error(torch::cat({first.out, second.out}, 2), whole.out), test::kForwardTolerance);
  EXPECT_LT(relative_error(second.state, whole.state), test::kForwardTolerance);
}

TEST(LinearChunkOp, PackedSequencesAreSeparateRuns) {
  torch::manual_seed(5);
  const auto q = torch::randn({1, 2, 30, kD}), k = torch::randn({1, 2, 30, kD}), v = torch::randn({1, 2, 30, kDv});
  ops::LinearChunkOptions options;
  options.cu_seqlens = torch::tensor({0, 11, 11, 30});
  const auto packed = linear_chunk(q, k, v, {}, {}, options);
  EXPECT_EQ(packed.state.sizes(), at::IntArrayRef({3, 2, kD, kDv}));
  EXPECT_EQ(packed.state[1].abs().sum().item<double>(), 0);
  const auto last = linear_chunk(q.slice(2, 11), k.slice(2, 11), v.slice(2, 11));
  EXPECT_LT(relative_error(packed.out.slice(2, 11), last.out), test::kForwardTolerance);
  EXPECT_LT(relative_error(packed.state.slice(0, 2), last.state), test::kForwardTolerance);
}

TEST(LinearChunkOp, SixteenBitTypesComeBackInTheirType) {
  for (const auto dtype : {torch::kBFloat16, torch::kFloat16}) {
    auto [q, k, v, s] = inputs(40, dtype);
    q.requires_grad_();
    const auto g = decay_of(Decay::scalar, 40);
    const auto result = linear_chunk(q, k, v, g, s);
    EXPECT_EQ(result.out.scalar_type(), dtype);
    EXPECT_EQ(result.state.scalar_type(), torch::kFloat32);
    // One rounding of the output: half a unit in the last place.
    const double unit = dtype == torch::kBFloat16 ? std::exp2(-8.0) : std::exp2(-11.0);
    EXPECT_LT(relative_error(result.out, parallel_form(q, k, v, per_channel(g), s, 1).out), unit);
    result.out.sum().backward();
    EXPECT_EQ(q.grad().scalar_type(), dtype);
  }
}

TEST(LinearChunkOp, NoTokensPassTheStateOn) {
  auto [q, k, v, s] = inputs(0);
  const auto result = linear_chunk(q, k, v, {}, s);
  EXPECT_EQ(result.out.sizes(), at::IntArrayRef({kBatch, kHeads, 0, kDv}));
  EXPECT_TRUE(torch::equal(result.state, s));
}

TEST(LinearChunkOp, ShapesWithoutData) {
  const auto meta = torch::TensorOptions().device(torch::kMeta);
  const auto q = torch::empty({1, 4, 50, 8}, meta), k = torch::empty({1, 2, 50, 8}, meta);
  const auto result = linear_chunk(q, k, k);
  EXPECT_TRUE(result.out.is_meta());
  EXPECT_EQ(result.out.sizes(), at::IntArrayRef({1, 4, 50, 8}));
  EXPECT_EQ(result.state.sizes(), at::IntArrayRef({1, 4, 8, 8}));
}

TEST(LinearChunkOp, IsAnOperatorOfTorch) {
  auto [q, k, v, s] = inputs(9);
  q.requires_grad_();
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("heed::linear_chunk", "");
  torch::jit::Stack stack{q, k, v, c10::IValue(), s, c10::IValue(), 1.0, false, 1e-6, int64_t{64}, int64_t{0}};
  op.callBoxed(stack);
  EXPECT_TRUE(torch::equal(stack[0].toTensor(), linear_chunk(q, k, v, {}, s).out));
  EXPECT_TRUE(stack[0].toTensor().requires_grad());
}

TEST(LinearChunkOp, TwiceDifferentiatedIsRefused) {
  auto [q, k, v, s] = inputs(5);
  q.requires_grad_();
  const auto grad = torch::autograd::grad({linear_chunk(q, k, v, {}, s).out.pow(2).sum()}, {q}, {}, true, true)[0];
  EXPECT_THROW(grad.sum().backward(), std::exception);
}

TEST(LinearChunkOp, BadInputIsNamed) {
  auto [q, k, v, s] = inputs(9);
  const auto message = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing was thrown";
  };
  const auto holds = [](const std::string& text, const char* word) { return text.find(word) != std::string::npos; };
  EXPECT_PRED2(holds, message([&, q = q, k = k, v = v] { linear_chunk(q, k, v, torch::full({kHeads}, 0.25)); }),
               "log_decay is 0.25");
  EXPECT_PRED2(holds, message([&, q = q, k = k, v = v] {
                 linear_chunk(q, k, v, torch::zeros({kBatch, kHeads, 8}));
               }),
               "log_decay");
  EXPECT_PRED2(holds, message([&, q = q, k = k, v = v] {
                 linear_chunk(q, k, v, torch::zeros({kBatch, kHeads}));
               }),
               "log_decay");
  EXPECT_PRED2(holds, message([&, q = q, k = k, v = v, s = s] { linear_chunk(q, k, v, {}, s.transpose(2, 3)); }),
               "initial_state");
  EXPECT_PRED2(holds, message([&, q = q, k = k, v = v] { linear_chunk(q, k, v.to(torch::kFloat64)); }), "v is float64");
  EXPECT_PRED2(holds, message([&, q = q, k = k, v = v] { linear_chunk(q, k.slice(2, 1), v); }), "k");
  EXPECT_PRED2(holds, message([&, q = q, k = k, v = v] { linear_chunk(q.slice(1, 0, 3), k, v); }), "heads");
  EXPECT_PRED2(holds, message([&, q = q, k = k, v = v] { linear_chunk(q[0], k, v); }), "q");
  for (const int64_t chunk : {0, -3, 513}) {
    ops::LinearChunkOptions options;
    options.chunk = chunk;
    EXPECT_PRED2(holds, message([&, q = q, k = k, v = v] { linear_chunk(q, k, v, {}, {}, options); }), "chunks of");
  }
  ops::LinearChunkOptions packed;
  packed.cu_seqlens = torch::tensor({0, 9});
  EXPECT_PRED2(holds, message([&, q = q, k = k, v = v] { linear_chunk(q, k, v, {}, {}, packed); }), "batch of 2");
  q = q.slice(0, 0, 1), k = k.slice(0, 0, 1), v = v.slice(0, 0, 1);
  for (const auto& bounds : {torch::tensor({0, 5, 3, 9}), torch::tensor({1, 9}), torch::tensor({0, 8}),
                             torch::tensor({0.0, 9.0}), torch::tensor({0})}) {
    packed.cu_seqlens = bounds;
    EXPECT_PRED2(holds, message([&, q = q, k = k, v = v] { linear_chunk(q, k, v, {}, {}, packed); }), "cu_seqlens");
  }
}

TEST(LinearNoncausal, EqualsTheProductOfAllPairs) {
  torch::manual_seed(11);
  auto q = torch::rand({kBatch, kHeads, 9, kD}), k = torch::rand({kBatch, 2, 13, kD}),
       v = torch::randn({kBatch, 1, 13, kDv});
  auto padding = torch::zeros({kBatch, 13}, torch::kBool);
  padding.slice(1, 10).fill_(true);
  const auto weights = torch::matmul(q, repeated(k).transpose(2, 3)).masked_fill(padding.view({kBatch, 1, 1, 13}), 0);
  const auto plain = torch::matmul(weights, repeated(v));
  v.slice(2, 10).fill_(NAN);  // what nobody sees may be anything
  EXPECT_LT(relative_error(ops::linear_noncausal(q, k, v, padding), plain), test::kForwardTolerance);
  EXPECT_LT(relative_error(ops::linear_noncausal(q, k, v, padding, true), plain / weights.sum(-1, true)),
            test::kForwardTolerance);
  EXPECT_THROW(ops::linear_noncausal(q, k.slice(2, 1), v), Error);
  EXPECT_THROW(ops::linear_noncausal(q, k, v, padding.slice(1, 1)), Error);
}

TEST(LinearCoefficients, DecaysAreOneChoiceOfThem) {
  const int64_t chunks = 3, length = 8, tokens = chunks * length;
  torch::manual_seed(12);
  const auto random = [&](int64_t d) { return torch::randn({kBatch, kHeads, tokens, d}, torch::kFloat64); };
  const auto q = random(kD), k = random(kD), v = random(kDv),
             s = torch::randn({kBatch, kHeads, kD, kDv}, torch::kFloat64);
  const auto g = -torch::rand({kBatch, kHeads, tokens}, torch::kFloat64);
  const auto sums = g.unflatten(2, {chunks, length}).cumsum(3);
  const auto total = sums.select(3, length - 1);
  ops::LinearCoefficients c;
  // Above the diagonal it grows, and must not count.
  c.pairs = (sums.unsqueeze(4) - sums.unsqueeze(3)).exp().flatten(2, 3);
  c.reads = sums.exp().flatten(2, 3);
  c.writes = (total.unsqueeze(3) - sums).exp().flatten(2, 3);
  c.carries = total.exp();
  const auto got = ops::linear_coefficients(q, k, v, c, s), expected = linear_chunk(q, k, v, g, s);
  EXPECT_LT(relative_error(got.out, expected.out), 1e-12);
  EXPECT_LT(relative_error(got.state, expected.state), 1e-12);
  c.carries = c.carries.slice(2, 1);
  EXPECT_THROW(ops::linear_coefficients(q, k, v, c, s), Error);
}

TEST(LinearCoefficients, GradientsAreCentralDifferences) {
  torch::manual_seed(13);
  const auto options = torch::TensorOptions(torch::kFloat64).requires_grad(true);
  const auto random = [&](at::IntArrayRef sizes) { return torch::randn(sizes, options); };
  // Two heads that share coefficients and keys; a shorter last chunk; one carry for all chunks.
  const std::vector<Tensor> inputs{random({2, 2, 7, 3}), random({2, 1, 7, 3}), random({2, 2, 7, 4}),
                                   random({2, 1, 7, 3}), random({2, 1, 7}),    random({2, 1, 7}),
                                   random({2, 1, 1}),    random({2, 2, 3, 4})};
  test::expect_gradient(
      [&] {
        const auto& x = inputs;
        const auto result = ops::linear_coefficients(x[0], x[1], x[2], {x[3], x[4], x[5], x[6]}, x[7]);
        return torch::cat({result.out.flatten(), result.state.flatten()});
      },
      inputs);
}

}  // namespace
}  // namespace heed::linear_chunk_test
