// ops::selective_scan against a loop over time in torch, with torch's own gradients, and its refusals.
#include "heed/ops/selective_scan.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::ops::selective_scan_test {
namespace {

using test::relative_error;
using torch::Tensor;

struct Inputs {
  Tensor x, delta, A, B, C, D, z, bias, state;
  std::vector<Tensor> all() const { return {x, delta, A, B, C, D, z, bias, state}; }
};

Inputs inputs(int64_t tokens, bool complex, torch::ScalarType dtype = torch::kFloat32) {
  torch::manual_seed(tokens);
  const int64_t batch = 2, channels = 6, states = 4, groups = 3;
  auto with_pairs = [&](std::vector<int64_t> size) {
    if (complex) size.push_back(2);
    return torch::randn(size);
  };
  Inputs in{torch::randn({batch, tokens, channels}), torch::randn({batch, tokens, channels}),
            with_pairs({channels, states}),          with_pairs({batch, tokens, groups, states}),
            with_pairs({batch, tokens, 1, states}),  torch::randn({channels}),
            torch::randn({batch, tokens, channels}), torch::randn({channels}),
            with_pairs({batch, channels, states})};
  complex ? in.A.select(2, 0).abs_().neg_() : in.A.abs_().neg_();
  const auto side = dtype == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
  for (auto* t : {&in.x, &in.delta, &in.B, &in.C, &in.z}) *t = t->to(dtype).requires_grad_();
  for (auto* t : {&in.A, &in.D, &in.bias, &in.state}) *t = t->to(side).requires_grad_();
  return in;
}

/// The recurrence as torch operations.
SelectiveScanOutput loop(const Inputs& in, bool complex) {
  const auto number = [&](const Tensor& t) { return complex ? torch::view_as_complex(t.contiguous()) : t; };
  const int64_t channels = in.x.size(2);
  const auto delta = torch::softplus(in.delta + in.bias);
  const auto A = number(in.A), B = number(in.B).repeat_interleave(channels / in.B.size(2), 2),
             C = number(in.C).repeat_interleave(channels / in.C.size(2), 2);
  auto h = number(in.state);
  std::vector<Tensor> rows;
  for (int64_t t = 0; t < in.x.size(1); ++t) {
    const auto step = delta.select(1, t).unsqueeze(2);
    h = torch::exp(step * A) * h + step * in.x.select(1, t).unsqueeze(2) * B.select(1, t);
    const auto y = (h * C.select(1, t)).sum(2);
    rows.push_back(complex ? 2 * torch::real(y) : y);
  }
  return {(torch::stack(rows, 1) + in.D * in.x) * torch::silu(in.z), complex ? torch::view_as_real(h) : h};
}

TEST(SelectiveScanOp, EqualsALoopWithGradients) {
  for (const bool complex : {false, true}) {
    const auto in = inputs(33, complex, torch::kFloat32);
    const auto got = selective_scan(in.x, in.delta, in.A, in.B, in.C, in.D, in.z, in.bias, in.state, {true, {}});
    const auto want = loop(in, complex);
    EXPECT_EQ(got.state.sizes(), want.state.sizes());
    EXPECT_LT(relative_error(got.out, want.out), test::kForwardTolerance);
    EXPECT_LT(relative_error(got.state, want.state), test::kForwardTolerance);
    const auto d_out = torch::randn_like(want.out), d_state = torch::randn_like(want.state);
    const auto loss = [&](const SelectiveScanOutput& o) { return (o.out * d_out).sum() + (o.state * d_state).sum(); };
    const auto grads = torch::autograd::grad({loss(got)}, in.all()),
               wanted = torch::autograd::grad({loss(want)}, in.all());
    for (size_t i = 0; i < grads.size(); ++i)
      EXPECT_LT(relative_error(grads[i], wanted[i]), test::kGradientTolerance) << i << (complex ? " complex" : "");
  }
}

TEST(SelectiveScanOp, HalvesWithACarriedStateAreOneRun) {
  const auto in = inputs(20, false, torch::kFloat64);
  const auto whole = selective_scan(in.x, in.delta, in.A, in.B, in.C);
  const auto part = [&](int64_t from, int64_t to, const std::optional<Tensor>& state) {
    return selective_scan(in.x.slice(1, from, to), in.delta.slice(1, from, to), in.A, in.B.slice(1, from, to),
                          in.C.slice(1, from, to), {}, {}, {}, state);
  };
  const auto first = part(0, 7, {}), second = part(7, 20, first.state);
  EXPECT_LT(relative_error(torch::cat({first.out, second.out}, 1), whole.out), 1e-13);
  EXPECT_LT(relative_error(second.state, whole.state), 1e-13);
  // The gradient of the first half's inputs flows through the state.
  const auto through = torch::autograd::grad({second.out.sum() + first.out.sum()}, {in.x})[0];
  EXPECT_LT(relative_error(through, torch::autograd::grad({whole.out.sum()}, {in.x})[0]), 1e-12);
}

TEST(SelectiveScanOp, PackedSequencesDoNotSeeEachOther) {
  const auto in = inputs(12, false, torch::kFloat64);
  SelectiveScanOptions options;
  options.cu_seqlens = torch::tensor({0, 5, 12}, torch::kInt64);
  const auto packed = selective_scan(in.x.narrow(0, 0, 1), in.delta.narrow(0, 0, 1), in.A, in.B.narrow(0, 0, 1),
                                     in.C.narrow(0, 0, 1), {}, {}, {}, in.state, options);
  EXPECT_EQ(packed.state.size(0), 2);
  for (const auto& [s, begin, end] : {std::tuple<int64_t, int64_t, int64_t>{0, 0, 5}, {1, 5, 12}}) {
    const auto rows = [&, begin = begin, end = end](const Tensor& t) { return t.narrow(0, 0, 1).slice(1, begin, end); };
    const auto alone =
        selective_scan(rows(in.x), rows(in.delta), in.A, rows(in.B), rows(in.C), {}, {}, {}, in.state.narrow(0, s, 1));
    EXPECT_TRUE(torch::equal(packed.out.slice(1, begin, end), alone.out));
    EXPECT_TRUE(torch::equal(packed.state.narrow(0, s, 1), alone.state));
  }
}

TEST(SelectiveScanOp, SixteenBitTypesComeBackInTheirType) {
  for (const auto dtype : {torch::kBFloat16, torch::kFloat16}) {
    const auto in = inputs(16, false, dtype);
    const auto got = selective_scan(in.x, in.delta, in.A, in.B, in.C, in.D, in.z, in.bias, in.state, {true, {}});
    EXPECT_EQ(got.out.scalar_type(), dtype);
    EXPECT_EQ(got.state.scalar_type(), torch::kFloat32);
    auto wide = in;
    for (auto* t : {&wide.x, &wide.delta, &wide.B, &wide.C, &wide.z}) *t = t->to(torch::kFloat32);
    // One rounding of the output and none inside.
    const double unit = dtype == torch::kBFloat16 ? std::exp2(-8.0) : std::exp2(-11.0);
    EXPECT_LT(relative_error(got.out, loop(wide, false).out), unit);
    EXPECT_EQ(torch::autograd::grad({got.out.sum()}, {in.B})[0].scalar_type(), dtype);
  }
}

TEST(SelectiveScanOp, EmptySequencesAndTwiceDifferentiatedCalls) {
  const auto in = inputs(5, false);
  const auto none = selective_scan(in.x.slice(1, 0, 0), in.delta.slice(1, 0, 0), in.A, in.B.slice(1, 0, 0),
                                   in.C.slice(1, 0, 0), {}, {}, {}, in.state);
  EXPECT_EQ(none.out.sizes(), (std::vector<int64_t>{2, 0, 6}));
  EXPECT_TRUE(torch::equal(none.state, in.state));
  const auto out = selective_scan(in.x, in.delta, in.A, in.B, in.C).out;
  const auto grad = torch::autograd::grad({out.sum()}, {in.x}, {}, true, true)[0];
  EXPECT_THROW(grad.sum().backward(), std::exception);
}

TEST(SelectiveScanOp, MetaTensorsGiveShapes) {
  const auto meta = [](std::vector<int64_t> size) {
    return torch::empty(size, torch::TensorOptions().device(torch::kMeta));
  };
  const auto result = selective_scan(meta({2, 1000000, 64}), meta({2, 1000000, 64}), meta({64, 16}),
                                     meta({2, 1000000, 1, 16}), meta({2, 1000000, 1, 16}));
  EXPECT_TRUE(result.out.is_meta());
  EXPECT_EQ(result.out.sizes(), (std::vector<int64_t>{2, 1000000, 64}));
  EXPECT_EQ(result.state.sizes(), (std::vector<int64_t>{2, 64, 16}));
}

TEST(SelectiveScanOp, WrongShapesAreNamed) {
  const auto in = inputs(5, false);
  const auto refuse = [](const std::function<void()>& call, const std::string& word) {
    try {
      call();
      ADD_FAILURE() << "accepted: " << word;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
  };
  refuse([&] { selective_scan(in.x[0], in.delta, in.A, in.B, in.C); }, "x has 2 dimensions");
  refuse([&] { selective_scan(in.x, in.delta, in.A[0], in.B, in.C); }, "A has 1 dimensions");
  refuse([&] { selective_scan(in.x, in.delta, in.A, in.B.select(2, 0), in.C); }, "B has 3 dimensions");
  refuse([&] { selective_scan(in.x, in.delta, in.A, in.B, in.C, in.D.slice(0, 1)); }, "skip is [1, 1, 1, 5]");
  refuse([&] { selective_scan(in.x.to(torch::kInt64), in.delta, in.A, in.B, in.C); }, "Long");
  refuse([&] { selective_scan(in.x.to(torch::kFloat64), in.delta, in.A, in.B, in.C); }, "float64 call");
  refuse([&] { selective_scan(in.x, in.delta, torch::ones({6, 4, 3}), in.B, in.C); }, "ends in 3");
  SelectiveScanOptions options;
  options.cu_seqlens = torch::tensor({0, 5}, torch::kInt64);
  refuse([&] { selective_scan(in.x, in.delta, in.A, in.B, in.C, {}, {}, {}, {}, options); }, "batch of 2");
}

}  // namespace
}  // namespace heed::ops::selective_scan_test
