// The card's facts of retrieval_attention.
#include <gtest/gtest.h>

#include "cache/key_graph.h"
#include "cache/layer_driver.h"
#include "cache/oracle_induction.h"

namespace heed::cache::retrieval_attention_test {
namespace {

using testing::LayerText;
using testing::OracleInduction;
using torch::Tensor;

constexpr double kSame = 1e-5;
constexpr int64_t kPrompt = 107, kSteps = 12, kSinks = 4, kRecent = 10, kTopK = 9;

nlohmann::json settings(const std::string& search) {
  return {{"sinks", kSinks}, {"recent", kRecent}, {"top_k", kTopK}, {"beam", 100}, {"search", search}};
}

std::unique_ptr<LayerCache> make(const LayerText& text, const nlohmann::json& with) {
  return make_policy("retrieval_attention", with, shape_of(text))({});
}

std::vector<int64_t> read(const LayerText& text, int64_t b, int64_t h, int64_t i) {
  std::vector<int64_t> keys{0, 1, 2, 3};
  const auto products = testing::attend_all(text, b, h, i).logits.slice(0, kSinks, kPrompt - kRecent);
  for (const int64_t j : testing::largest(products, kTopK)) keys.push_back(kSinks + j);
  for (int64_t j = kPrompt - kRecent; j <= i; ++j) keys.push_back(j);
  return keys;
}

TEST(RetrievalAttention, ReadsWhatIsHotAndTheBestKeysOfEveryHead) {
  // A beam of as many keys as there are makes the graph's search exact, too.
  for (const char* search : {"exact", "graph"}) {
    for (const auto& [batch, kv_heads] : {std::pair{1, 1}, {3, 1}, {3, 4}}) {
      const auto text = testing::random_text(batch, 4, kv_heads, kPrompt + kSteps, 71);
      auto cache = make(text, settings(search));
      const auto got = testing::drive(*cache, text, kPrompt, 50);
      int64_t reads = 0;
      for (int64_t b = 0; b < batch; ++b) {
        for (int64_t h = 0; h < 4; ++h) {
          for (int64_t i = kPrompt; i < text.length(); ++i) {
            const auto keys = read(text, b, h, i);
            const auto want = testing::attend_reference(text, b, h, i, testing::Read::absolute(keys, i)).out;
            EXPECT_LE((got[b][h][i] - want).abs().max().item<double>(), kSame) << search << " " << b << " " << h;
            testing::expect_within_retained_mass(text, b, h, i, keys, got[b][h][i]);
            // What is hot is read once for a KV head, what is retrieved once for a query head.
            reads += kTopK + (h % text.group() == 0 ? int64_t(keys.size()) - kTopK : 0);
          }
        }
      }
      EXPECT_EQ(cache->reads().attended, reads);
      EXPECT_EQ(cache->reads().scored, kSteps * batch * 4 * (kPrompt - kRecent - kSinks)) << search;
    }
  }
}

TEST(RetrievalAttention, AGroupSharesWhatItRetrieves) {
  const auto text = testing::random_text(1, 4, 2, kPrompt + kSteps, 71);
  auto with = settings("exact");
  with["top_k"] = 2 * kTopK;
  with["per"] = "kv_head";
  auto shared = make(text, with), each = make(text, settings("exact"));
  const auto got = testing::drive(*shared, text, kPrompt, 50), want = testing::drive(*each, text, kPrompt, 50);
  EXPECT_TRUE(torch::equal(got, want));
  EXPECT_EQ(shared->reads().attended, each->reads().attended);
}

TEST(RetrievalAttention, AllKeysByExactSearchAreTheFullCache) {
  const auto text = testing::random_text(2, 4, 2, kPrompt + kSteps, 72);
  auto full = make_policy("full", {}, shape_of(text))({});
  auto with = settings("exact");
  with["top_k"] = with["beam"] = 1000;
  auto cache = make(text, with);
  const auto want = testing::drive(*full, text, kPrompt, 50);
  EXPECT_LE((testing::drive(*cache, text, kPrompt, 50) - want).abs().max().item<double>(), kSame);
}

TEST(RetrievalAttention, RepeatedHeadsChangeNothing) {
  const auto text = testing::random_text(2, 4, 2, kPrompt + kSteps, 73);
  auto repeated = text;
  repeated.k = text.k.repeat_interleave(2, 1);
  repeated.v = text.v.repeat_interleave(2, 1);
  auto a = make(text, settings("exact")), b = make(repeated, settings("exact"));
  const auto want = testing::drive(*a, text, kPrompt, 50);
  EXPECT_LE((testing::drive(*b, repeated, kPrompt, 50) - want).abs().max().item<double>(), kSame);
}

TEST(RetrievalAttention, CachesOf16BitsSearchTheirKeysInFull) {
  auto text = testing::random_text(1, 4, 2, kPrompt + kSteps, 74, "none");
  for (auto* x : {&text.q, &text.k, &text.v}) *x = x->to(torch::kBFloat16);
  auto exact = make(text, settings("exact")), graph = make(text, settings("graph"));
  EXPECT_TRUE(torch::equal(testing::drive(*exact, text, kPrompt, 50), testing::drive(*graph, text, kPrompt, 50)));
  EXPECT_GE(graph->policy_bytes(), 2 * (kPrompt - kRecent - kSinks) * 16 * 4);
}

TEST(RetrievalAttention, FindsTheRun) {
  for (const int64_t at : {137, 500, 850}) {
    OracleInduction oracle("retrieval_attention", {{"sinks", 1}, {"recent", 32}, {"top_k", 4}, {"beam", 64}});
    EXPECT_EQ(OracleInduction::correct(oracle.answer(OracleInduction::prompt(1000, at, 75 + at))), 5) << at;
  }
}

TEST(PartialResults, AnySplitMergesToOneSoftmax) {
  const auto text = testing::random_text(1, 1, 1, 60, 76, "none");
  const auto q = text.q.slice(2, 59);
  const auto over = [&](int64_t from, int64_t to) {
    const auto part = attention_with_lse(q, text.k.slice(2, from, to), text.v.slice(2, from, to));
    return ops::DecodeResult{part.out, part.lse.unsqueeze(3), {}, {}, 0};
  };
  const auto want = over(0, 60);
  for (const int64_t at : {1, 17, 59}) {
    const auto got = merge(over(0, at), over(at, 60));
    EXPECT_LE((got.out - want.out).abs().max().item<double>(), kSame);
    EXPECT_LE((got.lse - want.lse).abs().max().item<double>(), kSame);
  }
}

/// Keys of one head and queries that are distributed apart from them.
struct Apart {
  Tensor keys, build, ask;
  int64_t count() const { return keys.size(0); }
  KeyRows rows() const { return {keys.data_ptr<float>(), keys.size(0), keys.size(1), keys.size(1)}; }

