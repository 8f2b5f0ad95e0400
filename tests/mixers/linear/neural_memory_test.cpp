// The memory of Titans: its chunks against a loop over tokens, and what it must reduce to.
#include <gtest/gtest.h>

#include "heed/ops/delta_chunk.h"
#include "mixers/linear/linear_support.h"
#include "mixers/linear/neural_memory.h"
#include "support/gradient_check.h"

namespace heed::linear::neural_memory_test {
namespace {

using test::in_parts;
using test::kDouble;
using test::relative_error;
using test::wide_mixer;
using torch::Tensor;

const auto kWide = torch::TensorOptions(torch::kFloat64);

MemoryWeights random_memory(const std::vector<int64_t>& widths) {
  MemoryWeights memory;
  for (size_t l = 0; l + 1 < widths.size(); ++l) {
    memory.weights.push_back(torch::randn({1, 2, widths[l], widths[l + 1]}, kWide) * 0.4);
    memory.momenta.push_back(torch::randn({1, 2, widths[l], widths[l + 1]}, kWide) * 0.1);
  }
  return memory;
}

MemoryGates random_gates(int64_t tokens) {
  const auto draw = [&](double top) { return torch::rand({1, 2, tokens}, kWide) * top; };
  return {draw(0.2), draw(1), draw(0.5), torch::ones({1, 2, tokens}, kWide)};
}

/// One gradient a token, all of them at the weights of the chunk's start, by libtorch's autograd.
Tensor token_loop(MemoryWeights& memory, const Tensor& q, const Tensor& k, const Tensor& v, const MemoryGates& g,
                  const MemoryForm& form) {
  std::vector<Tensor> start, reads;
  for (const auto& w : memory.weights) start.push_back(w.detach().clone().requires_grad_());
  for (int64_t t = 0; t < q.size(2); ++t) {
    const auto row = [&](const Tensor& x) { return x.narrow(2, t, 1); };
    const auto at = [&](const Tensor& x) { return x.select(2, t).view({1, 2, 1, 1}); };
    if (g.keep.select(2, t).max().item<double>() > 0) {
      const auto loss = (memory_read(start, row(k), form) - row(v)).square().sum();
      const auto grads = torch::autograd::grad({loss}, start);
      for (size_t l = 0; l < start.size(); ++l) {
        memory.momenta[l] = at(g.eta) * memory.momenta[l] - at(g.theta) * grads[l];
        memory.weights[l] = (1 - at(g.alpha)) * memory.weights[l] + memory.momenta[l];
      }
    }
    reads.push_back(memory_read(memory.weights, row(q), form));
  }
  return torch::cat(reads, 2);
}

/// Every activation, with and without a residual.
std::vector<MemoryForm> forms() {
  const auto gain = torch::rand({2, 1, 5}, kWide) + 0.5, bias = torch::randn({2, 1, 5}, kWide);
  return {{false, {}, {}}, {true, {}, {}}, {false, gain, bias}, {true, gain, bias}};
}

TEST(NeuralMemory, ReadsThroughItsLayers) {
  torch::manual_seed(7);
  const auto memory = random_memory({5, 9, 5});
  const auto x = torch::randn({1, 2, 6, 5}, kWide);
  for (const auto& form : forms()) {
    const auto inner = torch::matmul(x, memory.weights[0]);
    auto out = torch::matmul(form.silu ? torch::silu(inner) : torch::gelu(inner), memory.weights[1]);
    if (form.gain.defined()) out = x + torch::layer_norm(out, {5}) * form.gain + form.bias;
    EXPECT_LT(relative_error(memory_read(memory.weights, x, form), out), kDouble) << form.silu;
  }
}

TEST(NeuralMemory, ChunkIsALoopOverTokens) {
  torch::manual_seed(1);
  for (const auto& form : forms())
    for (const auto& widths : {std::vector<int64_t>{5, 5}, {5, 9, 5}, {5, 7, 6, 5}}) {
      for (const int64_t tokens : {1, 2, 13}) {
        auto memory = random_memory(widths), looped = memory;
        const auto draw = [&] { return torch::randn({1, 2, tokens, 5}, kWide); };
        const auto q = draw(), k = draw(), v = draw();
        auto gates = random_gates(tokens);
        if (tokens > 5) gates.keep.select(2, 4).zero_();
        const auto read = memory_chunk(memory, q, k, v, gates, form),
                   expected = token_loop(looped, q, k, v, gates, form);
        EXPECT_LT(relative_error(read, expected), kDouble) << widths.size() << " layers, " << tokens << " tokens";
        for (size_t l = 0; l < memory.weights.size(); ++l) {
          EXPECT_LT(relative_error(memory.weights[l], looped.weights[l]), kDouble);
          EXPECT_LT(relative_error(memory.momenta[l], looped.momenta[l]), kDouble);
        }
      }
    }
}

TEST(NeuralMemory, AMatrixTokenByTokenIsTheDeltaRule) {
  torch::manual_seed(2);
  const int64_t tokens = 12;
  const auto draw = [&] { return torch::randn({1, 2, tokens, 4}, kWide) * 0.5; };
  const auto q = draw(), k = draw(), v = draw();
  auto gates = random_gates(tokens);
  gates.eta.zero_(), gates.alpha.zero_();
  MemoryWeights memory{{torch::zeros({1, 2, 4, 4}, kWide)}, {torch::zeros({1, 2, 4, 4}, kWide)}};
  std::vector<Tensor> reads;
  for (int64_t t = 0; t < tokens; ++t) {
    const auto row = [&](const Tensor& x) { return x.narrow(2, t, 1); };
    reads.push_back(memory_chunk(memory, row(q), row(k), row(v),
                                 {row(gates.theta), row(gates.eta), row(gates.alpha), row(gates.keep)}));
  }
  const auto delta = ops::delta_chunk(q, k, v, 2 * gates.theta);
  EXPECT_LT(relative_error(torch::cat(reads, 2), delta.out), kDouble);
  EXPECT_LT(relative_error(memory.weights[0], delta.state), kDouble);
}

TEST(NeuralMemory, OrthonormalKeysComeBackExactly) {
  torch::manual_seed(3);
  const auto k = torch::eye(4, kWide).view({1, 1, 4, 4}).expand({1, 2, 4, 4}), v = torch::randn({1, 2, 4, 4}, kWide);
  MemoryWeights memory{{torch::zeros({1, 2, 4, 4}, kWide)}, {torch::zeros({1, 2, 4, 4}, kWide)}};
  const auto zero = torch::zeros({1, 2, 1}, kWide), half = torch::full({1, 2, 1}, 0.5, kWide), one = zero + 1;
  for (int64_t t = 0; t < 4; ++t)
    memory_chunk(memory, k.narrow(2, t, 1), k.narrow(2, t, 1), v.narrow(2, t, 1), {half, zero, zero, one});
  EXPECT_LT(relative_error(memory_read(memory.weights, k), v), kDouble);
}

TEST(NeuralMemory, FullForgettingLeavesTheMomentum) {
  torch::manual_seed(4);
  auto memory = random_memory({4, 4});
  const auto draw = [&] { return torch::randn({1, 2, 6, 4}, kWide); };
  auto gates = random_gates(6);
  gates.alpha.fill_(1);
  memory_chunk(memory, draw(), draw(), draw(), gates);
  EXPECT_LT(relative_error(memory.weights[0], memory.momenta[0]), kDouble);
}

// What a memory learns in one chunk changes what it reads in the next.
TEST(NeuralMemory, GradientsRunThroughTwoChunks) {
  torch::manual_seed(8);
  for (const char* activation : {"gelu", "silu"})
    for (const bool residual : {false, true}) {
      auto mixer = wide_mixer("titans_memory", {{"dim", 8},
                                                {"heads", 2},
                                                {"chunk", 3},
                                                {"memory_expand", 2},
                                                {"largest_step", 0.3},
                                                {"memory_activation", activation},
                                                {"memory_residual", residual}});
      {
        torch::NoGradGuard no_grad;
        for (auto& parameter : mixer->parameters()) parameter.add_(torch::randn_like(parameter) * 0.2);
      }
      auto inputs = mixer->parameters();
      inputs.push_back(torch::randn({2, 7, 8}, kWide).requires_grad_());
      const auto x = inputs.back();
      test::expect_gradient([&] { return mixer->forward({.x = x}).slice(1, 3); }, inputs);
      const auto first = torch::autograd::grad({mixer->forward({.x = x}).slice(1, 6).sum()}, {x})[0].slice(1, 0, 2);
      EXPECT_GT(first.abs().max().item<double>(), 0);
    }
}

TEST(Titans, WithoutAMemoryIsPlainAttention) {
  torch::manual_seed(5);
  auto titans =
      make_mixer("titans", {{"dim", 24}, {"heads", 4}, {"layout", "attention"}, {"persistent", 0}, {"window", 64}});
  auto dense = make_mixer("dense", {{"dim", 24}, {"heads", 4}});
  titans->eval(), dense->eval(), titans->to(torch::kFloat64), dense->to(torch::kFloat64);
  {
    torch::NoGradGuard no_grad;
    auto target = dense->named_parameters();
    for (auto& entry : titans->named_parameters())
      if (auto* found = target.find(entry.key())) found->copy_(entry.value());
    target["o_proj.weight"].copy_(torch::eye(24, kWide));
  }
  MixerInput in;
  in.x = torch::randn({2, 40, 24}, kWide);
  const auto heads = dense->forward(in);
  const auto normed = heads * torch::rsqrt(heads.square().mean(2, true) + 1e-5);
  const auto expected = torch::matmul(normed, titans->named_parameters()["o_proj.weight"].t());
  EXPECT_LT(relative_error(titans->forward(in), expected), kDouble);
}

/// A mixer whose memory holds nothing and learns nothing, in double.
std::shared_ptr<TokenMixer> forgetful(const char* layout, const char* gate) {
  auto mixer = wide_mixer("titans", {{"dim", 12},
                                     {"heads", 2},
                                     {"chunk", 4},
                                     {"layout", layout},
                                     {"window", 5},
                                     {"persistent", 3},
                                     {"gate", gate},
                                     {"largest_step", 0.0}});
  torch::NoGradGuard no_grad;
  for (auto& entry : mixer->named_parameters())
    if (entry.key().starts_with("memory.memory_")) entry.value().zero_();
  return mixer;
}

TEST(Titans, AnEmptyMemoryLeavesItsGateHalfOpenOrShut) {
  torch::manual_seed(9);
  torch::NoGradGuard no_grad;
  const MixerInput in = test::random_tokens(2, 14, 12);
  auto gated = forgetful("gate", "sigmoid");
  auto attention =
      wide_mixer("titans", {{"dim", 12}, {"heads", 2}, {"layout", "attention"}, {"window", 5}, {"persistent", 3}});
  test::copy_weights(*attention, *gated);
  EXPECT_LT(relative_error(2 * gated->forward(in), attention->forward(in)), kDouble);
  // silu(0) = 0
  EXPECT_EQ(forgetful("gate", "silu")->forward(in).abs().max().item<double>(), 0);
  EXPECT_EQ(forgetful("context", "silu")->forward(in).abs().max().item<double>(), 0);
}

// Of an empty memory every h is 0: a key and a value of 0 beside each token of the segment.
TEST(Titans, ContextIsAttentionInSegmentsBesideWhatIsRemembered) {
  torch::manual_seed(10);
  torch::NoGradGuard no_grad;
  auto mixer = forgetful("context", "sigmoid");
  auto p = mixer->named_parameters();
  const auto in = test::random_tokens(1, 11, 12);
  const auto of = [&](const char* name, const Tensor& x) {
    return torch::matmul(x, p[name].t()).view({-1, 2, 6}).transpose(0, 1);
  };
  const auto& persistent = p["persistent"];
  std::vector<Tensor> rows;
  for (int64_t i = 0; i < 11; ++i) {
    const auto segment = in.x[0].slice(0, i / 4 * 4, i + 1);
    const auto seen = torch::cat({persistent, torch::zeros_like(segment), segment});
    const auto q = of("q_proj.weight", in.x[0].slice(0, i, i + 1)), k = of("k_proj.weight", seen),
               v = of("v_proj.weight", seen);
    const auto weights = torch::softmax(torch::matmul(q, k.transpose(1, 2)) / std::sqrt(6.0), 2);
    const auto out = torch::matmul(weights, v).transpose(0, 1).flatten();
    rows.push_back(torch::mv(p["o_proj.weight"], 0.5 * out * torch::rsqrt(out.square().mean() + 1e-5)));
  }
  EXPECT_LT(relative_error(mixer->forward(in)[0], torch::stack(rows)), kDouble);
}

TEST(Titans, EveryLayoutStreamsAndIsCausal) {
  for (const char* layout : {"context", "gate", "layer", "memory", "attention"}) {
    torch::manual_seed(6);
    auto mixer = make_mixer(
        "titans", {{"dim", 12}, {"heads", 2}, {"chunk", 4}, {"layout", layout}, {"window", 5}, {"persistent", 3}});
    mixer->eval(), mixer->to(torch::kFloat64);
    torch::NoGradGuard no_grad;
    MixerInput in;
    in.x = torch::randn({2, 23, 12}, kWide);
    const auto whole = mixer->forward(in);
    EXPECT_LT(relative_error(in_parts(*mixer, in.x, {6, 1, 1, 12, 3}), whole), kDouble) << layout;
    in.x = in.x.clone();
    in.x.select(1, 14).add_(1);
    const auto changed = mixer->forward(in);
    EXPECT_TRUE(torch::equal(changed.slice(1, 0, 14), whole.slice(1, 0, 14))) << layout;
    EXPECT_GT(relative_error(changed.slice(1, 14), whole.slice(1, 14)), 1e-6) << layout;
  }
}

}  // namespace
}  // namespace heed::linear::neural_memory_test
