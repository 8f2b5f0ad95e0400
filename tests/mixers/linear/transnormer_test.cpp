// The cards of tnl and transnormer_llm: parameters, turns, decays of layers.
#include <gtest/gtest.h>

#include "heed/nn/positions.h"
#include "mixers/linear/linear_support.h"

namespace heed::transnormer_mixer_test {
namespace {

using nlohmann::json;
using test::by_head;
using test::kDouble;
using test::relative_error;
using test::scatter;
using test::wide_mixer;
using torch::Tensor;

TEST(Transnormer, HasTheParametersOfItsFormula) {
  constexpr int64_t kDim = 24, kHeads = 3, kSize = kDim / kHeads;
  const auto count = [](const char* name, const json& config) {
    int64_t sum = 0;
    for (const auto& parameter : make_mixer(name, config)->parameters()) sum += parameter.numel();
    return sum;
  };
  // q, k, v, o and a gate of rank d_head; nothing of the norm and the decays.
  EXPECT_EQ(count("tnl", {{"dim", kDim}, {"heads", kHeads}}), 4 * kDim * kDim + 2 * kDim * kSize);
  // A whole gate, and the angles of every channel of keys.
  EXPECT_EQ(count("transnormer_llm", {{"dim", kDim}, {"heads", kHeads}}), 5 * kDim * kDim + kDim);
}

TEST(Transnormer, TurnsDependOnDistancesAlone) {
  torch::manual_seed(15);
  auto mixer = wide_mixer("transnormer_llm", {{"dim", 24}, {"heads", 3}});
  MixerInput near, far;
  near.x = far.x = torch::randn({1, 40, 24}, torch::kFloat64);
  near.layer = far.layer = {0, 4};
  far.positions = torch::arange(1000, 1040);
  EXPECT_LT(relative_error(mixer->forward(far), mixer->forward(near)), kDouble);
}

TEST(Transnormer, WithoutAnglesTurnsAreNone) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(20);
  auto turned = wide_mixer("transnormer_llm", {{"dim", 24}, {"heads", 3}});
  auto plain = wide_mixer("transnormer_llm", {{"dim", 24}, {"heads", 3}, {"lrpe", false}});
  for (auto& entry : plain->named_parameters()) entry.value().copy_(turned->named_parameters()[entry.key()]);
  auto in = test::random_tokens(2, 30, 24);
  in.layer = {0, 4};
  EXPECT_GT(relative_error(turned->forward(in), plain->forward(in)), 1e-3);
  turned->named_parameters()["theta"].zero_();
  EXPECT_LT(relative_error(turned->forward(in), plain->forward(in)), kDouble);
}

// Heads are apart but for the norm over all of them, which knows no order: what changes places with them is their rows
// of the projections, and their decays.
TEST(Transnormer, HeadsMayChangePlacesWithTheirDecays) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(21);
  constexpr int64_t kHeads = 2, kSize = 8, kDim = kHeads * kSize;
  auto mixer = wide_mixer("tnl", {{"dim", kDim}, {"heads", kHeads}});
  auto in = test::random_tokens(1, 20, kDim);
  in.layer = {1, 4};
  const auto p = mixer->named_parameters();
  const auto heads_of = [&](const char* name) {
    return torch::silu(in.x.matmul(p[name].t())).view({20, kHeads, kSize}).transpose(0, 1);
  };
  const auto q = heads_of("q_proj.weight"), k = heads_of("k_proj.weight"), v = heads_of("v_proj.weight");
  const auto distance = torch::arange(20).unsqueeze(1) - torch::arange(20);
  const auto output = [&](const std::vector<int64_t>& order) {
    const auto at = torch::tensor(order);
    const auto slope = nn::alibi_slopes(kHeads).to(torch::kFloat64).index_select(0, at) * (1 - 1.0 / 3 + 1e-5);
    const auto decay = torch::exp(-slope.view({-1, 1, 1}) * distance).masked_fill(distance < 0, 0);
    const auto attended = (q.index_select(0, at).matmul(k.index_select(0, at).transpose(1, 2)) * decay)
                              .matmul(v.index_select(0, at));  // [H, 20, size]
    const auto joined = attended.transpose(0, 1).reshape({20, kDim});
    const auto normed = joined * torch::rsqrt(joined.square().mean(1, true) + 1e-6);
    const auto moved = [&](const char* name, int64_t dim) {
      const auto w = p[name];
      return dim == 0 ? w.view({kHeads, kSize, -1}).index_select(0, at).reshape(w.sizes())
                      : w.view({-1, kHeads, kSize}).index_select(1, at).reshape(w.sizes());
    };
    const auto gate =
        torch::sigmoid(in.x[0].matmul(p["gate_down.weight"].t()).matmul(moved("gate_proj.weight", 0).t()));
    return (normed * gate).matmul(moved("o_proj.weight", 1).t());
  };
  const auto out = mixer->forward(in)[0];
  // Decays are made in float32.
  EXPECT_LT(relative_error(output({0, 1}), out), 1e-6);
  EXPECT_LT(relative_error(output({1, 0}), out), 1e-6);
}

