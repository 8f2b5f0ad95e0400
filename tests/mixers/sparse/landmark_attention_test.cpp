// The card of landmark_attention: grouped softmax against its formula, and the blocks that landmarks bring back.
#include "heed/nn/grouped_attention.h"
#include "heed/nn/landmark_tokens.h"
#include "heed/nn/partial.h"
#include "mixers/sparse/sparse_support.h"

namespace heed::landmark_attention_test {
namespace {

using test::relative_error;
using torch::Tensor;

/// Weights [B, Hq, N, M] by the definition, pair by pair of query and block.
Tensor grouped_weights(const CoreInput& in, int64_t block) {
  const auto logits = test::causal_logits(in);
  const int64_t n = in.q.size(2), m = in.k.size(2);
  auto weights = torch::zeros_like(logits);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t at = i + m - n, own = at / block;
    std::vector<int64_t> last;
    for (int64_t g = 0; g < own; ++g) last.push_back(g * block + block - 1);
    for (int64_t j = own * block; j <= at; ++j)
      if (j % block != block - 1) last.push_back(j);
    const auto index = torch::tensor(last, torch::kInt64);
    const auto row = logits.select(2, i);
    const auto p = torch::softmax(row.index_select(2, index), 2);
    auto out = weights.select(2, i);
    for (size_t slot = 0; slot < last.size(); ++slot) {
      const auto share = p.select(2, int64_t(slot));
      if (int64_t(slot) >= own) {
        out.select(2, last[slot]).copy_(share);
      } else {
        const int64_t begin = int64_t(slot) * block;
        const auto inside = torch::softmax(row.slice(2, begin, begin + block - 1), 2);
        out.slice(2, begin, begin + block - 1).copy_(inside * share.unsqueeze(2));
      }
    }
  }
  return weights;
}

Tensor core(const CoreInput& in, int64_t block) { return nn::grouped_attention(in.q, in.k, in.v, {.block = block}); }

TEST(LandmarkAttention, IsTheSoftmaxInTwoLevels) {
  test::seed_torch(3);
  for (const auto& [n, m, block] :
       {std::tuple<int64_t, int64_t, int64_t>{37, 37, 6}, {5, 23, 4}, {1, 12, 4}, {9, 9, 2}}) {
    const auto in = test::drawn_core(n, m, 4, 2, torch::kFloat64);
    const auto weights = grouped_weights(in, block);
    EXPECT_LT((weights.sum(3) - 1).abs().max().item<double>(), 1e-12);
    EXPECT_EQ(weights.index_select(3, nn::landmark_places(m, block).nonzero().squeeze(1)).abs().max().item<double>(),
              0);
    const auto expected = torch::matmul(weights, test::values_of(in));
    EXPECT_LT(relative_error(core(in, block), expected), 1e-12) << n << " " << m << " " << block;
    const CoreInput narrow{in.q.to(torch::kFloat32), in.k.to(torch::kFloat32), in.v.to(torch::kFloat32)};
    EXPECT_LT(relative_error(core(narrow, block), expected), test::kForwardTolerance);
  }
}

TEST(LandmarkAttention, WithoutALandmarkIsDense) {
  test::seed_torch(4);
  const auto in = test::drawn_core(30, 30, 4, 4, torch::kFloat64);
  const auto dense = torch::matmul(torch::softmax(test::causal_logits(in), 3), in.v);
  EXPECT_LT(relative_error(core(in, 31), dense), 1e-12);
}

TEST(LandmarkAttention, LandmarksThatSumUpTheirBlockGivePlainSoftmax) {
  // One query: its landmarks' keys can be set to give any logit.
  test::seed_torch(5);
  const int64_t block = 5, m = 23;
  auto in = test::drawn_core(1, m, 1, 1, torch::kFloat64);
  const auto q = in.q.select(2, 0);  // [2, 1, 8]
  const auto regular = nn::landmark_places(m, block).logical_not();
  const auto logits = test::causal_logits(in);
  for (int64_t g = 0; g < m / block; ++g) {
    const auto lse = logits.slice(3, g * block, g * block + block - 1).logsumexp(3);  // [2, 1, 1]
    in.k.select(2, g * block + block - 1).copy_(q * lse * std::sqrt(8.0) / q.square().sum(2, true));
  }
  const auto index = regular.nonzero().squeeze(1);
  const CoreInput plain{in.q, in.k.index_select(2, index), in.v.index_select(2, index)};
  const auto expected = torch::matmul(torch::softmax(test::causal_logits(plain), 3), plain.v);
  EXPECT_LT(relative_error(core(in, block), expected), 1e-12);
}

TEST(LandmarkAttention, GradientsAreThoseOfTheFormula) {
  test::seed_torch(6);
  auto in = test::drawn_core(19, 19, 4, 2, torch::kFloat64);
  for (auto* t : {&in.q, &in.k, &in.v}) t->requires_grad_();
  const auto direction = torch::randn({2, 4, 19, 8}, torch::kFloat64);
  const auto grads = [&](const Tensor& out) {
    return torch::autograd::grad({(out * direction).sum()}, {in.q, in.k, in.v});
  };
  // The formula without copies into a tensor: softmax within groups, by masks.
  const auto formula = [&] {
    const int64_t block = 4, n = 19;
    const auto s = test::causal_logits(in);
    const auto at = torch::arange(n), own = at.div(block, "floor").unsqueeze(1), of = at.div(block, "floor");
    const auto landmark = nn::landmark_places(n, block);
    const auto local = (of == own) & landmark.logical_not(), far_landmark = (of < own) & landmark;
    const auto last = torch::softmax(s.masked_fill((local | far_landmark).logical_not(), -INFINITY), 3);
    auto out = torch::matmul(last.masked_fill(local.logical_not(), 0), test::values_of(in));
    for (int64_t g = 0; g < n / block; ++g) {
      const auto inside = torch::softmax(
          torch::matmul(in.q, in.k.slice(2, g * block, g * block + block - 1).repeat_interleave(2, 1).transpose(2, 3)) /
              std::sqrt(8.0),
          3);
      const auto part = torch::matmul(inside, test::values_of(in).slice(2, g * block, g * block + block - 1));
      out = out + part * last.select(3, g * block + block - 1).unsqueeze(3) *
                      (own.squeeze(1) > g).to(torch::kFloat64).unsqueeze(1);
    }
    return out;
  };
  const auto expected = grads(formula()), found = grads(core(in, 4));
  for (size_t i = 0; i < 3; ++i) EXPECT_LT(relative_error(found[i], expected[i]), 1e-10) << i;
}

nlohmann::json layer(nlohmann::json more) {
  nlohmann::json config{{"dim", 24}, {"heads", 4}, {"kv_heads", 2}, {"positions", "rope"}, {"block", 5}};
  config.update(more);
  return config;
}

TEST(LandmarkAttention, AllBlocksBroughtBackAreTheWhole) {
  test::seed_torch(7);
  torch::NoGradGuard no_grad;
  const auto x = torch::randn({2, 33, 24});
  auto whole = test::drawn_mixer("landmark_attention", layer(nlohmann::json::object()));
  const auto expected = whole->forward({.x = x});
  for (const char* by : {"token", "head"})
    for (const bool stingy : {false, true}) {
      // 33 tokens are 6 blocks behind the last: with 6 or more the positions are true ones.
      auto mixer = make_mixer("landmark_attention", layer({{"retrieve", 6}, {"retrieve_by", by}, {"stingy", stingy}}));
      mixer->eval();
      test::copy_weights(*mixer, *whole);
      EXPECT_LT(relative_error(mixer->forward({.x = x}), expected), test::kForwardTolerance);
      for (const std::vector<int64_t>& parts : {std::vector<int64_t>{1}, {7}, {12, 1, 5}})
        EXPECT_LT(relative_error(test::in_parts(*mixer, x, parts), expected), test::kForwardTolerance) << by << stingy;
    }
}

TEST(LandmarkAttention, TheBlocksOfTheLargestLandmarksAreRead) {
  test::seed_torch(8);
  const int64_t block = 4, m = 27, k = 2;
  const auto in = test::drawn_core(1, m, 4, 2, torch::kFloat64);
  const auto found = nn::grouped_attention(in.q, in.k, in.v, {.block = block, .retrieved = k});
  const auto s = test::causal_logits(in).squeeze(2);  // [B, Hq, M]
  const int64_t blocks = m / block;
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t h = 0; h < 4; ++h) {
      const auto landmarks = s[b][h].slice(0, block - 1, blocks * block, block);
      const auto best = std::get<1>(landmarks.topk(k));
      std::vector<Tensor> outs, logits;
      const auto v = in.v[b][h / 2];
      for (int64_t r = 0; r < k; ++r) {
        const int64_t g = best[r].item<int64_t>();
        const auto p = torch::softmax(s[b][h].slice(0, g * block, g * block + block - 1), 0);
        outs.push_back(torch::matmul(p, v.slice(0, g * block, g * block + block - 1)));
        logits.push_back(landmarks[g]);
      }
      for (int64_t j = blocks * block; j < m; ++j) outs.push_back(v[j]), logits.push_back(s[b][h][j]);
      const auto expected = torch::matmul(torch::softmax(torch::stack(logits), 0), torch::stack(outs));
      EXPECT_LT(relative_error(found[b][h][0], expected), 1e-12) << b << " " << h;
    }
}

