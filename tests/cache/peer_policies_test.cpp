// The cards' facts of the policies that others are compared with: streaming_llm, h2o, snap_kv, pyramid_kv, quest.
#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "cache/layer_driver.h"
#include "cache/policies/pyramid_kv.h"
#include "heed/ops/attn_stats.h"

namespace heed::cache::peer_policies_test {
namespace {

using testing::LayerText;
using testing::Read;
using torch::Tensor;
using Tokens = std::vector<int64_t>;

constexpr double kSame = 1e-5;
constexpr int64_t kPrompt = 87, kSteps = 26, kLength = kPrompt + kSteps;  // no multiple of a page of 16

/// Query heads over KV heads: groups of four and of one.
const std::vector<std::pair<int64_t, int64_t>> kBatchAndKvHeads{{1, 1}, {1, 4}, {3, 1}, {3, 4}};

std::unique_ptr<LayerCache> make(const char* policy, const LayerText& text, const nlohmann::json& settings,
                                 const LayerContext& layer = {0, 1}) {
  return make_policy(policy, settings, shape_of(text))(layer);
}

Tokens range(int64_t from, int64_t to) {
  Tokens tokens(size_t(std::max<int64_t>(0, to - from)));
  std::iota(tokens.begin(), tokens.end(), from);
  return tokens;
}

Tokens joined(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// RoPE by its formula: channels j and j + D / 2 of x double [n, D] turn by place * 10000^(-2 j / D).
Tensor turned(const LayerText& text, const Tensor& x, const Tensor& places) {
  if (text.encoding->config().kind == "none") return x;
  const int64_t half = x.size(1) / 2;
  const auto angle = places.to(torch::kFloat64).unsqueeze(1) *
                     torch::pow(10000.0, -torch::arange(half, torch::kFloat64) / double(half));
  const auto a = x.slice(1, 0, half), b = x.slice(1, half);
  return torch::cat({a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()}, 1);
}

/// Query (b, h, i) over all tokens up to its own, of which a mask hides those that are not read.
Tensor masked_dense(const LayerText& text, int64_t b, int64_t h, int64_t i, const Read& read) {
  const int64_t g = h / text.group();
  const auto wide = [&](const Tensor& x, int64_t from, int64_t to) { return x.slice(0, from, to).to(torch::kFloat64); };
  auto places = torch::zeros({i + 1}, torch::kInt64);
  auto hidden = torch::ones({i + 1}, torch::kBool);
  const auto keys = torch::tensor(read.keys, torch::kInt64);
  places.index_put_({keys}, torch::tensor(read.places, torch::kInt64));
  hidden.index_fill_(0, keys, false);
  const auto q = turned(text, wide(text.q[b][h], i, i + 1), torch::full({1}, read.place, torch::kInt64));
  const auto k = turned(text, wide(text.k[b][g], 0, i + 1), places);
  const auto logits = (text.factor() * q.matmul(k.t())).masked_fill(hidden, -INFINITY);
  return logits.softmax(1).matmul(wide(text.v[b][g], 0, i + 1))[0];
}

/// What KV head (b, g) reads for token i.
using Reads = std::function<Read(int64_t b, int64_t g, int64_t i)>;

void expect_reads(const LayerText& text, const Tensor& got, const Reads& reads, int64_t from = 0) {
  double worst = 0;
  for (int64_t b = 0; b < text.q.size(0); ++b)
    for (int64_t i = from; i < text.length(); ++i)
      for (int64_t g = 0; g < text.k.size(1); ++g) {
        const auto read = reads(b, g, i);
        for (int64_t h = g * text.group(); h < (g + 1) * text.group(); ++h)
          worst = std::max(worst, (got[b][h][i] - masked_dense(text, b, h, i, read)).abs().max().item<double>());
      }
  EXPECT_LE(worst, kSame) << text.q.size(0) << " sequences, " << text.k.size(1) << " KV heads";
}

/// Positions that row (b, g) holds, in their order.
Tokens held(const LayerCache& cache, int64_t b, int64_t g) {
  const auto positions = std::get<0>(cache.kv().positions(b * cache.kv().heads() + g).sort());
  return {positions.data_ptr<int64_t>(), positions.data_ptr<int64_t>() + positions.numel()};
}

double difference(const Tensor& a, const Tensor& b) { return (a - b).abs().max().item<double>(); }

// StreamingLLM

Tokens sinks_and_window(int64_t sinks, int64_t window, int64_t i) {
  if (i + 1 <= sinks + window) return range(0, i + 1);
  return joined(range(0, sinks), range(i + 1 - window, i + 1));
}

TEST(StreamingLlm, ReadsSinksAndAWindowAtTheirRanksOrTheirPlaces) {
  for (const auto& [batch, kv_heads] : kBatchAndKvHeads) {
    const auto text = testing::random_text(batch, 4, kv_heads, kLength, 71);
    for (const int64_t sinks : {0, 4})
      for (const bool in_cache : {true, false}) {
        auto cache = make("streaming_llm", text,
                          {{"sinks", sinks}, {"window", 21}, {"positions", in_cache ? "in_cache" : "absolute"}});
        const auto got = testing::drive(*cache, text, kPrompt, 40);
        expect_reads(text, got, [&](int64_t, int64_t, int64_t i) {
          const auto tokens = sinks_and_window(sinks, 21, i);
          return in_cache ? Read::ranked(tokens) : Read::absolute(tokens, i);
        });
        for (int64_t r = 0; r < batch * kv_heads; ++r)
          EXPECT_EQ(held(*cache, r / kv_heads, r % kv_heads), sinks_and_window(sinks, 21, kLength - 1));
        EXPECT_EQ(cache->reads().attended, kSteps * batch * kv_heads * (sinks + 21));
      }
  }
}

TEST(StreamingLlm, PositionRulesAgreeUntilATokenIsDroppedAndWithoutSinks) {
  const auto text = testing::random_text(2, 4, 2, kLength, 72);
  const auto run = [&](int64_t sinks, int64_t window, const char* positions) {
    auto cache = make("streaming_llm", text, {{"sinks", sinks}, {"window", window}, {"positions", positions}});
    return testing::drive(*cache, text, kPrompt, 40);
  };
  const auto apart = [&](int64_t sinks, int64_t window) {
    return (run(sinks, window, "in_cache") - run(sinks, window, "absolute")).abs().amax({0, 1, 3});
  };
  const int64_t seen = 4 + 90;  // tokens that fit
  const auto dropped = apart(4, 90);
  EXPECT_LE(dropped.slice(0, 0, seen).max().item<double>(), kSame);
  EXPECT_GT(dropped[seen].item<double>(), 100 * kSame);  // the first drop moves all sinks one nearer
  EXPECT_LE(apart(0, 21).max().item<double>(), kSame);
}

// H2O

/// What KV head (b, g) reads at every step: scores of a prompt attended in full, then evictions of the smallest
/// score outside the recent tokens, after the prompt and after every step.
std::vector<Tokens> h2o_reads(const LayerText& text, int64_t b, int64_t g, int64_t heavy, int64_t recent,
                              bool per_query) {
  std::map<int64_t, double> scores;
  const auto add = [&](int64_t i) {
    Tokens tokens;
    for (const auto& [j, score] : scores) tokens.push_back(j);
    for (int64_t h = g * text.group(); h < (g + 1) * text.group(); ++h) {
      const auto weights = testing::attend_reference(text, b, h, i, Read::absolute(tokens, i)).logits.softmax(0);
      for (size_t s = 0; s < tokens.size(); ++s) scores[tokens[s]] += weights[int64_t(s)].item<double>();
    }
    return tokens;
  };
  const auto evict = [&](int64_t seen) {
    while (int64_t(scores.size()) > heavy + recent) {
      const auto rank = [&](const auto& entry) {
        if (entry.first >= seen - recent) return double(INFINITY);
        return per_query ? entry.second / double(seen - entry.first) : entry.second;
      };
      scores.erase(std::min_element(scores.begin(), scores.end(),
                                    [&](const auto& x, const auto& y) { return rank(x) < rank(y); }));
    }
  };
  for (int64_t i = 0; i < kPrompt; ++i) scores[i] = 0, add(i);
  evict(kPrompt);
  std::vector<Tokens> reads;
  for (int64_t i = kPrompt; i < text.length(); ++i) {
    scores[i] = 0;
    reads.push_back(add(i));
    evict(i + 1);
  }
  return reads;
}

TEST(H2o, EvictsTheSmallestAccumulatedScoreOutsideTheRecentTokens) {
  for (const bool per_query : {false, true})
    for (const auto& [batch, kv_heads] : kBatchAndKvHeads) {
      const auto text = testing::random_text(batch, 4, kv_heads, kLength, 73);
      auto cache = make("h2o", text, {{"heavy", 20}, {"recent", 9}, {"per_query", per_query}});
      const auto got = testing::drive(*cache, text, kPrompt, 40);
      std::vector<std::vector<Tokens>> steps;
      for (int64_t r = 0; r < batch * kv_heads; ++r)
        steps.push_back(h2o_reads(text, r / kv_heads, r % kv_heads, 20, 9, per_query));
      expect_reads(text, got, [&, kv_heads = kv_heads](int64_t b, int64_t g, int64_t i) {
        return Read::absolute(i < kPrompt ? range(0, i + 1) : steps[size_t(b * kv_heads + g)][size_t(i - kPrompt)], i);
      });
      // The one given up last stays until the next token takes its slot.
      for (int64_t r = 0; r < batch * kv_heads; ++r)
        EXPECT_EQ(held(*cache, r / kv_heads, r % kv_heads), steps[size_t(r)].back());
      EXPECT_EQ(cache->reads().attended, kSteps * batch * kv_heads * (20 + 9 + 1));
    }
}

TEST(H2o, EqualKeysKeepTheOldestTokens) {
  // Query i gives every token 1 / (i + 1), so the score of token j is a sum over i >= j.
  auto text = testing::random_text(1, 2, 2, kLength, 74, "none");
  text.k.fill_(0.5);
  auto cache = make("h2o", text, {{"heavy", 12}, {"recent", 5}});
  testing::drive(*cache, text, kPrompt, kPrompt);
  EXPECT_EQ(held(*cache, 0, 1), joined(range(0, 12), range(kLength - 6, kLength)));
}

TEST(H2o, WithoutHeavyTokensItIsAWindowAndTheStepsOwn) {
  const auto text = testing::random_text(3, 4, 2, kLength, 75);
  auto cache = make("h2o", text, {{"heavy", 0}, {"recent", 17}});
  expect_reads(text, testing::drive(*cache, text, kPrompt, 40), [](int64_t, int64_t, int64_t i) {
    return Read::absolute(i < kPrompt ? range(0, i + 1) : range(i - 17, i + 1), i);
  });
}

TEST(H2o, EveryQueryAddsOneToItsScores) {
  // The sums that scores are made of: of a chunk's rows and of a step.
  const auto text = testing::random_text(2, 4, 2, kLength, 76);
  AttentionOptions options;
  options.mask = Causal{};
  const auto columns = ops::line_sums(text.q, text.k, options).columns;
  EXPECT_LE((columns.sum(2) - double(kLength)).abs().max().item<double>(), double(kLength) * kLength * 6e-8);
  ops::CacheTensors all;
  all.k = text.k, all.v = text.v;
  all.lengths = torch::full({2, 2}, kLength, torch::kInt64);
  ops::DecodeOptions step;
  step.column_sum = true;
  const auto row = ops::decode(text.q.slice(2, kLength - 1), all, step).column_sum;
  EXPECT_LE((row.sum(2) - 1).abs().max().item<double>(), double(kLength) * 6e-8);
}

// SnapKV and PyramidKV

/// Tokens before the window that KV head (b, g) keeps by the pooled votes of the window's queries.
Tokens voted(const LayerText& text, int64_t b, int64_t g, int64_t window, int64_t kept, int64_t width, bool max) {
  const int64_t before = kPrompt - window;
  auto votes = torch::zeros({before}, torch::kFloat64);
  for (int64_t h = g * text.group(); h < (g + 1) * text.group(); ++h)
    for (int64_t i = before; i < kPrompt; ++i)
      votes += testing::attend_all(text, b, h, i).logits.softmax(0).slice(0, 0, before) / double(text.group());
  auto pooled = torch::empty_like(votes);
  for (int64_t j = 0; j < before; ++j) {
    const auto near = votes.slice(0, std::max<int64_t>(0, j - width / 2), j + width / 2 + 1);
    pooled[j] = max ? near.max() : near.sum() / double(width);  // zeros beyond the ends
  }
  return testing::largest(pooled, kept);
}

nlohmann::json observing(int64_t window, int64_t capacity, int64_t width, bool max) {
  return {{"window", window}, {"capacity", capacity}, {"width", width}, {"pooling", max ? "max" : "average"}};
}

/// Outputs and tokens of a cache that keeps `kept` tokens and a window of 8 of the prompt, and all that follows.
void expect_observed(LayerCache& cache, const LayerText& text, int64_t kept, int64_t width, bool max) {
  const auto got = testing::drive(cache, text, kPrompt, 40);
  const int64_t kv_heads = text.k.size(1);
  std::vector<Tokens> keeps;
  for (int64_t r = 0; r < text.q.size(0) * kv_heads; ++r)
    keeps.push_back(kept + 8 < kPrompt ? voted(text, r / kv_heads, r % kv_heads, 8, kept, width, max)
                                       : range(0, kPrompt - 8));
  const auto tokens = [&](int64_t b, int64_t g, int64_t i) {
    return joined(keeps[size_t(b * kv_heads + g)], range(kPrompt - 8, i + 1));
  };
  expect_reads(text, got, [&](int64_t b, int64_t g, int64_t i) {
    return Read::absolute(i < kPrompt ? range(0, i + 1) : tokens(b, g, i), i);
  });
  for (int64_t r = 0; r < text.q.size(0) * kv_heads; ++r)
    EXPECT_EQ(held(cache, r / kv_heads, r % kv_heads), tokens(r / kv_heads, r % kv_heads, kLength - 1));
}

TEST(SnapKv, KeepsTheWindowAndTheLargestPooledVotesOfItsQueries) {
  for (const bool max : {false, true})
    for (const auto& [batch, kv_heads] : kBatchAndKvHeads) {
      const auto text = testing::random_text(batch, 4, kv_heads, kLength, 77);
      auto cache = make("snap_kv", text, observing(8, 40, 5, max));
      expect_observed(*cache, text, 32, 5, max);
    }
}

TEST(SnapKv, OfWidthOneKeepsTheLargestColumnSums) {
  const auto text = testing::random_text(2, 4, 2, kLength, 78);
  for (const bool max : {false, true}) {
    auto cache = make("snap_kv", text, observing(8, 21, 1, max));
    expect_observed(*cache, text, 13, 1, max);
  }
  // The same from the sums of the last rows of plain attention.
  for (int64_t g = 0; g < 2; ++g) {
    auto sums = torch::zeros({kPrompt}, torch::kFloat64);
    for (int64_t h = 2 * g; h < 2 * g + 2; ++h)
      for (int64_t i = kPrompt - 8; i < kPrompt; ++i)
        sums.slice(0, 0, i + 1) += testing::attend_all(text, 0, h, i).logits.softmax(0);
    EXPECT_EQ(voted(text, 0, g, 8, 13, 1, false), testing::largest(sums.slice(0, 0, kPrompt - 8), 13));
  }
}

TEST(SnapKv, DropsNothingOfAPromptThatFits) {
  const auto text = testing::random_text(1, 4, 2, kLength, 79);
  for (const int64_t capacity : {kPrompt - 1, kPrompt, kPrompt + 1}) {
    auto cache = make("snap_kv", text, observing(8, capacity, 5, false));
    testing::drive(*cache, text, kPrompt, 40);
    EXPECT_EQ(cache->kv().length(0), std::min(capacity, kPrompt) + kSteps);
  }
}

TEST(PyramidKv, BudgetsFallFromTheCardsFirstToItsLast) {
  EXPECT_EQ(pyramid_budget(2048, 64, 20, 0, 32, 16384), 3869);
  EXPECT_EQ(pyramid_budget(2048, 64, 20, 31, 32, 16384), 118);
}

TEST(PyramidKv, BudgetsNeverRiseAndKeepTheirMeanUpToTheRoundingOfTheStep) {
  for (const int64_t layers : {1, 2, 7, 32})
    for (const int64_t window : {1, 8, 64})
      for (const int64_t average : {1, 5, 40, 1984})
        for (const int64_t beta : {1, 2, 20, 1000})
          for (const int64_t prompt :
               {average + window, 2 * average + 1, 2 * average + window, 16 * average + window}) {
            const int64_t capacity = average + window;
            if (prompt < capacity) continue;  // nothing is dropped
            int64_t sum = 0, before = INT64_MAX;
            for (int64_t l = 0; l < layers; ++l) {
              const int64_t budget = pyramid_budget(capacity, window, beta, l, layers, prompt);
              EXPECT_LE(budget, before) << layers << " " << window << " " << average << " " << beta << " " << prompt;
              EXPECT_GE(budget, 0);
              if (beta == 1 || prompt < 2 * average) {
                EXPECT_EQ(budget, average);
              }
              sum += budget, before = budget;
            }
            // The step is rounded down by less than 1, which (layers - 1) / 2 of it make up on average.
            EXPECT_GE(sum, layers * average);
            EXPECT_LE(2 * sum, layers * (2 * average + layers - 1));
          }
}

TEST(PyramidKv, EveryLayerKeepsItsOwnBudget) {
  const int64_t layers = 4;
  for (const auto& [batch, kv_heads] : kBatchAndKvHeads) {
    const auto text = testing::random_text(batch, 4, kv_heads, kLength, 80);
    auto settings = observing(8, 30, 5, false);
    settings["beta"] = 4;
    for (const int64_t layer : {0, 3}) {
      auto cache = make("pyramid_kv", text, settings, {layer, layers});
      expect_observed(*cache, text, pyramid_budget(30, 8, 4, layer, layers, kPrompt), 5, false);
    }
  }
  ASSERT_GT(pyramid_budget(30, 8, 4, 0, layers, kPrompt), pyramid_budget(30, 8, 4, 3, layers, kPrompt));
}

TEST(PyramidKv, OfBetaOneIsSnapKvInEveryLayer) {
  const auto text = testing::random_text(2, 4, 2, kLength, 81);
  auto settings = observing(8, 30, 5, true);
  auto snap = make("snap_kv", text, settings);
  const auto want = testing::drive(*snap, text, kPrompt, 40);
  settings["beta"] = 1;
  for (int64_t layer = 0; layer < 5; ++layer) {
    auto cache = make("pyramid_kv", text, settings, {layer, 5});
    EXPECT_TRUE(torch::equal(testing::drive(*cache, text, kPrompt, 40), want)) << layer;
  }
}

// Quest

/// What a step reads: the pages of the largest bounds over the group's query heads, the newest among them.
Tokens best_pages(const LayerText& text, int64_t b, int64_t g, int64_t i, int64_t page, int64_t budget) {
  const int64_t pages = (i + page) / page, wanted = std::max<int64_t>(3, budget / page);
  if (pages <= wanted) return range(0, i + 1);
  const auto k = turned(text, text.k[b][g].slice(0, 0, i + 1).to(torch::kFloat64), torch::arange(i + 1));
  auto bounds = torch::full({pages}, -INFINITY, torch::kFloat64);
  const auto q = turned(text, text.q[b].narrow(0, g * text.group(), text.group()).select(1, i).to(torch::kFloat64),
                        torch::full({text.group()}, i, torch::kInt64));
  for (int64_t p = 0; p < pages; ++p) {
    const auto keys = k.slice(0, p * page, (p + 1) * page);
    const auto bound = torch::maximum(q * keys.amax(0), q * keys.amin(0)).sum(1);  // of each head
    EXPECT_TRUE((bound + 1e-12 >= q.matmul(keys.t()).amax(1)).all().item<bool>());
    bounds[p] = bound.max();
  }
  bounds[pages - 1] = INFINITY;
  Tokens tokens;
  for (const int64_t p : testing::largest(bounds, wanted))
    tokens = joined(std::move(tokens), range(p * page, std::min((p + 1) * page, i + 1)));
  return tokens;
}

TEST(Quest, ReadsThePagesWithTheHighestBounds) {
  // Pages of the cache's own, of several, of single slots gathered, and so few that three are read at least.
  for (const auto& [page, budget] : {std::pair{16, 64}, {32, 96}, {6, 30}, {8, 1}})
    for (const auto& [batch, kv_heads] : page == 16 ? kBatchAndKvHeads : decltype(kBatchAndKvHeads){{3, 1}}) {
      const auto text = testing::random_text(batch, 4, kv_heads, kLength, 82);
      auto cache = make("quest", text, {{"page", page}, {"budget", budget}, {"dense_layers", 0}});
      const auto got = testing::drive(*cache, text, kPrompt, 7);
      int64_t attended = 0, scored = 0;
      expect_reads(text, got, [&, page = page, budget = budget](int64_t b, int64_t g, int64_t i) {
        if (i < kPrompt) return Read::absolute(range(0, i + 1), i);
        const auto tokens = best_pages(text, b, g, i, page, budget);
        attended += int64_t(tokens.size());
        if (int64_t(tokens.size()) <= i) scored += 2 * ((i + page) / page);
        return Read::absolute(tokens, i);
      });
      EXPECT_EQ(cache->reads().attended, attended) << "pages of " << page;
      EXPECT_EQ(cache->reads().scored, scored) << "pages of " << page;
    }
}

TEST(Quest, OfPageOneReadsTheLargestScores) {
  const auto text = testing::random_text(2, 4, 2, kLength, 83);
  auto cache = make("quest", text, {{"page", 1}, {"budget", 12}, {"dense_layers", 0}});
  expect_reads(
      text, testing::drive(*cache, text, kPrompt, 40),
      [&](int64_t b, int64_t g, int64_t i) {
        auto scores = torch::maximum(testing::attend_all(text, b, 2 * g, i).logits,
                                     testing::attend_all(text, b, 2 * g + 1, i).logits);
        scores[i] = INFINITY;
        return Read::absolute(testing::largest(scores, 12), i);
      },
      kPrompt);
}

TEST(Quest, ReadsTwoVectorsAPageAndTheBudget) {
  // The newest page counts as a whole one of the budget: what it lacks is not read.
  const int64_t page = 16, budget = 64;
  const auto text = testing::random_text(2, 4, 2, 128, 84);
  auto cache = make("quest", text, {{"budget", budget}, {"dense_layers", 0}});
  testing::feed(*cache, text, 0, 100);
  cache->finish_prompt();
  for (int64_t i = 100; i < 128; ++i) {
    const auto before = cache->reads();
    testing::feed(*cache, text, i, i + 1);
    const int64_t pages = (i + page) / page, lacking = pages * page - (i + 1);
    EXPECT_EQ(cache->reads().scored - before.scored + cache->reads().attended - before.attended,
              2 * 2 * (2 * pages + budget - lacking))
        << i;
  }
}

TEST(Quest, AlwaysReadsTheNewestPage) {
  // Keys of the newest page point away from every query, all others towards it.
  auto text = testing::random_text(2, 4, 2, kLength, 85, "none");
  text.q.abs_();
  text.k.abs_();
  text.k.slice(2, kLength / 16 * 16).neg_();
  auto cache = make("quest", text, {{"budget", 48}, {"dense_layers", 0}});
  testing::feed(*cache, text, 0, kLength - 1);
  cache->finish_prompt();
  cache->record_reads(true);
  testing::feed(*cache, text, kLength - 1, kLength);
  const auto newest = cache->tokens_read().slice(2, kLength / 16 * 16);
  EXPECT_TRUE(newest.all().item<bool>());
  EXPECT_EQ(cache->tokens_read().sum(2).max().item<int64_t>(), 2 * 16 + newest.size(2));
}

TEST(Quest, ItsFirstLayersReadEverything) {
  const int64_t prompt = 60, steps = 2;
  const auto text = testing::random_text(1, 4, 2, prompt + steps, 86);
  for (const int64_t dense_layers : {0, 2, 3})
    for (int64_t layer = 0; layer < 4; ++layer) {
      auto cache = make("quest", text, {{"budget", 48}, {"dense_layers", dense_layers}}, {layer, 4});
      testing::drive(*cache, text, prompt, prompt);
      EXPECT_EQ(cache->reads().full_steps, layer < dense_layers ? steps : 0) << layer << " of " << dense_layers;
      EXPECT_EQ(cache->reads().scored == 0, layer < dense_layers) << layer << " of " << dense_layers;
    }
}

// What holds for all of them

struct Peer {
  const char* name;
  nlohmann::json settings;
};
const std::vector<Peer> kPeers{{"streaming_llm", {{"window", 21}, {"positions", "absolute"}}},
                               {"h2o", {{"heavy", 20}, {"recent", 9}}},
                               {"snap_kv", {{"window", 8}, {"capacity", 40}}},
                               {"pyramid_kv", {{"window", 8}, {"capacity", 30}, {"beta", 4}}},
                               {"quest", {{"budget", 48}, {"dense_layers", 0}}}};

TEST(PeerPolicies, RetainedMassBoundsTheirError) {
  const auto text = testing::random_text(2, 4, 2, kLength, 87);
  for (const auto& peer : kPeers) {
    SCOPED_TRACE(peer.name);
    auto cache = make(peer.name, text, peer.settings, {1, 2});
    testing::feed(*cache, text, 0, kPrompt);
    cache->finish_prompt();
    cache->record_reads(true);
    for (int64_t i = kPrompt; i < kLength; ++i) {
      const auto got = testing::feed(*cache, text, i, i + 1);
      for (int64_t b = 0; b < 2; ++b)
        for (int64_t h = 0; h < 4; ++h) {
          const auto read = cache->tokens_read()[b][h].nonzero().flatten();
          ASSERT_LT(read.numel(), i) << "nothing is left out";
          const Tokens keys(read.data_ptr<int64_t>(), read.data_ptr<int64_t>() + read.numel());
          testing::expect_within_retained_mass(text, b, h, i, keys, got[b][h][0]);
        }
    }
  }
}

TEST(PeerPolicies, HeadsRepeatedInAGroupOrWithTheirKeysChangeNothing) {
  auto peers = kPeers;
  peers.push_back({"streaming_llm", {{"window", 21}, {"positions", "in_cache"}}});
  const auto text = testing::random_text(3, 2, 2, kLength, 88);
  auto grouped = text, repeated = text;
  grouped.q = repeated.q = text.q.repeat_interleave(4, 1);
  repeated.k = text.k.repeat_interleave(4, 1);
  repeated.v = text.v.repeat_interleave(4, 1);
  for (const auto& peer : peers) {
    const auto run = [&](const LayerText& with) {
      auto cache = make(peer.name, with, peer.settings, {1, 2});
      return testing::drive(*cache, with, kPrompt, 40);
    };
    const auto want = run(text).repeat_interleave(4, 1);
    EXPECT_LE(difference(run(grouped), want), kSame) << peer.name << ": groups of equal queries";
    EXPECT_LE(difference(run(repeated), want), kSame) << peer.name << ": keys of their own";
  }
}

}  // namespace
}  // namespace heed::cache::peer_policies_test
