// DuoAttention and RazorAttention: what each KV head holds and reads, by the formula; which heads a file chooses.
#include <gtest/gtest.h>

#include <cmath>

#include "cache/small_model.h"
#include "heed/checkpoint/head_table.h"
#include "heed/error.h"
#include "support/temporary_directory.h"

namespace heed::cache::head_policies_test {
namespace {

using checkpoint::HeadTable;
using nlohmann::json;
using testing::largest_difference;
using testing::random_tokens;
using testing::small_decoder;
using torch::Tensor;

constexpr int64_t kDim = 16, kHeads = 4, kKvHeads = 2, kGroup = kHeads / kKvHeads;

/// Queries, keys and values of one layer without positions, and a cache that is fed with them.
struct Text {
  Tensor q, k, v;
  nn::Positions none{nn::PositionsConfig(), kHeads* kDim, kHeads, true};

  Text(int64_t batch, int64_t length, uint64_t seed) {
    torch::manual_seed(seed);
    q = torch::randn({batch, kHeads, length, kDim});
    k = torch::randn({batch, kKvHeads, length, kDim});
    v = torch::randn({batch, kKvHeads, length, kDim});
  }

  Tensor feed(LayerCache& cache, int64_t from, int64_t to) const {
    const auto part = [&](const Tensor& x) { return x.slice(2, from, to); };
    AttentionOptions options;
    options.mask = Causal{};
    return cache.attend({{0, 1}, part(q), part(k), part(v), torch::arange(from, to), none.get(), options});
  }
  /// The prompt in chunks of 32, the rest in steps: [B, Hq, N, Dv].
  Tensor drive(LayerCache& cache, int64_t prompt) const {
    std::vector<Tensor> parts;
    for (int64_t i = 0; i < prompt; i += 32) parts.push_back(feed(cache, i, std::min<int64_t>(i + 32, prompt)));
    cache.finish_prompt();
    for (int64_t i = prompt; i < q.size(2); ++i) parts.push_back(feed(cache, i, i + 1));
    return torch::cat(parts, 2);
  }
  /// Logits [keys] of query (b, h, i), in double.
  Tensor logits(int64_t b, int64_t h, int64_t i) const {
    return k[b][h / kGroup].slice(0, 0, i + 1).to(torch::kFloat64).mv(q[b][h][i].to(torch::kFloat64)) /
           std::sqrt(double(kDim));
  }
  Tensor values(int64_t b, int64_t h, int64_t i) const {
    return v[b][h / kGroup].slice(0, 0, i + 1).to(torch::kFloat64);
  }
};

const ModelShape kOneLayer{1, kHeads, kKvHeads, kDim, 4096, {}};

std::unique_ptr<LayerCache> cache_of(const char* policy, const json& settings) {
  return make_policy(policy, settings, kOneLayer)({0, 1});
}

Tensor logits_under(const char* policy, const json& settings, const DecoderLm& model, const Tensor& tokens) {
  Session session(model, make_policy(policy, settings, shape_of(model->config())), tokens.size(0), 40);
  const auto first = session.prefill(tokens.narrow(1, 0, 150));
  return torch::cat({first.unsqueeze(1), session.steps(tokens.slice(1, 150))}, 1);
}

TEST(DuoAttention, AllStreamingIsStreamingLlmAtAbsolutePositions) {
  const auto model = small_decoder();
  const auto tokens = random_tokens(2, 190, 3);
  const json duo{{"streaming", "all"}, {"sinks", 3}, {"recent", 20}};
  const json streaming{{"positions", "absolute"}, {"sinks", 3}, {"window", 20}};
  EXPECT_TRUE(torch::equal(logits_under("duo_attention", duo, model, tokens),
                           logits_under("streaming_llm", streaming, model, tokens)));
}

TEST(DuoAttention, NoneStreamingIsTheFullCache) {
  const auto model = small_decoder();
  const auto tokens = random_tokens(2, 190, 3);
  EXPECT_TRUE(torch::equal(logits_under("duo_attention", {{"streaming", "none"}}, model, tokens),
                           logits_under("full", {}, model, tokens)));
}

TEST(DuoAttention, EveryHeadSeesItsOwnMask) {
  const Text text(3, 131, 21);
  const int64_t sinks = 3, recent = 10, prompt = 75;
  const auto cache = cache_of("duo_attention", {{"streaming", {{0, 1}}}, {"sinks", sinks}, {"recent", recent}});
  const auto got = text.drive(*cache, prompt);
  for (int64_t b = 0; b < 3; ++b)
    for (int64_t h = 0; h < kHeads; ++h)
      for (int64_t i = 0; i < 131; ++i) {
        auto logits = text.logits(b, h, i);
        if (h / kGroup == 1 && i - recent >= sinks) logits.slice(0, sinks, i - recent + 1) = -INFINITY;
        const auto want = logits.softmax(0).unsqueeze(0).mm(text.values(b, h, i))[0];
        ASSERT_LE(largest_difference(got[b][h][i], want), 1e-5) << b << " " << h << " " << i;
      }
  int64_t reads = 0;
  for (int64_t i = prompt; i < 131; ++i) reads += 3 * (i + 1 + sinks + recent);
  EXPECT_EQ(cache->reads().attended, reads);
  for (int64_t b = 0; b < 3; ++b) {
    EXPECT_EQ(cache->kv().length(2 * b), 131);
    EXPECT_EQ(cache->kv().length(2 * b + 1), sinks + recent);
  }
  EXPECT_EQ(cache->kv().used_bytes(), 3 * (131 + sinks + recent) * 2 * kDim * 4);
}

TEST(DuoAttention, GoesOnWithChunksAfterSteps) {
  const Text text(1, 120, 22);
  const json settings{{"streaming", {{0, 0}}}, {"sinks", 2}, {"recent", 9}};
  const auto stepped = cache_of("duo_attention", settings), mixed = cache_of("duo_attention", settings);
  const auto want = text.drive(*stepped, 50);
  text.feed(*mixed, 0, 50);
  mixed->finish_prompt();
  for (int64_t i = 50; i < 67; ++i) text.feed(*mixed, i, i + 1);
  EXPECT_LE(largest_difference(text.feed(*mixed, 67, 100), want.slice(2, 67, 100)), 1e-5);
  EXPECT_LE(largest_difference(text.feed(*mixed, 100, 101), want.slice(2, 100, 101)), 1e-5);
}

/// The number of streaming heads of each layer.
std::vector<int64_t> streaming_heads(const std::string& file, double sparsity, int64_t seed = 0) {
  const auto policy = make_policy(
      "duo_attention", {{"heads", file}, {"sparsity", sparsity}, {"sinks", 1}, {"recent", 1}, {"seed", seed}},
      {2, 4, 4, kDim, 4096, {}});
  std::vector<int64_t> heads;
  for (int64_t l = 0; l < 2; ++l) {
    const auto cache = policy({l, 2});
    const auto x = torch::ones({1, 4, 9, kDim});
    AttentionOptions options;
    options.mask = Causal{};
    nn::Positions none(nn::PositionsConfig(), 4 * kDim, 4, true);
    cache->attend({{l, 2}, x, x, x, torch::arange(9), none.get(), options});
    for (int64_t h = 0; h < 4; ++h)
      if (cache->kv().length(h) == 2) heads.push_back(4 * l + h);
  }
  return heads;
}

TEST(DuoAttention, TheSmallestGatesStream) {
  TemporaryDirectory directory;
  const std::string file = directory / "gates.json";
  HeadTable table("gates", HeadTable::Axis::kv, 2, 4);
  const std::vector<double> gates{0.9, 0.1, 0.8, 0.3, 0.95, 0.2, 0.5, 0.97};
  for (int64_t i = 0; i < 8; ++i) table.set(i / 4, i % 4, gates[i]);
  table.save(file);
  EXPECT_EQ(streaming_heads(file, 0.5), (std::vector<int64_t>{1, 3, 5, 6}));
  EXPECT_EQ(streaming_heads(file, 0), (std::vector<int64_t>{}));
  EXPECT_EQ(streaming_heads(file, 1).size(), 8);
  // Equal gates: still exactly the share, the same at every run, another at another seed.
  for (int64_t i = 0; i < 8; ++i) table.set(i / 4, i % 4, 1);
  table.save(file);
  EXPECT_EQ(streaming_heads(file, 0.5).size(), 4);
  EXPECT_EQ(streaming_heads(file, 0.5), streaming_heads(file, 0.5));
  bool differs = false;
  for (int64_t seed = 1; seed < 20; ++seed) differs |= streaming_heads(file, 0.5, seed) != streaming_heads(file, 0.5);
  EXPECT_TRUE(differs);
}

TEST(HeadwisePolicies, BadSettingsAreRefused) {
  TemporaryDirectory directory;
  HeadTable("gates", HeadTable::Axis::kv, 3, 2).save(directory / "three_layers.json");
  const std::string file = directory / "three_layers.json";
  for (const json& settings : std::vector<json>{{},
                                                {{"streaming", "some"}},
                                                {{"streaming", {{0, 2}}}},
                                                {{"streaming", {{1, 0}}}},
                                                {{"streaming", {{0, -1}}}},
                                                {{"streaming", {{0}}}},
                                                {{"streaming", {{0, 0.5}}}},
                                                {{"heads", file}},
                                                {{"heads", "/no/such/file.json"}},
                                                {{"heads", file}, {"streaming", "all"}},
                                                {{"streaming", "all"}, {"sparsity", 1.5}}})
    EXPECT_THROW(cache_of("duo_attention", settings), Error) << settings.dump();
  for (const json& settings : std::vector<json>{{},
                                                {{"retrieval", "some"}},
                                                {{"heads", file}},
                                                {{"heads", file}, {"retrieval", "all"}},
                                                {{"retrieval", "none"}, {"compression", 0.5}},
                                                {{"retrieval", "none"}, {"share", -1}},
                                                {{"retrieval", "none"}, {"least_buffer", 0}}})
    EXPECT_THROW(cache_of("razor_attention", settings), Error) << settings.dump();
}

constexpr int64_t kSinks = 2, kLeast = 8;
constexpr double kCompression = 6;

int64_t buffer(int64_t seen) { return std::max(kLeast, int64_t(std::ceil(double(seen) / kCompression))); }

json razor_settings() {
  return {{"retrieval", {{0, 0}}}, {"sinks", kSinks}, {"least_buffer", kLeast}, {"compression", kCompression}};
}

/// Query (b, h, i) after a prompt: kept tokens, and the mean of the dropped ones as one slot of the bias ln(number).
Tensor razor_reference(const Text& text, int64_t b, int64_t h, int64_t i) {
  const int64_t dropped = i + 1 - kSinks - buffer(i + 1);
  auto logits = text.logits(b, h, i), v = text.values(b, h, i);
  if (h / kGroup == 0 || dropped <= 0) return logits.softmax(0).unsqueeze(0).mm(v)[0];
  const auto gone = [&](const Tensor& x) { return x.slice(0, kSinks, kSinks + dropped); };
  const auto rest = [&](const Tensor& x, const Tensor& slot) {
    return torch::cat({x.slice(0, 0, kSinks), x.slice(0, kSinks + dropped), slot.unsqueeze(0)});
  };
  logits = rest(logits, gone(logits).mean(0) + std::log(double(dropped)));  // the mean of products with q
  return logits.softmax(0).unsqueeze(0).mm(rest(v, gone(v).mean(0)))[0];
}

TEST(RazorAttention, StepsFollowTheFormulaAsTheBufferGrows) {
  const Text text(2, 141, 31);
  const int64_t prompt = 67;
  const auto cache = cache_of("razor_attention", razor_settings());
  const auto got = text.drive(*cache, prompt);
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t h = 0; h < kHeads; ++h) {
      for (int64_t i = prompt; i < 141; ++i)
        ASSERT_LE(largest_difference(got[b][h][i], razor_reference(text, b, h, i)), 1e-5) << b << " " << h << " " << i;
      // The prompt itself is attended in full.
      const auto whole = text.logits(b, h, prompt - 1).softmax(0).unsqueeze(0).mm(text.values(b, h, prompt - 1))[0];
      EXPECT_LE(largest_difference(got[b][h][prompt - 1], whole), 1e-5);
    }
  for (int64_t b = 0; b < 2; ++b) {
    EXPECT_EQ(cache->kv().length(2 * b), 141);
    EXPECT_EQ(cache->kv().length(2 * b + 1), kSinks + buffer(141));
  }
  EXPECT_EQ(cache->policy_bytes(), 2 * kKvHeads * 2 * kDim * 4);
}

TEST(RazorAttention, AChunkAfterThePromptSeesTheSlot) {
  const Text text(1, 100, 32);
  const auto cache = cache_of("razor_attention", razor_settings());
  text.feed(*cache, 0, 90);
  cache->finish_prompt();
  const auto got = text.feed(*cache, 90, 92);
  // Nothing leaves before the chunk has been attended to, so its first token has the slot of the prompt's end.
  auto logits = text.logits(0, 3, 90), v = text.values(0, 3, 90);
  const int64_t dropped = 90 - kSinks - buffer(90);
  const auto slot = [&](Tensor x, double bias) {
    return torch::cat({x.slice(0, 0, kSinks), x.slice(0, kSinks + dropped),
                       x.slice(0, kSinks, kSinks + dropped).mean(0, true) + bias});
  };
  const auto want = slot(logits, std::log(double(dropped))).softmax(0).unsqueeze(0).mm(slot(v, 0))[0];
  EXPECT_LE(largest_difference(got[0][3][0], want), 1e-5);
  EXPECT_LE(
      largest_difference(got[0][0][1], text.logits(0, 0, 91).softmax(0).unsqueeze(0).mm(text.values(0, 0, 91))[0]),
      1e-5);
}

TEST(RazorAttention, EqualDroppedKeysCostNothing) {
  Text text(2, 90, 33);
  const auto off = [&] {
    const auto razor = text.drive(*cache_of("razor_attention", razor_settings()), 70);
    return largest_difference(razor, text.drive(*cache_of("full", {}), 70));
  };
  EXPECT_GT(off(), 1e-2);
  text.k.slice(2, kSinks, 90 - buffer(90)) = text.k.slice(2, kSinks, kSinks + 1).clone();
  EXPECT_LE(off(), 4e-6);
}

TEST(RazorAttention, WithoutCompensationItDropsLikeOtherWindows) {
  Text text(2, 90, 37);
  auto settings = razor_settings();
  settings["compensation"] = false;
  const auto razor = cache_of("razor_attention", settings);
  const auto got = text.drive(*razor, 70).select(2, 89);
  EXPECT_EQ(razor->policy_bytes(), 0);
  const auto kept = [&](const Tensor& x) {
    return torch::cat({x.slice(0, 0, kSinks), x.slice(0, 90 - buffer(90), 90)});
  };
  const auto want = kept(text.logits(0, 3, 89)).softmax(0).unsqueeze(0).mm(kept(text.values(0, 3, 89)))[0];
  EXPECT_LE(largest_difference(got[0][3], want), 1e-5);
}

// Jensen: the slot never weighs more than the tokens it stands for. Their values are 1, all others 0, so that the
// output is the share of the weight.
TEST(RazorAttention, TheSlotNeverWeighsMoreThanWhatWasDropped) {
  Text text(2, 80, 34);
  const int64_t prompt = 79, dropped = 80 - kSinks - buffer(80);
  text.v.zero_();
  text.v.slice(2, kSinks, kSinks + dropped).fill_(1);
  const auto razor = text.drive(*cache_of("razor_attention", razor_settings()), prompt).select(2, prompt);
  const auto full = text.drive(*cache_of("full", {}), prompt).select(2, prompt);
  EXPECT_TRUE((razor <= full + 1e-6).all().item<bool>());
  EXPECT_GT((full - razor).max().item<double>(), 0.01);
}

TEST(RazorAttention, WithoutCompressionItIsTheFullCache) {
  const auto model = small_decoder();
  const auto tokens = random_tokens(2, 190, 3);
  const json settings{{"retrieval", "none"}, {"least_buffer", 1}, {"compression", 1}};
  EXPECT_LE(largest_difference(logits_under("razor_attention", settings, model, tokens),
                               logits_under("full", {}, model, tokens)),
            1e-4);
}

TEST(RazorAttention, ReadsItsHeadsFromFiles) {
  TemporaryDirectory directory;
  const std::string induction = directory / "induction.json", echo = directory / "echo.json";
  HeadTable table("induction", HeadTable::Axis::query, 1, kHeads);
  table.set(0, 3, 0.5);
  table.save(induction);
  HeadTable other("echo", HeadTable::Axis::query, 1, kHeads);
  other.set(0, 1, 0.5);
  other.save(echo);
  const Text text(1, 60, 35);
  const auto lengths = [&](json settings) {
    settings.update({{"sinks", 1}, {"least_buffer", 2}, {"compression", 100}});
    const auto cache = cache_of("razor_attention", settings);
    text.drive(*cache, 60);
    return std::vector<int64_t>{cache->kv().length(0), cache->kv().length(1)};
  };
  EXPECT_EQ(lengths({{"heads", induction}}), (std::vector<int64_t>{3, 60}));
  EXPECT_EQ(lengths({{"heads", induction}, {"echo_heads", echo}}), (std::vector<int64_t>{60, 60}));
  EXPECT_EQ(lengths({{"heads", induction}, {"share", 0}, {"echo_heads", echo}}), (std::vector<int64_t>{60, 3}));
}

// Slopes 1/4, 1/16, 1/64, 1/256 of four heads, two a group: behind (2 S + 1) / slope no weight is above 1/e, so with
// S = 0 the groups see 16 and 256 tokens.
TEST(RazorAttention, HeadsOfAlibiKeepEverythingThatTheyCanSee) {
  auto shape = kOneLayer;
  const Text text(1, 60, 36);
  const auto lengths = [&](json score, int64_t least_buffer) {
    const auto cache = make_policy("razor_attention",
                                   {{"largest_score", score},
                                    {"least_buffer", least_buffer},
                                    {"sinks", 1},
                                    {"compression", 100},
                                    {"epsilon", std::exp(-1.0)}},
                                   shape)({0, 1});
    text.drive(*cache, 60);
    return std::vector<int64_t>{cache->kv().length(0), cache->kv().length(1)};
  };
  EXPECT_THROW(lengths(0, 20), Error) << "without ALiBi";
  shape.positions.kind = "alibi";
  EXPECT_EQ(lengths(0, 20), (std::vector<int64_t>{21, 60}));
  EXPECT_EQ(lengths(0, 15), (std::vector<int64_t>{60, 60}));
  EXPECT_EQ(lengths(0.5, 20), (std::vector<int64_t>{60, 60}));
  EXPECT_THROW(lengths("two", 20), Error);
  EXPECT_THROW(lengths(-1, 20), Error);
}

}  // namespace
}  // namespace heed::cache::head_policies_test