TEST(LandmarkAttention, TheQueriesOfABlockChooseTogetherByTheirLargestWeight) {
  test::seed_torch(12);
  const int64_t block = 4, m = 23, n = 3, k = 2;  // all of block 5, whose landmark is not there yet
  const auto in = test::drawn_core(n, m, 4, 2, torch::kFloat64);
  const auto found = nn::grouped_attention(in.q, in.k, in.v, {.block = block, .retrieved = k, .one_choice = true});
  const auto s = test::causal_logits(in);  // [B, Hq, n, M]
  const int64_t blocks = m / block;
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t h = 0; h < 4; ++h) {
      const auto rows = s[b][h];
      const auto landmarks = rows.slice(1, block - 1, blocks * block, block);
      const auto own = rows.slice(1, blocks * block);
      const auto weights = torch::softmax(torch::cat({landmarks, own}, 1), 1).slice(1, 0, blocks).amax(0);
      const auto best = std::get<1>(weights.topk(k));
      const auto v = in.v[b][h / 2];
      for (int64_t i = 0; i < n; ++i) {
        std::vector<Tensor> outs, logits;
        for (int64_t r = 0; r < k; ++r) {
          const int64_t g = best[r].item<int64_t>();
          const auto p = torch::softmax(rows[i].slice(0, g * block, g * block + block - 1), 0);
          outs.push_back(torch::matmul(p, v.slice(0, g * block, g * block + block - 1)));
          logits.push_back(landmarks[i][g]);
        }
        for (int64_t j = blocks * block; j <= m - n + i; ++j) outs.push_back(v[j]), logits.push_back(rows[i][j]);
        const auto expected = torch::matmul(torch::softmax(torch::stack(logits), 0), torch::stack(outs));
        EXPECT_LT(relative_error(found[b][h][i], expected), 1e-12) << b << " " << h << " " << i;
      }
    }
  // More blocks than there are: all of them.
  for (const bool together : {false, true})
    EXPECT_LT(relative_error(
                  nn::grouped_attention(in.q, in.k, in.v, {.block = block, .retrieved = 99, .one_choice = together}),
                  core(in, block)),
              1e-12);
}

