// The card of dynamic_mask_attention: what is kept, what it costs to forget, and where the gradient goes.
#include "heed/nn/row_attention.h"
#include "heed/nn/running_top.h"
#include "mixers/sparse/panels.h"
#include "mixers/sparse/sparse_support.h"

namespace heed::dynamic_mask_attention_test {
namespace {

using test::relative_error;
using torch::Tensor;

/// bool [B, H, N, M]: the `count` largest of each prefix, by sorting each.
Tensor kept_by_sorting(const Tensor& scores, int64_t n, int64_t count) {
  const int64_t m = scores.size(2);
  auto kept = torch::zeros({scores.size(0), scores.size(1), n, m}, torch::kBool);
  for (int64_t b = 0; b < scores.size(0); ++b)
    for (int64_t h = 0; h < scores.size(1); ++h)
      for (int64_t i = 0; i < n; ++i) {
        const auto prefix = scores[b][h].slice(0, 0, i + m - n + 1);
        const auto order = std::get<1>(prefix.sort(c10::optional<bool>(true), 0, true)).slice(0, 0, count);
        kept[b][h][i].index_fill_(0, order, true);
      }
  return kept;
}

TEST(RunningTop, IsTheTopOfEveryPrefix) {
  test::seed_torch(3);
  for (const int64_t count : {1, 3, 8, 40}) {
    // Few values, so that there are ties.
    const auto scores = torch::randint(0, 6, {2, 3, 31}).to(torch::kFloat32);
    const auto dropped = nn::dropped_at(scores, count).unsqueeze(2);
    const auto at = torch::arange(31).unsqueeze(1), j = torch::arange(31);
    EXPECT_TRUE(torch::equal((j <= at) & (dropped > at), kept_by_sorting(scores, 31, count))) << count;
  }
  EXPECT_THROW(nn::dropped_at(torch::zeros({1, 1, 3}), 0), Error);
}

TEST(RowAttention, IsTheMaskedSoftmaxWithItsGradients) {
  test::seed_torch(4);
  for (const double share : {0.03, 0.5, 1.0})
    for (const int64_t choosers : {1, 2, 4}) {
      auto in = test::drawn_core(130, 90, 4, 2, torch::kFloat64);
      auto bias = torch::randn({2, 4, 1, 90}, torch::kFloat64);
      for (auto* t : {&in.q, &in.k, &in.v, &bias}) t->requires_grad_();
      auto visible = torch::rand({2, choosers, 130, 90}) < share;
      visible.select(2, 7).fill_(false);
      AttentionOptions options;
      options.bias = bias;
      const auto choice = [&](int64_t first, int64_t rows) { return visible.narrow(2, first, rows); };
      const auto out = nn::row_attention(in.q, in.k, in.v, options, choice);
      const auto hidden = visible.repeat_interleave(4 / choosers, 1).logical_not();
      const auto s = torch::matmul(in.q, in.k.repeat_interleave(2, 1).transpose(2, 3)) / std::sqrt(8.0) + bias;
      // A finite floor, so that rows that see nothing have a gradient of 0 and not NaN.
      const auto p = torch::softmax(s.masked_fill(hidden, -1e30), 3).masked_fill(hidden, 0);
      const auto expected = torch::matmul(p, test::values_of(in));
      EXPECT_LT(relative_error(out, expected), 1e-12) << share;
      const auto direction = torch::randn_like(out);
      const auto grads = [&](const Tensor& o) {
        return torch::autograd::grad({(o * direction).sum()}, {in.q, in.k, in.v, bias});
      };
      const auto found = grads(out), wanted = grads(expected);
      for (size_t i = 0; i < 4; ++i) EXPECT_LT(relative_error(found[i], wanted[i]), 1e-10) << i << " " << share;
      nn::CoreReport report;
      AttentionOptions plain;
      nn::row_attention(in.q, in.k, in.v, plain, choice, &report);
      EXPECT_EQ(report.pairs, hidden.logical_not().expand({2, 4, 130, 90}).sum().item<int64_t>());
      EXPECT_TRUE(report.lse.defined());
    }
  AttentionOptions masked;
  masked.mask = Causal{};
  const auto in = test::drawn_core(3, 3, 1, 1, torch::kFloat32);
  EXPECT_THROW(nn::row_attention(in.q, in.k, in.v, masked,
                                 [](int64_t, int64_t rows) {
                                   return torch::ones({1, 1, rows, 3}, torch::kBool);
                                 }),
               Error);
}

nlohmann::json layer(nlohmann::json more) {
  nlohmann::json config{{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"positions", "rope"}};
  config.update(more);
  return config;
}

/// The bias [B, Hkv, M] of a layer's mix() on v [B, Hkv, M, D].
Tensor bias_of(const TokenMixer& mixer, const Tensor& v) {
  const auto p = mixer.named_parameters();
  return torch::softplus(torch::matmul(v.transpose(1, 2).flatten(2), p["importance.weight"].t())).transpose(1, 2) *
         p["amplitude"].unsqueeze(1);
}

TEST(DynamicMaskAttention, IsTheFormulaWithItsGradients) {
  test::seed_torch(5);
  for (const bool causal : {true, false})
    for (const int64_t kept : {3, 100}) {
      auto mixer = test::drawn_mixer("dynamic_mask_attention",
                                     {{"dim", 32}, {"heads", 4}, {"kv_heads", 2}, {"kept", kept}, {"causal", causal}},
                                     torch::kFloat64);
      auto in = test::drawn_core(20, 20, 4, 2, torch::kFloat64);
      const auto p = mixer->named_parameters();
      const std::vector<Tensor> inputs{in.q, in.k, in.v, p["importance.weight"], p["amplitude"]};
      for (auto t : inputs) t.requires_grad_();
      const auto bias = bias_of(*mixer, in.v);
      auto seen = kept_by_sorting(bias.detach(), 20, kept);
      if (!causal) seen = seen.select(2, 19).unsqueeze(2).expand({2, 2, 20, 20});
      const auto s = torch::matmul(in.q, in.k.repeat_interleave(2, 1).transpose(2, 3)) / std::sqrt(8.0) +
                     bias.repeat_interleave(2, 1).unsqueeze(2);
      const auto weights = torch::softmax(s.masked_fill(seen.repeat_interleave(2, 1).logical_not(), -INFINITY), 3);
      const auto expected = torch::matmul(weights, test::values_of(in)), found = mixer->mix(in);
      EXPECT_LT(relative_error(found, expected), 1e-12) << causal << kept;
      const auto direction = torch::randn_like(expected);
      const auto grads = [&](const Tensor& out) { return torch::autograd::grad({(out * direction).sum()}, inputs); };
      const auto a = grads(found), b = grads(expected);
      for (size_t i = 0; i < inputs.size(); ++i) EXPECT_LT(relative_error(a[i], b[i]), 1e-10) << i << causal << kept;
    }
}

TEST(DynamicMaskAttention, LongTextsWithPaddingAndACapAreTheFormula) {
  // Several blocks of queries, the last one cut; keys of padding; single precision and double.
  test::seed_torch(11);
  const int64_t n = 230, m = 251, kept = 20;
  for (const auto& [softcap, causal] : {std::pair<double, bool>{0, true}, {2, true}, {0, false}}) {
    const nlohmann::json config{{"dim", 32},    {"heads", 4},         {"kv_heads", 2},
                                {"kept", kept}, {"softcap", softcap}, {"causal", causal}};
    auto mixer = test::drawn_mixer("dynamic_mask_attention", config, torch::kFloat64);
    auto in = test::drawn_core(n, m, 4, 2, torch::kFloat64);
    auto padding = torch::rand({2, m}) < 0.3;
    padding.slice(1, 0, 5).fill_(true);
    padding.slice(1, 5, 22).fill_(false);  // every query sees something
    in.key_padding = padding;
    const auto bias = bias_of(*mixer, in.v).detach();
    const auto ranked = bias.masked_fill(padding.unsqueeze(1), -INFINITY);
    auto seen = kept_by_sorting(ranked, n, kept) & padding.logical_not().unsqueeze(1).unsqueeze(1);
    if (!causal) seen = seen.select(2, n - 1).unsqueeze(2).expand({2, 2, n, m});
    for (const auto type : {torch::kFloat64, torch::kFloat32}) {
      mixer->to(type);
      CoreInput own{in.q.to(type).detach(), in.k.to(type).detach(), in.v.to(type).detach()};
      own.key_padding = padding;
      const auto p = mixer->named_parameters();
      const std::vector<Tensor> inputs{own.q, own.k, own.v, p["importance.weight"], p["amplitude"]};
      for (auto t : inputs) t.requires_grad_();
      auto s = torch::matmul(own.q, own.k.repeat_interleave(2, 1).transpose(2, 3)) / std::sqrt(8.0);
      if (softcap > 0) s = torch::tanh(s / softcap) * softcap;
      s = s + bias_of(*mixer, own.v).repeat_interleave(2, 1).unsqueeze(2);
      const auto weights = torch::softmax(s.masked_fill(seen.repeat_interleave(2, 1).logical_not(), -INFINITY), 3);
      const auto expected = torch::matmul(weights, test::values_of(own)), found = mixer->mix(own);
      const bool narrow = type == torch::kFloat32;
      EXPECT_LT(relative_error(found, expected), narrow ? test::kForwardTolerance : 1e-12) << softcap;
      const auto direction = torch::randn_like(expected);
      const auto grads = [&](const Tensor& out) { return torch::autograd::grad({(out * direction).sum()}, inputs); };
      const auto a = grads(found), b = grads(expected);
      for (size_t i = 0; i < inputs.size(); ++i)
        EXPECT_LT(relative_error(a[i], b[i]), narrow ? test::kGradientTolerance : 1e-10) << i << " " << softcap;
    }
  }
}

TEST(Panels, ABiasTakesTheSameKeys) {
  test::seed_torch(12);
  const auto in = test::drawn_core(205, 240, 4, 2, torch::kFloat64);
  const auto dropped = nn::dropped_at(torch::randn({2, 2, 240}), 17);
  const auto panels = sparse::panels_until_dropped(dropped, 205);
  nn::CoreReport report;
  const auto plain = sparse::attend_panels(in.q, in.k, in.v, panels, {}, &report);
  AttentionOptions options;
  options.bias = torch::zeros({1, 1, 1, 240}, torch::kFloat64);
  nn::CoreReport biased;
  EXPECT_LT(relative_error(sparse::attend_panels(in.q, in.k, in.v, panels, options, &biased), plain), 1e-12);
  EXPECT_EQ(report.pairs, biased.pairs);
  EXPECT_TRUE(report.lse.defined());
}

TEST(DynamicMaskAttention, LaterTokensMoveNoBit) {
  // More keys than a tile holds.
  test::seed_torch(13);
  torch::NoGradGuard no_grad;
  auto mixer = test::drawn_mixer("dynamic_mask_attention", layer({{"kept", 330}}), torch::kFloat32, 0.5);
  const auto x = torch::randn({1, 900, 24});
  auto changed = x.clone();
  changed.slice(1, 611).add_(2);
  EXPECT_TRUE(torch::equal(mixer->forward({.x = changed}).slice(1, 0, 611), mixer->forward({.x = x}).slice(1, 0, 611)));
}

TEST(DynamicMaskAttention, ThePapersFormTakesTheExponential) {
  test::seed_torch(10);
  auto mixer = test::drawn_mixer("dynamic_mask_attention",
                                 {{"dim", 32}, {"heads", 4}, {"kv_heads", 2}, {"kept", 5}, {"exponential", true}},
                                 torch::kFloat64, 0.8);
  const auto in = test::drawn_core(7, 21, 4, 2, torch::kFloat64);  // queries behind others
  const auto bias = torch::exp(bias_of(*mixer, in.v));
  const auto seen = kept_by_sorting(bias, 7, 5);
  const auto s = torch::matmul(in.q, in.k.repeat_interleave(2, 1).transpose(2, 3)) / std::sqrt(8.0) +
                 bias.repeat_interleave(2, 1).unsqueeze(2);
  const auto weights = torch::softmax(s.masked_fill(seen.repeat_interleave(2, 1).logical_not(), -INFINITY), 3);
  EXPECT_LT(relative_error(mixer->mix(in), torch::matmul(weights, test::values_of(in))), 1e-12);
}

TEST(DynamicMaskAttention, WithoutAmplitudeTheFirstKeysAreKept) {
  test::seed_torch(6);
  torch::NoGradGuard no_grad;
  auto mixer = test::drawn_mixer("dynamic_mask_attention", {{"dim", 16}, {"heads", 2}, {"kept", 5}}, torch::kFloat64);
  mixer->named_parameters()["amplitude"].zero_();
  const auto in = test::drawn_core(17, 17, 2, 2, torch::kFloat64);
  const auto s = test::causal_logits(in).masked_fill(torch::arange(17) >= 5, -INFINITY);
  EXPECT_LT(relative_error(mixer->mix(in), torch::matmul(torch::softmax(s, 3), in.v)), 1e-12);
}

TEST(DynamicMaskAttention, WhatIsDroppedNeverComesBack) {
  // The state holds `kept` keys a head and gives what all keys would.
  test::seed_torch(7);
  torch::NoGradGuard no_grad;
  auto mixer = test::drawn_mixer("dynamic_mask_attention", layer({{"kept", 6}}), torch::kFloat32, 0.5);
  const auto x = torch::randn({2, 60, 24});
  const auto whole = mixer->forward({.x = x});
  EXPECT_LT(relative_error(test::in_parts(*mixer, x, {1}), whole), test::kForwardTolerance);
  auto state = mixer->make_state(2);
  mixer->forward({.x = x}, state.get());
  EXPECT_EQ(state->bytes(), 2 * 2 * 6 * (6 + 6 + 1) * 4);
  // A padded token takes no place.
  auto padding = torch::zeros({2, 60}, torch::kBool);
  padding.slice(1, 3, 11).fill_(true);
  const auto real = torch::cat({torch::arange(3), torch::arange(11, 60)});
  MixerInput first{.x = x.slice(1, 0, 20)}, second{.x = x.slice(1, 20)};
  first.key_padding = padding.slice(1, 0, 20);
  auto held = mixer->make_state(2);
  mixer->forward(first, held.get());
  const auto rest = mixer->forward(second, held.get());
  MixerInput all{.x = x};
  all.key_padding = padding;
  EXPECT_LT(relative_error(rest, mixer->forward(all).slice(1, 20)), test::kForwardTolerance);
}

TEST(DynamicMaskAttention, TheRouterLearnsFromWhatIsKept) {
  test::seed_torch(8);
  auto mixer = test::drawn_mixer("dynamic_mask_attention", {{"dim", 16}, {"heads", 2}, {"kept", 4}}, torch::kFloat64);
  auto in = test::drawn_core(12, 12, 2, 2, torch::kFloat64);
  in.v.requires_grad_();
  mixer->mix(in).slice(2, 11).sum().backward();  // the last query alone
  const auto kept = kept_by_sorting(bias_of(*mixer, in.v.detach()), 12, 4).select(2, 11);
  const auto reached = in.v.grad().abs().sum(3) > 0;
  // The bias of a key is made of the values of all its heads.
  EXPECT_TRUE(torch::equal(reached, kept.any(1, true).expand_as(reached)));
  for (const char* name : {"importance.weight", "amplitude"})
    EXPECT_GT(mixer->named_parameters()[name].grad().abs().min().item<double>(), 0) << name;
}

TEST(DynamicMaskAttention, BlocksAreKeptWholeByTheHalf) {
  test::seed_torch(9);
  torch::NoGradGuard no_grad;
  auto mixer = test::drawn_mixer("dynamic_mask_attention", {{"dim", 16}, {"heads", 2}, {"kept", 9}, {"block", 4}},
                                 torch::kFloat64);
  const auto in = test::drawn_core(22, 22, 2, 2, torch::kFloat64);
  const auto bias = bias_of(*mixer, in.v), kept = kept_by_sorting(bias, 22, 9);
  auto seen = torch::zeros_like(kept);
  for (int64_t i = 0; i < 22; ++i)
    for (int64_t begin = 0; begin <= i; begin += 4) {
      const int64_t end = std::min<int64_t>(begin + 4, i + 1);
      const auto most = 2 * kept.select(2, i).slice(2, begin, end).sum(2) > end - begin;
      seen.select(2, i).slice(2, begin, end).copy_(most.unsqueeze(2).expand({2, 2, end - begin}));
    }
  const auto s = (test::causal_logits(in) + bias.unsqueeze(2)).masked_fill(seen.logical_not(), -1e30);
  const auto p = torch::softmax(s, 3).masked_fill(seen.logical_not(), 0);
  EXPECT_LT(relative_error(mixer->mix(in), torch::matmul(p, in.v)), 1e-12);
  EXPECT_THROW(mixer->make_state(1), Error);
  // Both ways: the same blocks for all queries, of which the last has two keys.
  auto both =
      make_mixer("dynamic_mask_attention", {{"dim", 16}, {"heads", 2}, {"kept", 9}, {"block", 4}, {"causal", false}});
  both->eval();
  both->to(torch::kFloat64);
  test::copy_weights(*both, *mixer);
  const auto best = std::get<1>(bias.topk(9, 2));
  const auto kept_both = torch::zeros_like(bias, torch::kBool).scatter_(2, best, true);
  auto whole = torch::zeros_like(kept_both);
  for (int64_t begin = 0; begin < 22; begin += 4) {
    const int64_t end = std::min<int64_t>(begin + 4, 22);
    const auto most = 2 * kept_both.slice(2, begin, end).sum(2, true) > end - begin;
    whole.slice(2, begin, end).copy_(most.expand({2, 2, end - begin}));
  }
  ASSERT_FALSE(torch::equal(whole, kept_both));
  const auto logits = torch::matmul(in.q, in.k.transpose(2, 3)) / std::sqrt(8.0) + bias.unsqueeze(2);
  const auto hidden = whole.logical_not().unsqueeze(2);
  const auto w = torch::softmax(logits.masked_fill(hidden, -1e30), 3).masked_fill(hidden, 0);
  EXPECT_LT(relative_error(both->mix(in), torch::matmul(w, in.v)), 1e-12);
}

TEST(DynamicMaskAttention, BadInputIsNamed) {
  EXPECT_THROW(make_mixer("dynamic_mask_attention", {{"kept", 0}}), Error);
  EXPECT_THROW(make_mixer("dynamic_mask_attention", {{"positions", "alibi"}}), Error);
}

}  // namespace
}  // namespace heed::dynamic_mask_attention_test