TEST(Transnormer, DecaysAreThoseOfTheLayer) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(28);
  constexpr int64_t kHeads = 4, kSize = 6, kDim = kHeads * kSize, kTokens = 40, kLayers = 3;
  const auto distance = torch::arange(kTokens).unsqueeze(1) - torch::arange(kTokens);
  for (const std::string decay : {"alibi", "paper", "none"}) {
    auto mixer = wide_mixer("tnl", {{"dim", kDim}, {"heads", kHeads}, {"decay", decay}, {"gate", "none"}});
    scatter(*mixer);
    const auto p = mixer->named_parameters();
    auto in = test::random_tokens(1, kTokens, kDim);
    const auto heads = [&](const char* name) { return torch::silu(by_head(p, name, in.x[0], kHeads)); };
    const auto q = heads("q_proj"), k = heads("k_proj"), v = heads("v_proj");
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      in.layer = {layer, kLayers};
      std::vector<Tensor> outs;
      for (int64_t h = 0; h < kHeads; ++h) {
        double slope = 0;
        if (decay == "alibi")  // of four heads: 2^-2, 2^-4, ...; of the last layer 1e-5 of it
          slope = std::exp2(-2.0 * double(h + 1)) * (1 - double(layer) / (kLayers - 1) + 1e-5);
        if (decay == "paper") slope = 8.0 * double(h + 1) / kHeads * (1 - double(layer) / kLayers);
        const auto kept = torch::exp(-slope * distance.to(torch::kFloat64)).masked_fill(distance < 0, 0);
        outs.push_back(torch::matmul(torch::matmul(q[h], k[h].t()) * kept, v[h]));
      }
      const auto joined = torch::cat(outs, 1);
      const auto normed = joined * torch::rsqrt(joined.square().mean(1, true) + 1e-6);
      // Exponents x are made in float32, 6e-8 of x off: at most 6e-8 / e of exp(-x).
      EXPECT_LT(relative_error(mixer->forward(in)[0], torch::matmul(normed, p["o_proj.weight"].t())), 1e-6)
          << decay << layer;
    }
  }
}

TEST(Transnormer, DeeperLayersForgetLess) {
  torch::manual_seed(16);
  auto mixer = wide_mixer("tnl", {{"dim", 24}, {"heads", 3}, {"norm", "layer"}});
  MixerInput in, changed;
  in.x = changed.x = torch::randn({1, 60, 24}, torch::kFloat64);
  changed.x = in.x.clone();
  changed.x.select(1, 0).mul_(-1);
  double last = 0;
  for (int64_t layer = 0; layer < 4; ++layer) {
    in.layer = changed.layer = {layer, 4};
    const double reach = relative_error(mixer->forward(changed).select(1, 59), mixer->forward(in).select(1, 59));
    EXPECT_GT(reach, last) << "layer " << layer;
    last = reach;
  }
}

}  // namespace
}  // namespace heed::transnormer_mixer_test