TEST(LandmarkAttention, FewPositionsDoNotGrowWithTheText) {
  // Beyond k + 1 blocks, old blocks all stand at the first place: their order does not matter any more.
  test::seed_torch(9);
  torch::NoGradGuard no_grad;
  auto mixer = test::drawn_mixer("landmark_attention", layer({{"retrieve", 2}, {"stingy", true}}));
  const auto x = torch::randn({1, 41, 24});
  const auto swapped = torch::cat({x.slice(1, 10, 20), x.slice(1, 0, 10), x.slice(1, 20)}, 1);
  const auto last = [&](const Tensor& text) { return test::in_parts(*mixer, text, {1}).slice(1, 40); };
  EXPECT_LT(relative_error(last(swapped), last(x)), test::kForwardTolerance);
  auto true_positions = make_mixer("landmark_attention", layer({{"retrieve", 2}}));
  true_positions->eval();
  test::copy_weights(*true_positions, *mixer);
  EXPECT_GT(relative_error(test::in_parts(*true_positions, swapped, {1}).slice(1, 40),
                           test::in_parts(*true_positions, x, {1}).slice(1, 40)),
            1e-3);
}

TEST(LandmarkAttention, EmptyBlocksAndPaddedLandmarksHaveNoWeight) {
  test::seed_torch(10);
  const auto in = test::drawn_core(12, 12, 2, 2, torch::kFloat64);
  auto padding = torch::zeros({2, 12}, torch::kBool);
  padding.slice(1, 0, 3).fill_(true);  // the regular tokens of block 0
  padding.slice(1, 7, 8).fill_(true);  // the landmark of block 1
  const auto found = nn::grouped_attention(in.q, in.k, in.v, {.block = 4}, padding);
  EXPECT_EQ(found.slice(2, 0, 3).abs().max().item<double>(), 0);  // nothing is seen
  const auto s = test::causal_logits(in);
  // Queries of the last block are left with its own tokens.
  const auto expected = torch::matmul(torch::softmax(s.slice(2, 8, 11).slice(3, 8), 3), in.v.slice(2, 8));
  EXPECT_LT(relative_error(found.slice(2, 8, 11), expected), 1e-12);
}

