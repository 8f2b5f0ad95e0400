// The card's facts of act_qkv.
#include "cache/policies/act_qkv.h"

#include <gtest/gtest.h>

#include "cache/layer_driver.h"
#include "cache/small_model.h"

namespace heed::cache::act_qkv_test {
namespace {

using testing::LayerText;
using torch::Tensor;

constexpr double kSame = 1e-5;
constexpr int64_t kBlock = 8, kSinks = 8, kWindow = 9, kBlocks = 3, kChunk = 16;

nlohmann::json settings(int64_t block = kBlock) {
  return {{"block", block},  {"sinks", kSinks}, {"window", kWindow}, {"budget", kSinks + kWindow + kBlocks * block},
          {"chunk", kChunk}, {"least", 1}};
}

std::unique_ptr<LayerCache> make(const LayerText& text, const nlohmann::json& with) {
  return make_policy("act_qkv", with, shape_of(text))({});
}

/// The card's probe of tokens [from, to), token by token: double [Hq, D].
Tensor probe(const LayerText& text, int64_t b, int64_t from, int64_t to) {
  const auto q = text.q[b].slice(1, from, to).to(torch::kFloat64).transpose(0, 1).flatten(1);  // [n, C]
  const auto phi = ((q - q.mean(0)) / q.std(0, false)).square().mean(1);
  return (q * (phi / phi.sum()).unsqueeze(1)).sum(0).view({text.q.size(1), -1});
}

/// What tokens [from, ...) that share a probe [Hq, D] read, up to token i.
testing::Read read(const LayerText& text, int64_t b, const Tensor& probe, int64_t from, int64_t i, int64_t block) {
  const int64_t sinks = (kSinks + block - 1) / block, recent = std::max<int64_t>(0, from - kWindow + 1) / block;
  std::vector<int64_t> keys;
  const auto take = [&](int64_t from_block, int64_t to_block) {
    for (int64_t j = from_block * block; j < std::min(to_block * block, i + 1); ++j) keys.push_back(j);
  };
  if (recent - sinks <= kBlocks) {
    take(0, i / block + 1);
    return testing::Read::ranked(keys);
  }
  auto scores = torch::zeros({recent - sinks}, torch::kFloat64);
  for (int64_t c = sinks; c < recent; ++c)
    for (int64_t h = 0; h < text.q.size(1); ++h)
      scores[c - sinks] +=
          text.k[b][h / text.group()].slice(0, c * block, (c + 1) * block).to(torch::kFloat64).mean(0).dot(probe[h]);
  take(0, sinks);
  for (const int64_t c : testing::largest(scores, kBlocks)) take(sinks + c, sinks + c + 1);
  take(recent, i / block + 1);
  return testing::Read::ranked(keys);
}

TEST(ActQkv, ReadsTheBlocksOfItsProbeAtTheirRanks) {
  const int64_t prompt = 107;
  for (const int64_t block : {8, 16}) {
    for (const auto& [batch, kv_heads] : {std::pair{1, 1}, {3, 1}, {3, 4}}) {
      const auto text = testing::random_text(batch, 4, kv_heads, prompt + 11, 61);
      auto cache = make(text, settings(block));
      const auto got = testing::drive(*cache, text, prompt, 64);
      double worst = 0;
      int64_t reads = 0;
      for (int64_t b = 0; b < batch; ++b) {
        for (int64_t i = 0; i < text.length(); ++i) {
          const bool step = i >= prompt;
          const int64_t from = step ? i : i / kChunk * kChunk, to = step ? i + 1 : std::min(from + kChunk, prompt);
          const auto asks = step ? text.q[b].select(1, i).to(torch::kFloat64) : probe(text, b, from, to);
          const auto what = read(text, b, asks, from, i, block);
          if (step) reads += kv_heads * int64_t(what.keys.size());
          for (int64_t h = 0; h < 4; ++h) {
            const auto want = testing::attend_reference(text, b, h, i, what).out;
            worst = std::max(worst, (got[b][h][i] - want).abs().max().item<double>());
          }
        }
      }
      EXPECT_LE(worst, kSame) << "block " << block << ", " << batch << " sequences, " << kv_heads << " KV heads";
      EXPECT_EQ(cache->reads().attended, reads);
    }
  }
}

TEST(ActQkv, ActivationBiasIsOneOnAverageAndHasNoUnits) {
  const auto q = testing::random_text(2, 4, 4, 33, 62).q;
  const auto bias = activation_bias(q);
  EXPECT_LE((bias.mean(1) - 1).abs().max().item<double>(), 1e-12);
  const auto scaled = q.to(torch::kFloat64) * torch::rand({1, 4, 1, 16}).add(0.5) + torch::randn({1, 4, 1, 16});
  EXPECT_LE((activation_bias(scaled) - bias).abs().max().item<double>(), 1e-9);
}

TEST(ActQkv, TheOddTokenHasTheWeightOfAllOthers) {
  const int64_t m = 9;
  auto q = torch::randn({1, 4, 1, 16}).expand({1, 4, m, 16}).contiguous();
  q.select(2, 3).copy_(torch::randn({1, 4, 16}));
  const auto bias = activation_bias(q);
  EXPECT_NEAR((bias[0][3] / bias.sum()).item<double>(), double(m - 1) / double(m), 1e-9);
  const auto want = (double(m - 1) * q.select(2, 3) + q.select(2, 0)) / double(m);
  EXPECT_LE((probe_query(q).squeeze(2) - want).abs().max().item<double>(), 1e-6);
}

TEST(ActQkv, QueriesThatAreAllEqualAreTheirOwnProbe) {
  const auto q = torch::randn({2, 4, 1, 16});
  EXPECT_LE((probe_query(q.expand({2, 4, 7, 16})) - q).abs().max().item<double>(), 1e-6);
  EXPECT_LE((probe_query(q) - q).abs().max().item<double>(), 1e-6);
}

TEST(ActQkv, LayersShareABudgetExactly) {
  torch::manual_seed(63);
  for (int trial = 0; trial < 100; ++trial) {
    const int64_t layers = 1 + trial % 33, mean = 1 + trial % 17, least = 1 + trial % mean;
    const auto random = torch::randint(1, 200, {layers}, torch::kInt64);
    const std::vector<int64_t> wanted(random.data_ptr<int64_t>(), random.data_ptr<int64_t>() + layers);
    const auto budgets = layer_budgets(wanted, mean, least);
    int64_t sum = 0;
    for (int64_t i = 0; i < layers; ++i) {
      sum += budgets[i];
      EXPECT_GE(budgets[i], least);
      EXPECT_LE(budgets[i], 2 * mean);
      for (int64_t j = 0; j < layers; ++j)
        if (wanted[i] < wanted[j]) {
          EXPECT_LE(budgets[i], budgets[j]);
        }
    }
    EXPECT_EQ(sum, layers * mean) << layers << " layers, mean " << mean << ", least " << least;
  }
  EXPECT_EQ(layer_budgets({10, 30}, 20, 1), (std::vector<int64_t>{10, 30}));
  EXPECT_EQ(layer_budgets({1, 100}, 20, 5), (std::vector<int64_t>{5, 35}));
}

TEST(ActQkv, EveryStepOfAModelReadsTheBudgetOfItsLayers) {
  auto model = testing::small_decoder(4, 2, 3);
  const auto tokens = testing::random_tokens(2, 140, 64);
  auto with = settings();
  with["mass"] = 0.5;
  Session session(model, make_policy("act_qkv", with, shape_of(model->config())), 2, 32);
  session.prefill(tokens.slice(1, 0, 120));
  bool differ = false;
  for (int64_t i = 120; i < 140; ++i) {
    const int64_t before = session.reads().attended;
    std::vector<int64_t> layers;
    each_cache(session.state(), [&](LayerCache& cache) { layers.push_back(-cache.reads().attended); });
    session.step(tokens.select(1, i));
    size_t layer = 0;
    each_cache(session.state(), [&](LayerCache& cache) { layers[layer++] += cache.reads().attended; });
    differ = differ || layers[0] != layers[1] || layers[1] != layers[2];
    // 3 layers, 2 sequences, 2 KV heads: sinks, the layer's blocks, and what is recent.
    const int64_t recent = i + 1 - (i + 1 - kWindow) / kBlock * kBlock;
    EXPECT_EQ(session.reads().attended - before, 3 * 2 * 2 * (kSinks + kBlocks * kBlock + recent)) << i;
  }
  EXPECT_TRUE(differ);
}

TEST(ActQkv, AllOfTheMassIsTheFullCache) {
  const auto text = testing::random_text(2, 4, 2, 90, 65);
  auto full = make_policy("full", {}, shape_of(text))({});
  auto with = settings();
  with["mass"] = 1;
  auto cache = make(text, with);
  const auto want = testing::drive(*full, text, 80, 32);
  EXPECT_LE((testing::drive(*cache, text, 80, 32) - want).abs().max().item<double>(), kSame);
}

TEST(ActQkv, RepeatedHeadsChangeNothing) {
  const auto text = testing::random_text(2, 4, 2, 90, 66);
  auto repeated = text;
  repeated.k = text.k.repeat_interleave(2, 1);
  repeated.v = text.v.repeat_interleave(2, 1);
  auto a = make(text, settings()), b = make(repeated, settings());
  EXPECT_LE((testing::drive(*a, text, 80, 16) - testing::drive(*b, repeated, 80, 16)).abs().max().item<double>(),
            kSame);
}

TEST(ActQkv, RetainedMassBoundsTheError) {
  const auto text = testing::random_text(1, 4, 2, 110, 67, "none");
  auto cache = make(text, settings());
  const auto got = testing::drive(*cache, text, 100, 32);
  for (int64_t i = 100; i < 110; ++i) {
    const auto what = read(text, 0, text.q[0].select(1, i).to(torch::kFloat64), i, i, kBlock);
    for (int64_t h = 0; h < 4; ++h) testing::expect_within_retained_mass(text, 0, h, i, what.keys, got[0][h][i]);
  }
}

TEST(ActQkv, AQuestionAmidFillerIsRecalledByItsUnusualQuery) {
  // A window of near-equal queries with one that asks for a block: the probe must be nearer to it than the mean is.
  torch::manual_seed(68);
  int64_t probe_finds = 0, mean_finds = 0, last_finds = 0;
  for (int trial = 0; trial < 50; ++trial) {
    const auto filler = torch::randn({1, 1, 1, 32});
    auto q = (filler + 0.1 * torch::randn({1, 1, 32, 32}));
    const int64_t asks = torch::randint(0, 31, {1}).item<int64_t>();
    const auto blocks = torch::randn({16, 32});
    const int64_t needle = torch::randint(0, 16, {1}).item<int64_t>();
    q.select(2, asks).copy_(3 * blocks[needle].view({1, 1, 32}));
    const auto found = [&](const Tensor& by) {
      return blocks.matmul(by.flatten().to(torch::kFloat32)).argmax().item<int64_t>() == needle;
    };
    probe_finds += found(probe_query(q));
    mean_finds += found(q.mean(2, true));
    last_finds += found(q.select(2, 31));
  }
  EXPECT_GE(probe_finds, 45);
  EXPECT_GT(probe_finds, mean_finds);
  EXPECT_GT(probe_finds, last_finds);
}

}  // namespace
}  // namespace heed::cache::act_qkv_test