  static Apart make(int64_t count, int64_t dim, uint64_t seed) {
    torch::manual_seed(seed);
    const auto mean = torch::randn({dim});
    return {torch::randn({count, dim}) - mean, torch::randn({count, dim}) + mean, torch::randn({100, dim}) + mean};
  }
  /// The graph of what `queries` find among the keys.
  KeyGraph graph(const Tensor& queries) const {
    const auto found = std::get<1>(queries.matmul(keys.t()).topk(32, 1)).to(torch::kInt32).contiguous();
    return KeyGraph(rows(), {found.data_ptr<int32_t>(), size_t(found.numel())}, 32, 32);
  }
  struct Measured {
    double recall, scanned;  ///< of the best 20; share of keys
  };
  Measured measure(const KeyGraph& graph, int64_t beam) const {
    const auto best = std::get<1>(ask.matmul(keys.t()).topk(20, 1));
    Measured sum{};
    for (int64_t i = 0; i < ask.size(0); ++i) {
      const auto found = graph.search(rows(), ask[i].data_ptr<float>(), beam, 20);
      for (const int32_t key : found.keys) sum.recall += double(best[i].eq(key).any().item<bool>());
      sum.scanned += double(found.scanned);
    }
    return {sum.recall / double(20 * ask.size(0)), sum.scanned / double(count() * ask.size(0))};
  }
  double scanned_for(const KeyGraph& graph, double recall) const {
    for (int64_t beam = 20; beam < count(); beam += beam / 4) {
      const auto measured = measure(graph, beam);
      if (measured.recall >= recall) return measured.scanned;
    }
    return 1;
  }
};

TEST(KeyGraph, ReachesEveryKeyAndFindsAllWithTheWidestBeam) {
  for (const int64_t count : {1, 2, 33, 500}) {
    const auto apart = Apart::make(count, 24, 77);
    const auto none = KeyGraph(apart.rows(), {}, 32, 4);
    EXPECT_EQ(none.reachable(), count);
    if (count < 32) continue;
    const auto graph = apart.graph(apart.build);
    EXPECT_EQ(graph.reachable(), count);
    EXPECT_EQ(apart.measure(graph, count).recall, 1);
    EXPECT_EQ(apart.measure(graph, count).scanned, 1);
  }
  EXPECT_EQ(KeyGraph({}, {}, 32, 4).reachable(), 0);
}

TEST(KeyGraph, EqualAndNonFiniteKeysDoNoHarm) {
  auto keys = torch::ones({40, 8});
  keys[7][3] = NAN;
  keys[9][0] = INFINITY;
  const KeyRows rows{keys.data_ptr<float>(), 40, 8, 8};
  std::vector<int32_t> found(40);
  std::iota(found.begin(), found.end(), 0);
  const KeyGraph graph(rows, found, 10, 4);
  EXPECT_EQ(graph.reachable(), 40);
  const std::vector<float> query(8, 1);
  EXPECT_EQ(graph.search(rows, query.data(), 40, 40).keys.size(), 40u);
}

TEST(KeyGraph, RecallGrowsWithWhatIsScanned) {
  const auto apart = Apart::make(2000, 32, 78);
  const auto graph = apart.graph(apart.build);
  Apart::Measured last{};
  for (const int64_t beam : {20, 40, 80, 160, 320, 2000}) {
    const auto now = apart.measure(graph, beam);
    EXPECT_GE(now.recall, last.recall) << beam;
    EXPECT_GT(now.scanned, last.scanned) << beam;
    last = now;
  }
  EXPECT_EQ(last.recall, 1);
}

TEST(KeyGraph, QueriesBuildABetterGraphThanKeys) {
  const auto apart = Apart::make(4000, 32, 79);
  const double by_queries = apart.scanned_for(apart.graph(apart.build), 0.95);
  const double by_keys = apart.scanned_for(apart.graph(apart.keys), 0.95);
  RecordProperty("share scanned for 95% recall, built from queries", std::to_string(by_queries));
  RecordProperty("share scanned for 95% recall, built from keys", std::to_string(by_keys));
  EXPECT_LE(2 * by_queries, by_keys);
}

}  // namespace
}  // namespace heed::cache::retrieval_attention_test