TEST(LandmarkAttention, SinglePrecisionIsDoubleWithItsGradients) {
  // float32 is one kernel, float64 goes block by block.
  test::seed_torch(12);
  for (const auto& [n, m, block, softcap] : {std::tuple<int64_t, int64_t, int64_t, double>{150, 150, 7, 0},
                                             {61, 150, 16, 0},
                                             {150, 150, 51, 1.5},
                                             {1, 90, 4, 0}}) {
    auto in = test::drawn_core(n, m, 4, 2, torch::kFloat64);
    auto padding = torch::rand({2, m}) < 0.2;
    padding.slice(1, 0, block - 1).fill_(true);
    padding.slice(1, m - 1).fill_(false);
    const auto direction = torch::randn({2, 4, n, 8}, torch::kFloat64);
    std::vector<std::vector<Tensor>> found;
    for (const auto type : {torch::kFloat64, torch::kFloat32}) {
      std::vector<Tensor> inputs;
      for (const auto& x : {in.q, in.k, in.v}) inputs.push_back(x.to(type).detach().requires_grad_());
      const auto out =
          nn::grouped_attention(inputs[0], inputs[1], inputs[2], {.block = block, .softcap = softcap}, padding);
      found.push_back(torch::autograd::grad({(out * direction.to(type)).sum()}, inputs));
      found.back().push_back(out);
    }
    EXPECT_LT(relative_error(found[1][3], found[0][3]), test::kForwardTolerance) << n << " " << block;
    for (size_t i = 0; i < 3; ++i)
      EXPECT_LT(relative_error(found[1][i], found[0][i]), test::kGradientTolerance) << i << " " << n << " " << block;
  }
}

TEST(LandmarkAttention, TextsGetTheirLandmarks) {
  const auto tokens = torch::arange(7).view({1, 7});
  EXPECT_TRUE(
      torch::equal(nn::insert_landmarks(tokens, 4, 99), torch::tensor({{0, 1, 2, 99, 3, 4, 5, 99, 6}}, torch::kInt64)));
  EXPECT_TRUE(torch::equal(nn::insert_landmarks(tokens.slice(1, 0, 2), 4, 99), tokens.slice(1, 0, 2)));
  EXPECT_THROW(nn::insert_landmarks(tokens, 1, 99), Error);
}

TEST(LandmarkAttention, BadInputIsNamed) {
  EXPECT_THROW(make_mixer("landmark_attention", {{"block", 1}}), Error);
  EXPECT_THROW(make_mixer("landmark_attention", {{"causal", false}}), Error);
  EXPECT_THROW(make_mixer("landmark_attention", {{"stingy", true}}), Error);
  EXPECT_THROW(make_mixer("landmark_attention", {{"retrieve_by", "layer"}}), Error);
  const auto in = test::drawn_core(5, 4, 1, 1, torch::kFloat32);
  EXPECT_THROW(nn::grouped_attention(in.q, in.k, in.v, {.block = 4}), Error);
}

TEST(Partial, MergesAreTheSoftmaxOverAllSets) {
  test::seed_torch(11);
  auto in = test::drawn_core(6, 20, 2, 2, torch::kFloat64);
  for (auto* t : {&in.q, &in.k, &in.v}) t->requires_grad_();
  const auto part = [&](int64_t begin, int64_t end) {
    return attention_with_lse(in.q, in.k.slice(2, begin, end), in.v.slice(2, begin, end));
  };
  AttentionOptions none;
  none.mask = ~Mask(SinkTokens{20});
  const auto empty = attention_with_lse(in.q, in.k, in.v, none);
  const auto merged = nn::merge({part(0, 7), empty, part(7, 12), part(12, 20)}), whole = part(0, 20);
  EXPECT_LT(relative_error(merged.out, whole.out), 1e-12);
  EXPECT_LT(relative_error(merged.lse, whole.lse), 1e-12);
  const auto direction = torch::randn_like(whole.out);
  const auto grads = [&](const AttentionResult& r) {
    return torch::autograd::grad({(r.out * direction).sum() + r.lse.sum()}, {in.q, in.k, in.v}, {}, true);
  };
  const auto a = grads(merged), b = grads(whole);
  for (size_t i = 0; i < 3; ++i) EXPECT_LT(relative_error(a[i], b[i]), 1e-12) << i;
  const auto nothing = nn::merge(empty, empty);
  EXPECT_EQ(nothing.out.abs().max().item<double>(), 0);
  EXPECT_EQ(nothing.lse.max().item<double>(), -INFINITY);
  for (const auto& grad : torch::autograd::grad({nothing.out.sum()}, {in.q, in.v}))
    EXPECT_EQ(grad.abs().max().item<double>(), 0);
}

}  // namespace
}  // namespace heed::landmark_attention_test
