// Cards of mamba, s4, s4d, ss2d and aaren: what each is by its formula.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "heed/ops/selective_scan.h"
#include "heed/ops/toeplitz_fft.h"
#include "mixers/linear/hippo.h"
#include "support/torch_support.h"

namespace heed::state_space_test {
namespace {

using test::relative_error;
using torch::Tensor;

std::shared_ptr<TokenMixer> in_double(const char* name, const nlohmann::json& config) {
  torch::manual_seed(7);
  auto mixer = make_mixer(name, config);
  mixer->to(torch::kFloat64);
  mixer->eval();
  return mixer;
}

Tensor forward(TokenMixer& mixer, const Tensor& x, MixerState* state = nullptr) {
  torch::NoGradGuard no_grad;
  MixerInput in;
  in.x = x;
  return mixer.forward(in, state);
}

Tensor in_steps(TokenMixer& mixer, const Tensor& x, const std::vector<int64_t>& counts) {
  auto state = mixer.make_state(x.size(0));
  std::vector<Tensor> parts;
  int64_t at = 0;
  for (const int64_t count : counts)
    parts.push_back(forward(mixer, x.slice(1, at, at + count), state.get())), at += count;
  return torch::cat(parts, 1);
}

// The scan's own limits, as the card of mamba states them.
struct ScanInputs {
  Tensor x, delta, a, b, c;
};
ScanInputs scan_inputs() {
  torch::manual_seed(3);
  const auto options = torch::kFloat64;
  return {torch::randn({2, 30, 4}, options), torch::rand({2, 30, 4}, options), -torch::rand({4, 3}, options),
          torch::randn({2, 30, 1, 3}, options), torch::randn({2, 30, 1, 3}, options)};
}

TEST(Mamba, AStepOfZeroFreezesTheState) {
  const auto in = scan_inputs();
  const auto state = torch::randn({2, 4, 3}, torch::kFloat64);
  const auto result = ops::selective_scan(in.x, torch::zeros_like(in.delta), in.a, in.b, in.c, {}, {}, {}, state);
  EXPECT_TRUE(torch::equal(result.state, state));
  EXPECT_LT(relative_error(result.out, torch::einsum("bdn,btn->btd", {state, in.c.squeeze(2)})), 1e-14);
}

TEST(Mamba, WithoutDecayItIsACumulativeSum) {
  const auto in = scan_inputs();
  const auto one = torch::ones({2, 30, 1, 1}, torch::kFloat64);
  const auto out =
      ops::selective_scan(in.x, torch::ones_like(in.x), torch::zeros({4, 1}, torch::kFloat64), one, one).out;
  EXPECT_LT(relative_error(out, in.x.cumsum(1)), 1e-14);
}

TEST(Mamba, ConstantCoefficientsAreAConvolution) {
  const auto in = scan_inputs();
  const auto b = in.b.narrow(1, 0, 1).narrow(0, 0, 1), c = in.c.narrow(1, 0, 1).narrow(0, 0, 1);
  const auto step = in.delta[0][0];  // [D]
  const auto out = ops::selective_scan(in.x, step.expand_as(in.x).contiguous(), in.a,
                                       b.expand({2, 30, 1, 3}).contiguous(), c.expand({2, 30, 1, 3}).contiguous())
                       .out;
  const auto powers = torch::exp(torch::arange(30, torch::kFloat64).view({-1, 1, 1}) * step.unsqueeze(1) * in.a);
  const auto kernel = (powers * b.view({1, 1, 3}) * c.view({1, 1, 3})).sum(2) * step;
  EXPECT_LT(relative_error(out, ops::toeplitz_fft(kernel.unsqueeze(0), in.x, true)), 1e-12);
}

TEST(Mamba, StartsAsItsPaperSays) {
  auto mixer = make_mixer("mamba", {{"dim", 32}, {"state_dim", 16}});
  auto parameters = mixer->named_parameters();
  const auto step = torch::softplus(parameters["ahead.ssm.step_bias"]);
  EXPECT_GE(step.min().item<double>(), 0.999e-3);
  EXPECT_LE(step.max().item<double>(), 1.001e-1);
  EXPECT_LT(relative_error(torch::exp(parameters["ahead.ssm.a_log"][5]), torch::arange(1, 17)), 1e-6);
  EXPECT_TRUE(torch::equal(parameters["ahead.ssm.skip"], torch::ones({64})));
  EXPECT_THROW(make_mixer("mamba", {{"state_dim", 0}}), Error);
}

TEST(Mamba, BothDirectionsSeeEverything) {
  auto mixer = in_double("mamba", {{"dim", 8}, {"state_dim", 4}, {"causal", false}});
  auto x = torch::randn({1, 12, 8}, torch::kFloat64);
  const auto before = forward(*mixer, x);
  x[0][7].add_(1);
  const auto changed = (forward(*mixer, x) - before).abs().amax(2)[0];
  EXPECT_GT(changed.min().item<double>(), 0);
  EXPECT_THROW(mixer->make_state(1), Error);
}

TEST(Mamba, PaddedTokensNeitherWriteNorLetTimePass) {
  auto mixer = in_double("mamba", {{"dim", 8}, {"state_dim", 4}, {"conv", 1}});
  const auto x = torch::randn({1, 10, 8}, torch::kFloat64);
  MixerInput in;
  in.x = x;
  in.key_padding = torch::zeros({1, 10}, torch::kBool);
  in.key_padding->slice(1, 3, 6).fill_(true);
  torch::NoGradGuard no_grad;
  const auto with = mixer->forward(in);
  const auto without = forward(*mixer, torch::cat({x.slice(1, 0, 3), x.slice(1, 6)}, 1));
  EXPECT_LT(relative_error(with.slice(1, 6), without.slice(1, 3)), 1e-13);
}

TEST(S4, HippoIsNormalButForOneRank) {
  for (const int64_t states : {2, 8, 64}) {
    const auto a = linear::hippo_matrix(states);
    const auto n = torch::arange(states, torch::kFloat64), p = torch::sqrt(n + 0.5), b = torch::sqrt(2 * n + 1);
    const auto rest = a + p.unsqueeze(1) * p.unsqueeze(0) + 0.5 * torch::eye(states, torch::kFloat64);
    EXPECT_LT((rest + rest.t()).abs().max().item<double>(), 1e-12 * states);
    // The same moments p^T A^l b in both bases.
    const auto hippo = linear::hippo_legs(states);
    const auto whole = [](const Tensor& t) { return torch::cat({t, torch::conj(t)}); };
    const auto p_basis = whole(hippo.p), diagonal = whole(hippo.eigenvalues);
    auto v = b, v_basis = whole(hippo.b);
    for (int l = 0; l < 4; ++l) {
      const double moment = p.dot(v).item<double>();
      EXPECT_NEAR(torch::real((torch::conj(p_basis) * v_basis).sum()).item<double>(), moment, 1e-9 * std::fabs(moment));
      v = torch::mv(a, v);
      v_basis = diagonal * v_basis - p_basis * (torch::conj(p_basis) * v_basis).sum();
    }
    EXPECT_LT(torch::real(hippo.eigenvalues).max().item<double>(), 0);
  }
}

TEST(S4, EveryStepShrinksItsStates) {
  auto mixer = in_double("s4", {{"dim", 3}, {"state_dim", 16}, {"output", "none"}});
  torch::NoGradGuard no_grad;
  auto parameters = mixer->named_parameters();
  const auto whole = [](const Tensor& t) { return torch::cat({t, torch::conj(t)}, 1); };
  const auto lambda = whole(torch::complex(-torch::exp(parameters["log_decay"][0]), parameters["frequency"][0]));
  const auto p = whole(torch::view_as_complex(parameters["p"][0].contiguous()));
  const auto identity = torch::eye(16, torch::kComplexDouble);
  for (const double step : {1e-3, 1e-1, 10.0}) {
    const auto half = step / 2 * (torch::diag_embed(lambda) - p.unsqueeze(2) * torch::conj(p).unsqueeze(1));
    const auto discrete = torch::matmul(torch::linalg_inv(identity - half), identity + half);
    EXPECT_LT(torch::linalg_eigvals(discrete).abs().max().item<double>(), 1) << step;
  }
  // And so does what an impulse leaves behind: the slowest rate of HiPPO, -1, is 0.95 / 1.05 a step of 0.1.
  parameters["log_step"].fill_(std::log(0.1)), parameters["skip"].zero_();
  auto state = mixer->make_state(1);
  forward(*mixer, torch::ones({1, 1, 3}, torch::kFloat64), state.get());
  forward(*mixer, torch::zeros({1, 2000, 3}, torch::kFloat64), state.get());
  EXPECT_LT(dynamic_cast<RecurrentState&>(*state).slots[0].abs().max().item<double>(), 1e-12);
}

// The kernel from the generating function, at even lengths with z = -1 among its points, against the recurrence.
TEST(S4, ConvolutionIsTheRecurrence) {
  auto mixer = in_double("s4", {{"dim", 3}, {"state_dim", 16}});
  for (const int64_t tokens : {1, 2, 33, 64}) {
    const auto x = torch::randn({2, tokens, 3}, torch::kFloat64);
    EXPECT_LT(relative_error(in_steps(*mixer, x, std::vector<int64_t>(tokens, 1)), forward(*mixer, x)), 1e-9) << tokens;
  }
}

// Pieces of a long sequence, and of what follows a state, give what its tokens give one by one, gradients too.
TEST(S4, PiecesAreTheWalk) {
  auto mixer = in_double("s4", {{"dim", 3}, {"state_dim", 16}});
  const auto x = torch::randn({2, 600, 3}, torch::kFloat64), whole = forward(*mixer, x);
  EXPECT_LT(relative_error(in_steps(*mixer, x, {600}), whole), 1e-9);
  EXPECT_LT(relative_error(in_steps(*mixer, x, {300, 1, 7, 292}), whole), 1e-9);
  const auto gradients = [&](const std::vector<int64_t>& counts) {
    mixer->zero_grad();
    auto state = mixer->make_state(2);
    Tensor sum = torch::zeros({}, torch::kFloat64);
    int64_t at = 0;
    for (const int64_t count : counts) {
      MixerInput in;
      in.x = x.slice(1, at, at + count);
      sum = sum + mixer->forward(in, state.get()).square().sum();
      at += count;
    }
    sum.backward();
    std::vector<Tensor> all;
    for (auto& parameter : mixer->parameters()) all.push_back(parameter.grad().clone().flatten());
    return torch::cat(all);
  };
  EXPECT_LT(relative_error(gradients({20, 20}), gradients(std::vector<int64_t>(4, 10))), 1e-8);
}

TEST(S4d, ConvolutionIsTheRecurrence) {
  for (const char* init : {"lin", "inv", "real"}) {
    auto mixer = in_double("s4d", {{"dim", 3}, {"state_dim", 8}, {"init", init}});
    const auto x = torch::randn({2, 600, 3}, torch::kFloat64), whole = forward(*mixer, x);
    EXPECT_LT(relative_error(in_steps(*mixer, x, {600}), whole), 1e-11) << init;
    EXPECT_LT(relative_error(in_steps(*mixer, x, {300, 1, 1, 298}), whole), 1e-11) << init;
  }
}

// A tiny step leaves (exp(dt A) - 1) / A to be dt, in float32 too.
TEST(S4d, TinyStepsKeepTheirPrecision) {
  const nlohmann::json config{{"dim", 6}, {"state_dim", 8}, {"min_step", 1e-7}, {"max_step", 1e-6}, {"output", "none"}};
  auto wide = in_double("s4d", config);
  torch::manual_seed(7);
  auto mixer = make_mixer("s4d", config);
  torch::NoGradGuard no_grad;
  for (auto& entry : mixer->named_parameters())
    if (entry.key() == "skip") entry.value().zero_();
  for (auto& entry : wide->named_parameters())
    if (entry.key() == "skip") entry.value().zero_();
  const auto x = torch::rand({1, 40, 6});
  EXPECT_LT(relative_error(forward(*mixer, x), forward(*wide, x.to(torch::kFloat64))), 1e-5);
}

TEST(S4d, TwiceTheStepIsTwiceTheTime) {
  auto mixer = in_double("s4d", {{"dim", 4}, {"state_dim", 8}, {"output", "none"}, {"max_step", 0.01}});
  torch::NoGradGuard no_grad;
  auto parameters = mixer->named_parameters();
  parameters["skip"].zero_();
  const auto x = torch::randn({1, 50, 4}, torch::kFloat64);
  const auto slow = forward(*mixer, x.repeat_interleave(2, 1)).slice(1, 1, 100, 2);
  parameters["log_step"].add_(std::log(2.0));
  // Zero-order hold is exact for inputs that stand still.
  EXPECT_LT(relative_error(slow, forward(*mixer, x)), 1e-11);
}

MixerInput image(int64_t height, int64_t width, int64_t dim) {
  MixerInput in;
  in.x = torch::randn({1, height * width, dim}, torch::kFloat64);
  in.grid = Grid{{height, width}};
  return in;
}

TEST(Ss2d, EveryCellSeesAllOthersAlongFourPathsAndHalfAlongOne) {
  for (const auto& [paths, all] :
       {std::pair{"cross", true}, {"snake", true}, {"bidirectional", true}, {"single", false}}) {
    auto mixer = in_double("ss2d", {{"dim", 6}, {"state_dim", 2}, {"paths", paths}, {"conv", 0}});
    auto in = image(5, 3, 6);
    in.x.requires_grad_();
    const auto grad = torch::autograd::grad({mixer->forward(in)[0][7].sum()}, {in.x})[0].abs().amax(2)[0];
    for (int64_t cell = 0; cell < 15; ++cell)
      EXPECT_EQ(grad[cell].item<double>() > 0, all || cell <= 7) << paths << cell;
  }
}

// Rows and columns exchange their weights when the image is transposed.
TEST(Ss2d, TransposedImagesWithExchangedPathsGiveTransposedOutputs) {
  auto mixer = in_double("ss2d", {{"dim", 6}, {"state_dim", 2}, {"conv", 0}});
  auto in = image(4, 3, 6);
  torch::NoGradGuard no_grad;
  const auto out = mixer->forward(in);
  const auto transposed = [](const Tensor& x, int64_t height, int64_t width) {
    return x.view({1, height, width, -1}).transpose(1, 2).flatten(1, 2);
  };
  const auto exchange = torch::tensor({1, 0, 3, 2}, torch::kInt64);
  for (auto& entry : mixer->named_parameters()) {
    if (entry.key().rfind("ssm.", 0) != 0) continue;
    auto by_path = entry.value().unflatten(0, {4, entry.value().size(0) / 4});
    entry.value().copy_(by_path.index_select(0, exchange).flatten(0, 1));
  }
  MixerInput turned;
  turned.x = transposed(in.x, 4, 3), turned.grid = Grid{{3, 4}};
  EXPECT_LT(relative_error(mixer->forward(turned), transposed(out, 4, 3)), 1e-13);
}

TEST(Ss2d, WithoutAGridItIsRefused) {
  auto mixer = in_double("ss2d", {{"dim", 6}});
  EXPECT_THROW(forward(*mixer, torch::randn({1, 12, 6}, torch::kFloat64)), Error);
  EXPECT_THROW(make_mixer("ss2d", {{"conv", 2}}), Error);
  EXPECT_THROW(make_mixer("ss2d", {{"paths", "spiral"}}), Error);
}

TEST(Aaren, IsCausalAttentionOfOneQueryRepeated) {
  auto mixer = in_double("aaren", {{"dim", 12}, {"heads", 3}});
  torch::NoGradGuard no_grad;
  auto parameters = mixer->named_parameters();
  // Scores of +-100 and more.
  parameters["query"].mul_(1e7);
  const auto x = torch::randn({2, 21, 12}, torch::kFloat64);
  const auto heads = [](const Tensor& t) { return t.unflatten(2, {3, 4}).transpose(1, 2); };
  const auto q = torch::matmul(parameters["q_proj.weight"], parameters["query"]).expand({2, 21, 12});
  const auto k = torch::matmul(x, parameters["k_proj.weight"].t()),
             v = torch::matmul(x, parameters["v_proj.weight"].t());
  auto scores = torch::matmul(heads(q), heads(k).transpose(2, 3)) / 2.0;
  EXPECT_GT(scores.abs().max().item<double>(), 100);
  scores = scores.masked_fill(torch::ones({21, 21}, torch::kBool).triu(1), -INFINITY);
  const auto mixed = torch::matmul(torch::softmax(scores, -1), heads(v)).transpose(1, 2).flatten(2);
  const auto want = torch::matmul(mixed, parameters["o_proj.weight"].t());
  const auto got = forward(*mixer, x);
  EXPECT_LT(relative_error(got, want), 1e-10);
  // The first token sees itself alone.
  EXPECT_LT(relative_error(got.select(1, 0), torch::matmul(v.select(1, 0), parameters["o_proj.weight"].t())), 1e-13);
  EXPECT_LT(relative_error(in_steps(*mixer, x, {5, 1, 15}), want), 1e-10);
  EXPECT_THROW(make_mixer("aaren", {{"causal", false}}), Error);
}

}  // namespace
}  // namespace heed::state_space_test
