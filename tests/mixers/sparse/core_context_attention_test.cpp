// The card of core_context_attention: which tokens a query sees as they are, which through their core.
#include "heed/nn/positions.h"
#include "mixers/sparse/sparse_support.h"

namespace heed::core_context_attention_test {
namespace {

using test::relative_error;
using torch::Tensor;

struct Core {
  int64_t group, window;
};

/// The definition, query by query, with 1-based i as the paper has it.
Tensor formula(const CoreInput& in, Core c) {
  const int64_t n = in.q.size(2), heads = in.q.size(1), kv = in.k.size(1), share = heads / kv;
  const double scale = 1 / std::sqrt(double(in.q.size(3)));
  std::vector<Tensor> rows;
  for (int64_t i = 1; i <= n; ++i) {
    const int64_t j = std::max<int64_t>(0, i < c.window ? 0 : (i - c.window) / c.group);
    std::vector<Tensor> keys, values;
    for (int64_t m = 1; m <= j; ++m) {
      const auto k = in.k.slice(2, (m - 1) * c.group, m * c.group), v = in.v.slice(2, (m - 1) * c.group, m * c.group);
      const auto q = in.q.select(2, m * c.group - 1).unflatten(1, {kv, share});
      const auto a = torch::softmax(torch::matmul(q, k.transpose(2, 3)) * scale, 3).mean(2, true);  // [B, kv, 1, g]
      keys.push_back(torch::matmul(a, k));
      values.push_back(torch::matmul(a, v));
    }
    keys.push_back(in.k.slice(2, j * c.group, i));
    values.push_back(in.v.slice(2, j * c.group, i));
    const auto k = torch::cat(keys, 2).repeat_interleave(share, 1),
               v = torch::cat(values, 2).repeat_interleave(share, 1);
    const auto q = in.q.slice(2, i - 1, i);
    rows.push_back(torch::matmul(torch::softmax(torch::matmul(q, k.transpose(2, 3)) * scale, 3), v));
  }
  return torch::cat(rows, 2);
}

std::shared_ptr<TokenMixer> core_mixer(Core c, int64_t heads, int64_t kv_heads) {
  auto mixer = make_mixer(
      "core_context_attention",
      {{"dim", heads * 8}, {"heads", heads}, {"kv_heads", kv_heads}, {"group", c.group}, {"window", c.window}});
  mixer->eval();
  return mixer;
}

const std::vector<Core> kCases{{4, 6}, {4, 8}, {3, 1}, {1, 5}, {7, 30}, {5, 13}, {2, 100}};

TEST(CoreContextAttention, IsTheFormula) {
  test::seed_torch(3);
  for (const auto& c : kCases)
    for (const int64_t n : {1, 9, 40, 53}) {
      const auto in = test::drawn_core(n, n, 4, 2, torch::kFloat64);
      EXPECT_LT(relative_error(core_mixer(c, 4, 2)->mix(in), formula(in, c)), 1e-12)
          << c.group << " " << c.window << " " << n;
    }
}

TEST(CoreContextAttention, CoresAndTokensCoverThePastOnce) {
  // Keys all equal: weights are those of counting, and a core of equal keys is the mean of its values. So a one-hot
  // value comes out with the share of its token: 1 / (cores + tokens) alone, that over g in a core.
  for (const auto& c : kCases) {
    const int64_t n = 45;
    const CoreInput in{torch::zeros({1, 1, n, 8}, torch::kFloat64), torch::ones({1, 1, n, 8}, torch::kFloat64),
                       torch::eye(n, torch::kFloat64).view({1, 1, n, n})};
    const auto weights = core_mixer(c, 1, 1)->mix(in)[0][0];
    for (int64_t i = 1; i <= n; ++i) {
      const int64_t cores = i < c.window ? 0 : (i - c.window) / c.group, far = cores * c.group;
      const double share = 1.0 / double(cores + i - far);
      auto expected = torch::zeros({n}, torch::kFloat64);
      expected.slice(0, 0, far).fill_(share / double(c.group));
      expected.slice(0, far, i).fill_(share);
      EXPECT_LT((weights[i - 1] - expected).abs().max().item<double>(), 1e-14) << c.group << c.window << " " << i;
      EXPECT_GE(i - far, std::min(i, c.window));  // the window is seen as it is
    }
  }
}

TEST(CoreContextAttention, PlainMeansAreWhatQueriesOfZeroAskFor) {
  // What a query of 0 asks of its group is the plain mean. The last query is in no group that has become a core.
  test::seed_torch(8);
  for (const auto& c : kCases) {
    auto in = test::drawn_core(40, 40, 4, 2, torch::kFloat64);
    auto mixer = make_mixer(
        "core_context_attention",
        {{"dim", 32}, {"heads", 4}, {"kv_heads", 2}, {"group", c.group}, {"window", c.window}, {"pooling", "mean"}});
    mixer->eval();
    const auto last = [](const Tensor& x) { return x.select(2, 39); };
    const auto out = last(mixer->mix(in));
    in.q.narrow(2, 0, 39).zero_();
    EXPECT_LT(relative_error(out, last(formula(in, c))), 1e-12) << c.group << " " << c.window;
  }
}

TEST(CoreContextAttention, CoresStandWhereTheirGroupEnds) {
  // A layer with rotations, by its definition: keys are pooled before them, the core is rotated to its last token.
  test::seed_torch(7);
  torch::NoGradGuard no_grad;
  const Core c{4, 6};
  const int64_t n = 29;
  auto mixer = test::drawn_mixer(
      "core_context_attention",
      {{"dim", 32}, {"heads", 4}, {"kv_heads", 2}, {"positions", "rope"}, {"group", c.group}, {"window", c.window}},
      torch::kFloat64);
  const auto x = torch::randn({2, n, 32}, torch::kFloat64);
  const auto p = mixer->named_parameters();
  const auto heads = [&](const char* name, int64_t count) {
    return torch::matmul(x, p[name].t()).view({2, n, count, 8}).transpose(1, 2);
  };
  const auto q = heads("q_proj.weight", 4), k = heads("k_proj.weight", 2), v = heads("v_proj.weight", 2);
  const auto turned = [](const Tensor& t, const Tensor& at) { return nn::apply_rope(t, at, {}); };
  std::vector<Tensor> rows;
  for (int64_t i = 1; i <= n; ++i) {
    const int64_t cores = i < c.window ? 0 : (i - c.window) / c.group;
    std::vector<Tensor> keys, values;
    for (int64_t m = 1; m <= cores; ++m) {
      const auto of = [&](const Tensor& t) { return t.slice(2, (m - 1) * c.group, m * c.group); };
      const auto asked = q.select(2, m * c.group - 1).unflatten(1, {2, 2});
      const auto a = torch::softmax(torch::matmul(asked, of(k).transpose(2, 3)) / std::sqrt(8.0), 3).mean(2, true);
      keys.push_back(turned(torch::matmul(a, of(k)), torch::tensor({m * c.group - 1})));
      values.push_back(torch::matmul(a, of(v)));
    }
    const int64_t first = cores * c.group;
    keys.push_back(turned(k.slice(2, first, i), torch::arange(first, i)));
    values.push_back(v.slice(2, first, i));
    const auto row = turned(q.slice(2, i - 1, i), torch::tensor({i - 1}));
    const auto logits =
        torch::matmul(row, torch::cat(keys, 2).repeat_interleave(2, 1).transpose(2, 3)) / std::sqrt(8.0);
    rows.push_back(torch::matmul(torch::softmax(logits, 3), torch::cat(values, 2).repeat_interleave(2, 1)));
  }
  const auto expected = torch::matmul(torch::cat(rows, 2).transpose(1, 2).flatten(2), p["o_proj.weight"].t());
  EXPECT_LT(relative_error(mixer->forward({.x = x}), expected), 1e-10);
  EXPECT_LT(relative_error(test::in_parts(*mixer, x, {1, 5}), expected), 1e-10);
}

TEST(CoreContextAttention, GroupsOfOneAndWideWindowsAreDense) {
  test::seed_torch(4);
  torch::NoGradGuard no_grad;
  const auto x = torch::randn({2, 40, 32});
  auto dense = test::drawn_mixer("dense", {{"dim", 32}, {"heads", 4}, {"kv_heads", 2}, {"positions", "rope"}});
  for (const auto& c : {Core{1, 6}, Core{8, 40}}) {
    auto mixer = make_mixer(
        "core_context_attention",
        {{"dim", 32}, {"heads", 4}, {"kv_heads", 2}, {"positions", "rope"}, {"group", c.group}, {"window", c.window}});
    mixer->eval();
    test::copy_weights(*mixer, *dense);
    EXPECT_LT(relative_error(mixer->forward({.x = x}), dense->forward({.x = x})), test::kForwardTolerance);
    EXPECT_LT(relative_error(test::in_parts(*mixer, x, {1, 3}), dense->forward({.x = x})), test::kForwardTolerance);
  }
}

TEST(CoreContextAttention, GradientsGoThroughThePooling) {
  test::seed_torch(5);
  const Core c{4, 6};
  auto in = test::drawn_core(27, 27, 4, 2, torch::kFloat64);
  for (auto* t : {&in.q, &in.k, &in.v}) t->requires_grad_();
  const auto direction = torch::randn({2, 4, 27, 8}, torch::kFloat64);
  const auto grads = [&](const Tensor& out) {
    return torch::autograd::grad({(out * direction).sum()}, {in.q, in.k, in.v});
  };
  const auto found = grads(core_mixer(c, 4, 2)->mix(in)), expected = grads(formula(in, c));
  for (size_t i = 0; i < 3; ++i) EXPECT_LT(relative_error(found[i], expected[i]), 1e-10) << i;
}

TEST(CoreContextAttention, APaddedTokenHasNoPartInItsCore) {
  test::seed_torch(6);
  torch::NoGradGuard no_grad;
  auto mixer = test::drawn_mixer("core_context_attention",
                                 {{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"group", 4}, {"window", 6}});
  const auto x = torch::randn({1, 40, 24});
  for (const std::vector<int64_t>& hidden : {std::vector<int64_t>{0, 1}, {5, 7}, {8, 9, 10, 11}}) {
    MixerInput in{.x = x};
    auto padding = torch::zeros({1, 40}, torch::kBool);
    for (const int64_t at : hidden) padding[0][at] = true;
    in.key_padding = padding;
    const auto before = mixer->forward(in);
    in.x = torch::where(padding.unsqueeze(2), x + 7, x);
    EXPECT_TRUE(torch::equal(mixer->forward(in).slice(1, 12), before.slice(1, 12))) << hidden[0];
    EXPECT_GT(relative_error(mixer->forward({.x = x}).slice(1, 30), before.slice(1, 30)), 1e-3);
  }
}

TEST(CoreContextAttention, AStepHoldsCoresAndAWindow) {
  torch::NoGradGuard no_grad;
  const int64_t g = 8, s = 16, tokens = 256;
  auto mixer = make_mixer("core_context_attention", {{"dim", 16}, {"heads", 2}, {"group", g}, {"window", s}});
  mixer->eval();
  auto state = mixer->make_state(1);
  mixer->forward({.x = torch::randn({1, tokens, 16})}, state.get());
  const int64_t token = 2 * 8 * 2 * 4 + 1;  // keys and values of two heads of 8 floats, and its padding
  EXPECT_LE(state->bytes(), token * (tokens / g + s + 2 * g));
  EXPECT_THROW(state->truncate(100), Error);
}

TEST(CoreContextAttention, BadInputIsNamed) {
  EXPECT_THROW(make_mixer("core_context_attention", {{"group", 0}}), Error);
  EXPECT_THROW(make_mixer("core_context_attention", {{"pooling", "max"}}), Error);
  EXPECT_THROW(make_mixer("core_context_attention", {{"causal", false}}), Error);
  EXPECT_THROW(make_mixer("core_context_attention", {{"positions", "t5"}}), Error);
}

}  // namespace
}  // namespace heed::core_context_attention_test
