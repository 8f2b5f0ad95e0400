// Attention in buckets: routing_attention and reformer, and the pieces they share.
#include <gtest/gtest.h>

#include <set>

#include "heed/error.h"
#include "heed/mixers/token_mixer.h"
#include "heed/nn/buckets.h"
#include "heed/nn/lsh.h"
#include "heed/nn/spherical_clusters.h"
#include "support/torch_support.h"

namespace heed::buckets_test {
namespace {

using nlohmann::json;
using test::relative_error;
using torch::Tensor;

constexpr double kTolerance = test::kForwardTolerance;

Tensor unit(const Tensor& x) { return x / x.norm(2, -1, true); }

/// Queries of any length and the keys that shared projections make of them.
CoreInput shared_input(int64_t n, int64_t heads, int64_t size, torch::ScalarType dtype = torch::kFloat32) {
  torch::manual_seed(n + 31 * heads);
  const auto q = torch::randn({2, heads, n, size}, dtype);
  return {q, unit(q), torch::randn({2, heads, n, size}, dtype)};
}

/// The formula: softmax over the visible pairs, own value where there are none.
Tensor explicitly(const CoreInput& in, const Tensor& visible) {
  const auto q = in.q.to(torch::kFloat64), k = in.k.to(torch::kFloat64), v = in.v.to(torch::kFloat64);
  const auto logits = torch::matmul(q, k.transpose(2, 3)) / std::sqrt(double(q.size(3)));
  const auto weights = torch::softmax(logits.masked_fill(~visible, -1e300), 3).masked_fill(~visible, 0);
  return torch::where(visible.any(-1, true), torch::matmul(weights, v), v);
}

Tensor core(const char* name, json config, const CoreInput& in, bool training = false) {
  config["dim"] = in.q.size(1) * in.q.size(3);
  config["heads"] = in.q.size(1);
  auto mixer = make_mixer(name, config);
  mixer->train(training);
  torch::NoGradGuard no_grad;
  return mixer->mix(in);
}

Tensor strictly_before(int64_t n) { return torch::ones({n, n}, torch::kBool).tril(-1); }

TEST(Buckets, AttentionIsThatOfPairsInOneBucket) {
  torch::manual_seed(3);
  const auto q = torch::randn({2, 3, 19, 8}), k = torch::randn({2, 3, 23, 8}), v = torch::randn({2, 3, 23, 8});
  const auto q_buckets = torch::randint(0, 5, {2, 3, 19}), k_buckets = torch::randint(0, 4, {2, 3, 23});
  const auto seen = nn::bucket_attention(q, k, v, q_buckets, k_buckets, 5, {});
  const auto visible = q_buckets.unsqueeze(3) == k_buckets.unsqueeze(2);
  AttentionOptions listed;
  listed.blocks = nn::listed_pairs(visible);
  const auto pairs = attention_with_lse(q, k, v, listed);
  EXPECT_LT(relative_error(seen.out, pairs.out), kTolerance);
  const auto alone = ~visible.any(3);
  ASSERT_TRUE(alone.any().item<bool>());  // bucket 4 has no keys
  EXPECT_TRUE(torch::equal(seen.lse == -INFINITY, alone));
  EXPECT_EQ(seen.out.masked_select(alone.unsqueeze(3)).abs().max().item<float>(), 0);
}

TEST(Buckets, RanksCountEarlierMembers) {
  const auto ranks = nn::ranks_in_buckets(torch::tensor({{2, 0, 2, 2, 0, 1}, {1, 1, 1, 1, 1, 1}}, torch::kInt64));
  EXPECT_TRUE(torch::equal(ranks, torch::tensor({{0, 0, 1, 2, 1, 0}, {0, 1, 2, 3, 4, 5}}, torch::kInt64)));
}

TEST(SphericalClusters, FollowingRecoversPlantedDirections) {
  torch::manual_seed(11);
  constexpr int64_t kGroups = 3, kSize = 16;
  // Rows without a mean, orthogonal to each other.
  auto basis = torch::zeros({kGroups, kSize});
  for (int64_t g = 0; g < kGroups; ++g) {
    basis[g][2 * g] = 1;
    basis[g][2 * g + 1] = -1;
  }
  const auto group = torch::arange(90).div(30, "floor").expand({1, 2, 90});
  const auto x = nn::direction(basis.index({group.flatten()}).view({1, 2, 90, kSize}) * 3 +
                               torch::randn({1, 2, 90, kSize}) * 0.01);
  nn::SphericalClusters clusters(2, kGroups, kSize, 5);
  clusters->fit(x, {}, 10);
  clusters->follow(x, {}, 0);
  const auto cosine = torch::matmul(unit(clusters->centroids()), unit(basis).t()).amax(2);
  EXPECT_GT(cosine.min().item<float>(), 0.999);
  const auto before = clusters->centroids().clone();
  clusters->follow(x, torch::zeros({1, 90}, torch::kBool), 0.5);
  EXPECT_TRUE(torch::equal(clusters->centroids(), before));  // nobody is shown, so all are empty
}

TEST(Routing, OneClusterIsAttentionToAllOthers) {
  for (const char* assignment : {"argmax", "topw"}) {
    const auto in = shared_input(21, 2, 8);
    const json config{{"clusters", 1}, {"local_heads", 0}, {"assignment", assignment}};
    EXPECT_LT(relative_error(core("routing_attention", config, in), explicitly(in, strictly_before(21))), kTolerance);
    auto apart = in;
    apart.k = torch::randn_like(in.k);
    auto both = config;
    both.update({{"causal", false}});
    EXPECT_LT(relative_error(core("routing_attention", both, apart), attention(apart.q, apart.k, apart.v)), kTolerance);
  }
}

TEST(Routing, PlantedClustersAreBlocks) {
  constexpr int64_t kGroups = 3, kSize = 12, kTokens = 30;
  torch::manual_seed(2);
  auto basis = torch::zeros({kGroups, kSize});
  for (int64_t g = 0; g < kGroups; ++g) basis[g][2 * g] = 1, basis[g][2 * g + 1] = -1;
  const auto group = torch::arange(kTokens).remainder(kGroups).expand({1, 1, kTokens});
  const auto q = basis.index({group.flatten()}).view({1, 1, kTokens, kSize}) * 2;
  const CoreInput in{q, q + torch::zeros_like(q), torch::randn({1, 1, kTokens, kSize})};
  auto mixer = make_mixer(
      "routing_attention",
      {{"dim", kSize}, {"heads", 1}, {"clusters", kGroups}, {"local_heads", 0}, {"causal", false}, {"init", "kmeans"}});
  mixer->train();
  mixer->mix(in);  // places the centroids
  mixer->eval();
  AttentionOptions blocks;
  blocks.q_documents = blocks.k_documents = group.squeeze(0).to(torch::kInt32).contiguous();
  EXPECT_LT(relative_error(mixer->mix(in), attention(in.q, in.k, in.v, blocks)), kTolerance);
}

/// [B, H, n, D] as directions, in double.
Tensor directions(const Tensor& x) {
  const auto y = x.to(torch::kFloat64);
  const auto centred = y - y.mean(-1, true);
  return unit(centred / (centred.square().mean(-1, true) + 1e-5).sqrt());
}

/// A core in double whose heads all route, with its centroids.
struct Routed {
  Routed(json config, int64_t heads, int64_t size) {
    config.update({{"dim", heads * size}, {"heads", heads}, {"local_heads", 0}});
    mixer = make_mixer("routing_attention", config);
    mixer->eval();
    mixer->to(torch::kFloat64);
    centroids = mixer->named_buffers()["clusters.centroids"];
  }
  Tensor scores(const Tensor& x) const { return torch::matmul(centroids, directions(x).transpose(2, 3)); }
  std::shared_ptr<TokenMixer> mixer;
  Tensor centroids;  // [H, C, D]
};

CoreInput routed_input(int64_t n, int64_t m, bool shared) {
  auto in = shared_input(m, 3, 8, torch::kFloat64);
  if (!shared) in.k = torch::randn_like(in.k);
  in.q = in.q.slice(2, 0, n);
  return in;
}

TEST(Routing, ArgmaxIsAttentionWithinTheNearestClusters) {
  for (const bool padded : {false, true})
    for (const auto& [causal, shared, n] :
         {std::tuple<bool, bool, int64_t>{true, true, 40}, {false, true, 40}, {false, false, 40}, {false, false, 11}}) {
      const Routed routed({{"clusters", 5}, {"causal", causal}, {"shared", shared}}, 3, 8);
      auto in = routed_input(n, 40, shared);
      if (padded)
        in.key_padding = torch::zeros({2, 40}, torch::kBool).index_fill_(1, torch::tensor({1, 7, 8, 30}), true);
      const auto of_k = routed.scores(in.k).argmax(2), of_q = shared ? of_k : routed.scores(in.q).argmax(2);
      auto visible = of_q.unsqueeze(3) == of_k.unsqueeze(2);
      if (causal) visible = visible & strictly_before(40);
      if (shared && !causal) visible = visible & ~torch::eye(40).to(torch::kBool);
      if (padded) visible = visible & in.key_padding->logical_not().view({2, 1, 1, 40});
      const auto logits = torch::matmul(in.q, in.k.transpose(2, 3)) / std::sqrt(8.0);
      const auto w = torch::softmax(logits.masked_fill(~visible, -1e300), 3).masked_fill(~visible, 0);
      // Alone a token has its own value; a query whose cluster has no keys gives 0.
      auto expected = shared ? explicitly(in, visible) : torch::matmul(w, in.v);
      torch::NoGradGuard no_grad;
      auto found = routed.mixer->mix(in);
      if (padded && n == 40) {  // what a padded token attends to is its own affair
        const auto real = in.key_padding->logical_not().view({2, 1, 40, 1});
        found = found * real, expected = expected * real;
      }
      EXPECT_LT(relative_error(found, expected), 1e-12) << causal << shared << n << padded;
    }
}

/// The definition of topw, cluster by cluster.
Tensor top_of_clusters(const Routed& routed, const CoreInput& in, bool causal, bool shared, bool crosses) {
  const int64_t n = in.q.size(2), m = in.k.size(2), clusters = routed.centroids.size(1);
  auto sums = torch::zeros_like(in.q), times = torch::zeros({2, 3, n, 1}, torch::kFloat64);
  auto k_scores = routed.scores(in.k), q_scores = routed.scores(in.q);
  if (in.key_padding) {
    const auto padding = in.key_padding->view({2, 1, 1, m});
    k_scores = k_scores.masked_fill(padding, -INFINITY);
    if (!crosses) q_scores = q_scores.masked_fill(padding, -INFINITY);
  }
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t h = 0; h < 3; ++h)
      for (int64_t c = 0; c < clusters; ++c) {
        const auto best = [&](const Tensor& scores, int64_t count) {
          return std::get<0>(std::get<1>(scores[b][h][c].topk(count)).sort());
        };
        const auto round = [&](int64_t tokens) {
          return std::max<int64_t>(1, std::lround(double(tokens) / double(clusters)));
        };
        const int64_t real = in.key_padding ? m - (*in.key_padding)[b].sum().item<int64_t>() : m;
        const auto keys = best(k_scores, round(real)),
                   queries = shared ? keys : best(q_scores, round(crosses ? n : real));
        for (int64_t r = 0; r < queries.size(0); ++r) {
          const int64_t i = queries[r].item<int64_t>();
          std::vector<int64_t> seen;
          for (int64_t s = 0; s < keys.size(0); ++s) {
            const int64_t j = keys[s].item<int64_t>();
            const bool hidden = in.key_padding && (*in.key_padding)[b][j].item<bool>();
            if (!hidden && !(causal && j >= i) && !(shared && j == i)) seen.push_back(j);
          }
          Tensor out = shared ? in.v[b][h][i] : torch::zeros({8}, torch::kFloat64);
          if (!seen.empty()) {
            const auto index = torch::tensor(seen);
            const auto logits = torch::matmul(in.k[b][h].index_select(0, index), in.q[b][h][i]) / std::sqrt(8.0);
            out = torch::matmul(torch::softmax(logits, 0), in.v[b][h].index_select(0, index));
          }
          sums[b][h][i] += out;
          times[b][h][i] += 1;
        }
      }
  return sums / times.clamp_min(1);
}

TEST(Routing, TopWIsTheMeanOverTheClustersThatTakeAToken) {
  for (const bool padded : {false, true})
    for (const auto& [causal, shared, n] :
         {std::tuple<bool, bool, int64_t>{true, true, 30}, {false, true, 30}, {false, false, 30}, {false, false, 17}}) {
      const Routed routed({{"clusters", 4}, {"causal", causal}, {"shared", shared}, {"assignment", "topw"}}, 3, 8);
      auto in = routed_input(n, 30, shared);
      if (padded) {
        in.key_padding = torch::zeros({2, 30}, torch::kBool).index_fill_(1, torch::tensor({0, 4, 5, 29}), true);
        in.key_padding->select(0, 1).slice(0, 11).fill_(true);
      }
      torch::NoGradGuard no_grad;
      EXPECT_LT(relative_error(routed.mixer->mix(in), top_of_clusters(routed, in, causal, shared, n != 30)), 1e-12)
          << causal << shared << n << padded;
    }
}

/// Clusters take as many tokens of a padded sequence as they would without the padding.
TEST(Routing, PaddingWidensNoCluster) {
  torch::NoGradGuard no_grad;
  for (const bool causal : {true, false})
    for (const int64_t real : {16, 2}) {  // 2: fewer tokens than clusters
      torch::manual_seed(20 + real);
      auto mixer = make_mixer(
          "routing_attention",
          {{"dim", 16}, {"heads", 2}, {"clusters", 3}, {"local_heads", 0}, {"causal", causal}, {"assignment", "topw"}});
      mixer->eval();
      MixerInput in;
      in.x = torch::randn({2, 24, 16});
      in.key_padding = torch::zeros({2, 24}, torch::kBool);
      in.key_padding->select(0, 0).slice(0, real).fill_(true);
      const auto padded = mixer->forward(in);
      const auto alone = [&](int64_t item, int64_t tokens) {
        return mixer->forward({.x = in.x.narrow(0, item, 1).narrow(1, 0, tokens)});
      };
      EXPECT_LT(relative_error(padded.narrow(0, 0, 1).narrow(1, 0, real), alone(0, real)), kTolerance) << real;
      EXPECT_LT(relative_error(padded.narrow(0, 1, 1), alone(1, 24)), kTolerance) << real;
    }
}

TEST(Routing, PaddedQueriesDisplaceNobody) {
  auto mixer = make_mixer(
      "routing_attention",
      {{"dim", 16}, {"heads", 2}, {"clusters", 3}, {"local_heads", 0}, {"causal", false}, {"assignment", "topw"}});
  mixer->eval();
  torch::NoGradGuard no_grad;
  torch::manual_seed(12);
  MixerInput in;
  in.x = torch::randn({1, 24, 16});
  in.key_padding = (torch::arange(24) >= 16).unsqueeze(0);
  const auto before = mixer->forward(in);
  in.x = in.x.clone();
  in.x.slice(1, 16).normal_(0, 5);
  EXPECT_TRUE(torch::equal(mixer->forward(in).slice(1, 0, 16), before.slice(1, 0, 16)));
  // Of a memory padding says nothing of the queries, even where they are as many.
  MixerInput cross;
  cross.x = torch::randn({1, 24, 16});
  cross.memory = torch::randn({1, 24, 16});
  cross.key_padding = in.key_padding;
  const auto whole = mixer->forward(cross);
  cross.x = cross.x.clone();
  cross.x.slice(1, 16).normal_(0, 5);
  EXPECT_FALSE(torch::equal(mixer->forward(cross).slice(1, 0, 16), whole.slice(1, 0, 16)));
}

TEST(Routing, CommitmentIsALossOnTheDistanceToCentroids) {
  torch::manual_seed(13);
  constexpr double kWeight = 0.3;
  for (const bool causal : {true, false}) {
    json config{{"dim", 16}, {"heads", 2}, {"clusters", 3}, {"local_heads", 1}, {"causal", causal}, {"decay", 1.0}};
    auto plain = make_mixer("routing_attention", config);
    config["commitment"] = kWeight;
    auto committed = make_mixer("routing_attention", config);
    auto target = committed->named_parameters();
    for (const auto& entry : plain->named_parameters()) {
      torch::NoGradGuard no_grad;
      target[entry.key()].copy_(entry.value());
    }
    for (auto* mixer : {&plain, &committed}) (*mixer)->to(torch::kFloat64), (*mixer)->train();
    MixerInput in;
    in.x = torch::randn({2, 20, 16}, torch::kFloat64).requires_grad_();
    in.key_padding = torch::zeros({2, 20}, torch::kBool);
    in.key_padding->select(0, 1).slice(0, 15).fill_(true);
    const auto weights = torch::randn({2, 20, 16}, torch::kFloat64);
    const auto gradient = [&](TokenMixer& mixer) {
      return torch::autograd::grad({(mixer.forward(in) * weights).sum()}, {in.x})[0];
    };
    // The second head routes.
    const auto head = [&](const char* name) {
      return torch::matmul(in.x, plain->named_parameters()[name].t()).slice(2, 8);
    };
    const auto centroids = plain->named_buffers()["clusters.centroids"][0];
    auto apart = torch::zeros({}, torch::kFloat64);
    double count = 0;
    for (const char* name : {"q_proj.weight", "k_proj.weight"}) {
      if (causal && name[0] == 'k') continue;  // keys are the queries
      auto x = head(name);
      if (causal) x = unit(x);
      const auto d = directions(x);
      const auto own = centroids.index_select(0, torch::matmul(d, centroids.t()).argmax(2).flatten()).view_as(d);
      const auto real = in.key_padding->logical_not().unsqueeze(2);
      apart = apart + ((d - own).square() * real).sum();
      count += double(real.sum().item<int64_t>()) * 8;
    }
    const auto expected = torch::autograd::grad({apart / count * kWeight}, {in.x})[0];
    EXPECT_LT(relative_error(gradient(*committed) - gradient(*plain), expected), 1e-9) << causal;
    committed->eval();
    plain->eval();
    EXPECT_LT(relative_error(gradient(*committed), gradient(*plain)), 1e-12);
  }
  EXPECT_THROW(make_mixer("routing_attention", {{"commitment", -1.0}}), Error);
}

TEST(Routing, CentroidsMoveToTheMeanOfQueriesAndKeys) {
  torch::manual_seed(14);
  constexpr double kDecay = 0.7;
  Routed routed({{"clusters", 3}, {"causal", false}, {"decay", kDecay}}, 3, 8);
  auto in = routed_input(9, 21, false);  // more keys than queries
  in.key_padding = torch::zeros({2, 21}, torch::kBool);
  in.key_padding->slice(1, 18).fill_(true);
  const auto before = routed.centroids.clone();
  auto expected = before.clone();
  for (int64_t h = 0; h < 3; ++h) {
    const auto all = torch::cat({directions(in.k).select(1, h).slice(1, 0, 18), directions(in.q).select(1, h)}, 1);
    const auto flat = all.flatten(0, 1), nearest = torch::matmul(flat, before[h].t()).argmax(1);
    for (int64_t c = 0; c < 3; ++c) {
      const auto own = flat.index({nearest == c});
      if (own.size(0) > 0) expected[h][c] = kDecay * before[h][c] + (1 - kDecay) * unit(own.mean(0));
    }
  }
  routed.mixer->train();
  routed.mixer->mix(in);
  EXPECT_LT(relative_error(routed.centroids, expected), 1e-12);
}

TEST(Routing, CentroidsFollowOnceAStepAndHaveNoGradient) {
  auto mixer = make_mixer("routing_attention", {{"dim", 16}, {"heads", 2}, {"clusters", 4}, {"decay", 0.5}});
  for (const auto& parameter : mixer->named_parameters())
    EXPECT_EQ(parameter.key().find("centroids"), std::string::npos);
  const auto centroids = [&] { return mixer->named_buffers()["clusters.centroids"].clone(); };
  EXPECT_FALSE(centroids().requires_grad());
  MixerInput in;
  in.x = torch::randn({2, 40, 16});
  const auto start = centroids();
  {
    torch::NoGradGuard recomputed_later;
    mixer->forward(in);
  }
  EXPECT_TRUE(torch::equal(centroids(), start));
  mixer->forward(in).sum().backward();
  EXPECT_FALSE(torch::equal(centroids(), start));
  mixer->eval();
  const auto trained = centroids();
  mixer->forward(in);
  EXPECT_TRUE(torch::equal(centroids(), trained));
}

TEST(Routing, FewerTokensThanClusters) {
  // topw: each centroid takes one token, which then is alone; argmax: most clusters are empty.
  const auto in = shared_input(3, 2, 8);
  const auto top = core("routing_attention", {{"clusters", 9}, {"local_heads", 0}, {"assignment", "topw"}}, in);
  const auto alone = (top - in.v).abs().amax(3), out = top.abs().amax(3);
  EXPECT_LT(torch::minimum(alone, out).max().item<float>(), 1e-6);  // its own value, or nobody took it: 0
  const auto nearest = core("routing_attention", {{"clusters", 900}, {"local_heads", 0}}, in);
  EXPECT_TRUE(test::all_finite(nearest));
  EXPECT_LT(relative_error(nearest.select(2, 0), in.v.select(2, 0)), 1e-6);
}

TEST(Routing, TopWLeaksMembershipAndHasNoStep) {
  auto mixer = make_mixer("routing_attention",
                          {{"dim", 16}, {"heads", 2}, {"clusters", 4}, {"local_heads", 0}, {"assignment", "topw"}});
  mixer->eval();
  EXPECT_THROW(mixer->make_state(1), Error);
  torch::NoGradGuard no_grad;
  torch::manual_seed(6);
  MixerInput in;
  in.x = torch::randn({1, 32, 16});
  const auto before = mixer->forward(in);
  in.x = in.x.clone();
  in.x.slice(1, 16) *= 3;
  in.x.slice(1, 16) += torch::randn({1, 16, 16});
  EXPECT_FALSE(torch::equal(mixer->forward(in).slice(1, 0, 16), before.slice(1, 0, 16)));
}

TEST(Routing, WhatItRefuses) {
  EXPECT_THROW(make_mixer("routing_attention", {{"shared", false}}), Error);
  EXPECT_THROW(make_mixer("routing_attention", {{"kv_heads", 2}}), Error);
  EXPECT_THROW(make_mixer("routing_attention", {{"positions", "alibi"}}), Error);
  EXPECT_THROW(make_mixer("routing_attention", {{"assignment", "best"}}), Error);
}

TEST(Lsh, GrayNeighboursDifferInOneBit) {
  for (const int64_t bits : {1, 3, 5, 7}) {
    // Rows whose signs under the identity are the codes 0 to 2^bits - 1.
    const auto codes = torch::arange(int64_t{1} << bits);
    auto x = torch::empty({codes.numel(), bits});
    for (int64_t b = 0; b < bits; ++b)
      x.select(1, b) = (codes.bitwise_right_shift(bits - 1 - b).bitwise_and(1)) * 2 - 1;
    const auto places = nn::gray_places(x.view({1, 1, -1, bits}), torch::eye(bits)).flatten();
    const auto code_at = torch::empty_like(places).scatter_(0, places, codes);
    const auto sorted = std::get<0>(places.sort());
    EXPECT_TRUE(torch::equal(sorted, codes)) << bits;
    for (int64_t p = 0; p + 1 < codes.numel(); ++p) {
      const auto change = uint64_t(code_at[p].item<int64_t>() ^ code_at[p + 1].item<int64_t>());
      EXPECT_EQ(__builtin_popcountll(change), 1) << bits << " bits at " << p;
    }
  }
}

/// Pairs that meet in some round, by the definition: one bucket, and at most one chunk of the bucket back.
Tensor meetings(const Tensor& k, const Tensor& rotations, int64_t chunk) {
  const auto buckets = nn::polytope_buckets(k, rotations);
  const int64_t n = k.size(2);
  auto place = torch::empty_like(buckets);
  for (int64_t t = 0; t < n; ++t)
    place.select(3, t) = (buckets.slice(3, 0, t) == buckets.slice(3, t, t + 1)).sum(3).div(chunk, "floor");
  const auto back = place.unsqueeze(4) - place.unsqueeze(3);
  return ((buckets.unsqueeze(4) == buckets.unsqueeze(3)) & (back >= 0) & (back <= 1)).any(2);
}

TEST(Reformer, RoundsAreTheUnionOfWhatMeets) {
  for (const int64_t rounds : {1, 2, 5})
    for (const bool causal : {true, false}) {
      const auto in = shared_input(50, 2, 8);
      const json config{{"rounds", rounds}, {"buckets", 4}, {"chunk", 4}, {"causal", causal}, {"seed", 9}};
      const auto visible = meetings(in.k, nn::seeded_normal({rounds, 8, 2}, 9), 4);
      const auto time = causal ? strictly_before(50) : ~torch::eye(50).to(torch::kBool);
      EXPECT_LT(relative_error(core("reformer", config, in), explicitly(in, visible & time)), kTolerance)
          << rounds << " rounds, causal " << causal;
    }
}

TEST(Reformer, OneLargeBucketIsDense) {
  // With the sign of one product as the hash, equal signs make one bucket; a chunk holds all.
  auto in = shared_input(30, 2, 8);
  in.q.copy_(in.q.abs());
  in.k = unit(in.q);
  auto mixer = make_mixer("reformer", {{"dim", 16}, {"heads", 2}, {"rounds", 1}, {"buckets", 2}, {"chunk", 30}});
  mixer->eval();
  torch::NoGradGuard no_grad;
  mixer->named_buffers()["rotations"].fill_(1);
  EXPECT_LT(relative_error(mixer->mix(in), explicitly(in, strictly_before(30))), kTolerance);
  // Identical rounds are one.
  auto twice = make_mixer("reformer", {{"dim", 16}, {"heads", 2}, {"rounds", 2}, {"buckets", 4}, {"chunk", 5}});
  auto once = make_mixer("reformer", {{"dim", 16}, {"heads", 2}, {"rounds", 1}, {"buckets", 4}, {"chunk", 5}});
  twice->eval(), once->eval();
  const auto rotation = torch::randn({1, 8, 2});
  once->named_buffers()["rotations"].copy_(rotation);
  twice->named_buffers()["rotations"].copy_(rotation.expand({2, 8, 2}));
  EXPECT_LT(relative_error(twice->mix(in), once->mix(in)), kTolerance);
}

TEST(Reformer, MoreRoundsComeNearerToDense) {
  double last = 1e9;
  for (const int64_t rounds : {1, 4, 16}) {
    double error = 0;
    for (int64_t seed = 0; seed < 4; ++seed) {
      const auto in = shared_input(96, 2, 8);
      const json config{{"rounds", rounds}, {"buckets", 8}, {"chunk", 16}, {"causal", false}, {"seed", seed}};
      error += relative_error(core("reformer", config, in), explicitly(in, ~torch::eye(96).to(torch::kBool)));
    }
    EXPECT_LT(error, last) << rounds;
    last = error;
  }
}

TEST(Reformer, WhatItRefuses) {
  EXPECT_THROW(make_mixer("reformer", {{"buckets", 3}}), Error);
  auto mixer = make_mixer("reformer", json::object());
  MixerInput in;
  in.x = in.memory.emplace(torch::randn({1, 6, 64}));
  EXPECT_THROW(mixer->forward(in), Error);
}

}  // namespace
}  // namespace heed::buckets_test
