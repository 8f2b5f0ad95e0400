// The card of dynamic_hierarchical_sparse_attention: chunks, what queries know of them, and what a budget buys.
#include <numeric>

#include "heed/mixers/hierarchical_sparse.h"
#include "mixers/sparse/chunk_choice.h"
#include "mixers/sparse/sparse_support.h"

namespace heed::hierarchical_test {
namespace {

using test::relative_error;
using torch::Tensor;

nlohmann::json core_config(nlohmann::json more) {
  nlohmann::json config{{"dim", 32}, {"heads", 4}, {"kv_heads", 2}, {"borders", "fixed"}};
  config.update(more);
  return config;
}

Tensor core(const nlohmann::json& more, const CoreInput& in) {
  auto mixer = make_mixer("dynamic_hierarchical_sparse_attention", core_config(more));
  mixer->eval();
  return mixer->mix(in);
}

TEST(ChunkBorders, AreCutAtCandidatesWithinTheirSizes) {
  test::seed_torch(1);
  const auto candidates = torch::rand({3, 200}) < 0.2;
  const auto borders = sparse::choose_borders(candidates, {.least = 4, .most = 11});
  for (int64_t b = 0; b < 3; ++b) {
    int64_t begin = 0;
    for (int64_t i = 1; i < 200; ++i) {
      if (!borders[b][i].item<bool>()) {
        EXPECT_FALSE(i - begin >= 4 && candidates[b][i].item<bool>());
        EXPECT_LT(i - begin, 11);
        continue;
      }
      EXPECT_GE(i - begin, 4);
      EXPECT_TRUE(i - begin == 11 || candidates[b][i].item<bool>());
      begin = i;
    }
    EXPECT_FALSE(borders[b][0].item<bool>());
  }
}

/// Candidates that are told by the keys themselves: the first channel of a key is above 0.
Tensor marked(const Tensor& keys) { return keys.select(1, 0).select(2, 0) > 0; }

TEST(ChunkedKeys, AreTheSameInAnyParts) {
  test::seed_torch(15);
  const int64_t n = 200, lag = 3;
  auto keys = torch::randn({2, 2, n, 5});
  keys.select(1, 0).select(2, 0).sub_(0.8);
  const auto hidden = torch::rand({2, n}) < 0.2;
  const sparse::ChunkRule rule{{.least = 4, .most = 11, .lag = lag}, lag, 0.5};
  const auto borders = sparse::choose_borders(marked(keys), rule.borders);
  for (const auto& parts : std::vector<std::vector<int64_t>>{{n}, {1}, {40, 1, 7}}) {
    sparse::ChunkedKeys chunks(rule);
    for (int64_t begin = 0, part = 0; begin < n; ++part) {
      const int64_t end = std::min(n, begin + parts[size_t(part) % parts.size()]);
      chunks.append(keys.slice(2, begin, end), hidden.slice(1, begin, end), marked);
      begin = end;
    }
    EXPECT_TRUE(torch::equal(chunks.hidden(), hidden));
    for (int64_t b = 0; b < 2; ++b) {
      const auto real = hidden[b].logical_not().to(torch::kFloat64);
      int64_t known = 0, last = 0;
      for (int64_t t = 0; t < n; ++t) {
        if (t >= lag && borders[b][t - lag].item<bool>()) ++known, last = t - lag;
        EXPECT_EQ(chunks.closed(b, t), known);
        EXPECT_EQ(chunks.begin(b, known), last);
      }
      ASSERT_EQ(int64_t(chunks.ends(b).size()), known);
      for (int64_t c = 0; c < known; ++c) {
        const int64_t begin = chunks.begin(b, c), end = chunks.ends(b)[size_t(c)];
        const auto shown = real.slice(0, begin, end);
        EXPECT_EQ(chunks.real(b, begin, end), shown.sum().item<int64_t>());
        const auto sum = (keys[b].slice(1, begin, end) * shown.unsqueeze(1)).sum(1) /
                         std::sqrt(std::max(1.0, shown.sum().item<double>()));
        EXPECT_LT(relative_error(chunks.vectors()[b].select(1, c), sum), 1e-12);
      }
      EXPECT_LE(chunks.first_open(), last);
    }
    EXPECT_EQ(chunks.tokens(), n);
  }
}

TEST(ChunkedKeys, AStepCostsItsOwnTokens) {
  // What is kept beside a number a token is that of the open chunks and of the chunks' vectors.
  test::seed_torch(16);
  sparse::ChunkedKeys chunks({{.least = 4, .most = 8, .lag = 2}, 2, 0.5});
  int64_t before = 0;
  for (int64_t t = 0; t < 4096; ++t) {
    chunks.append(torch::randn({1, 1, 1, 64}), torch::zeros({1, 1}, torch::kBool), marked);
    if (t == 2047) before = chunks.bytes();
  }
  EXPECT_LE(chunks.bytes(), 2 * before);
  EXPECT_LE(chunks.tokens() - chunks.first_open(), 8 + 2);
}

TEST(TakenChunks, AreThoseOfTheOrder) {
  test::seed_torch(17);
  for (int64_t round = 0; round < 300; ++round) {
    const int64_t count = 1 + round % 23, budget = round * 7 % 61;
    std::vector<double> scores;
    std::vector<int64_t> sizes;
    for (int64_t c = 0; c < count; ++c) {
      scores.push_back(torch::randint(0, 9, {1}).item<double>());  // ties
      if (c % 11 == 5) scores.back() = c % 2 == 0 ? NAN : INFINITY;
      sizes.push_back(torch::randint(0, 12, {1}).item<int64_t>());
    }
    std::vector<int64_t> order(size_t(count - 1)), expected(size_t(count), 0), found(size_t(count), 0);
    std::iota(order.begin(), order.end(), 1);
    std::erase_if(order, [&](int64_t c) { return std::isnan(scores[size_t(c)]); });
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return scores[size_t(a)] > scores[size_t(b)]; });
    expected[0] = sizes[0];
    int64_t left = std::max<int64_t>(0, budget - sizes[0]);
    for (const int64_t c : order) {
      expected[size_t(c)] = std::min(left, sizes[size_t(c)]);
      left -= expected[size_t(c)];
    }
    for (const auto& [chunk, tokens] : sparse::take_chunks(scores.data(), sizes, budget))
      found[size_t(chunk)] += tokens;
    EXPECT_EQ(found, expected) << "round " << round;
  }
}

TEST(ChunkBorders, GoOnFromWhatIsSettled) {
  test::seed_torch(14);
  const auto candidates = torch::rand({3, 90}) < 0.15;
  const sparse::BorderRule rule{.least = 4, .most = 11};
  const auto whole = sparse::choose_borders(candidates, rule);
  for (const int64_t done : {1, 5, 37, 89}) {
    const auto settled = whole.slice(1, 0, done);
    const auto begins = (settled * torch::arange(done)).amax(1) - done;
    EXPECT_TRUE(torch::equal(sparse::choose_borders(candidates.slice(1, done), rule, begins), whole.slice(1, done)))
        << done;
  }
}

TEST(ChunkBorders, TopicsThatChangeAreFound) {
  test::seed_torch(2);
  const auto a = torch::randn({12}), b = torch::randn({12});
  const auto x = torch::cat({a.expand({30, 12}), b.expand({25, 12}), a.expand({40, 12})}).unsqueeze(0) +
                 0.1 * torch::randn({1, 95, 12});
  const auto found = sparse::dips(sparse::side_similarity(x, 8), 0.5)[0].nonzero().squeeze(1);
  ASSERT_EQ(found.size(0), 2);
  EXPECT_NEAR(found[0].item<double>(), 30, 1);
  EXPECT_NEAR(found[1].item<double>(), 55, 1);
  const auto similarity = sparse::side_similarity(x, 8);
  EXPECT_NEAR(similarity[0][20].item<double>(),
              torch::cosine_similarity(x[0].slice(0, 12, 20).mean(0), x[0].slice(0, 20, 28).mean(0), 0).item<double>(),
              1e-6);
}

TEST(HierarchicalSparse, AWholeBudgetIsDense) {
  test::seed_torch(3);
  const auto in = test::drawn_core(40, 40, 4, 2, torch::kFloat64);
  const auto dense = torch::matmul(torch::softmax(test::causal_logits(in), 3), test::values_of(in));
  EXPECT_LT(relative_error(core({{"budget", 40}}, in), dense), 1e-12);
  // The choice itself, with as much left: every chunk fits.
  EXPECT_LT(relative_error(core({{"budget", 39}, {"min_chunk", 3}, {"max_chunk", 3}}, in).slice(2, 0, 39),
                           dense.slice(2, 0, 39)),
            1e-12);
}

TEST(HierarchicalSparse, ChunksOfOneTokenAreExactTopK) {
  test::seed_torch(4);
  const int64_t n = 50, budget = 9;
  const auto in = test::drawn_core(n, n, 4, 2, torch::kFloat64);
  const auto s = test::causal_logits(in);
  auto wanted = s.to(torch::kFloat32);  // the first chunk and what is open are always kept
  wanted.select(3, 0).fill_(INFINITY);
  wanted.diagonal(0, 2, 3).fill_(INFINITY);
  wanted = wanted.masked_fill(torch::arange(n) > torch::arange(n).unsqueeze(1), -INFINITY);
  const auto order = std::get<1>(wanted.sort(c10::optional<bool>(true), 3, true)).slice(3, 0, budget);
  const auto seen = torch::zeros_like(s, torch::kBool).scatter_(3, order, true);
  const auto p = torch::softmax(s.masked_fill(seen.logical_not(), -INFINITY), 3);
  EXPECT_LT(relative_error(core({{"budget", budget}, {"min_chunk", 1}, {"max_chunk", 1}}, in),
                           torch::matmul(p, test::values_of(in))),
            1e-12);
}

TEST(HierarchicalSparse, TheLastChunkIsCutToItsRecentTokens) {
  // Chunks of 4; query 19 is in [16, 20). The first and its own hold 8; a budget of 14 leaves one chunk and two tokens.
  test::seed_torch(5);
  auto in = test::drawn_core(20, 20, 2, 2, torch::kFloat64);
  const auto out = core({{"heads", 2}, {"dim", 16}, {"budget", 14}, {"min_chunk", 4}, {"max_chunk", 4}}, in);
  const auto q = in.q.slice(2, 16, 20).sum(2, true) / 2;
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t h = 0; h < 2; ++h) {
      std::vector<std::pair<double, int64_t>> scores;
      for (int64_t c = 1; c < 4; ++c)
        scores.emplace_back((q[b][h][0] * in.k[b][h].slice(0, 4 * c, 4 * c + 4).sum(0) / 2).sum().item<double>(), c);
      std::sort(scores.rbegin(), scores.rend());
      std::vector<int64_t> tokens{0, 1, 2, 3, 16, 17, 18, 19};
      for (int64_t t = 0; t < 4; ++t) tokens.push_back(4 * scores[0].second + t);
      for (int64_t t = 2; t < 4; ++t) tokens.push_back(4 * scores[1].second + t);
      const auto index = torch::tensor(tokens);
      const auto logits = test::causal_logits(in)[b][h][19].index_select(0, index);
      const auto expected = torch::matmul(torch::softmax(logits, 0), in.v[b][h].index_select(0, index));
      EXPECT_LT(relative_error(out[b][h][19], expected), 1e-12);
    }
}

TEST(HierarchicalSparse, SumsOverRootsDoNotGrowWithTheChunk) {
  test::seed_torch(6);
  std::vector<double> root, mean;
  for (const int64_t n : {1, 16, 64}) {
    auto keys = torch::randn({2000, n, 16});
    keys = keys / keys.norm(2, 2, true);
    root.push_back((keys.sum(1) / std::sqrt(double(n))).square().sum(1).mean().item<double>());
    mean.push_back(keys.mean(1).norm(2, 1).mean().item<double>());
  }
  for (const double value : root) EXPECT_NEAR(value, 1, 0.1);
  EXPECT_NEAR(mean[1] / mean[2], 2, 0.2);
}

struct Chunking {
  std::vector<int64_t> borders;  ///< the first is 0
  int64_t lag = 0;               ///< tokens until a border is known
  int64_t budget = 0;
  double power = 0.5;  ///< chunk vectors are sum / n^power
};

/// Keys that each query of one head sees, bool [N, N], by the definition: q and k [N, D].
Tensor seen_by_chunks(const Tensor& q, const Tensor& k, const Chunking& c) {
  const int64_t n = q.size(0);
  auto seen = torch::zeros({n, n}, torch::kBool);
  const auto vector = [&](const Tensor& x, int64_t begin, int64_t end) {
    return x.slice(0, begin, end).sum(0) / std::pow(double(end - begin), c.power);
  };
  for (int64_t t = 0; t < n; ++t) {
    size_t known = 0;
    while (known + 1 < c.borders.size() && c.borders[known + 1] + c.lag <= t) ++known;
    const int64_t open = c.borders[known];
    seen[t].slice(0, open, t + 1).fill_(true);
    std::vector<std::pair<double, int64_t>> scores;  // of equal ones the earlier chunk leads
    for (size_t i = 0; i < known; ++i) {
      const double score = (vector(q, open, t + 1) * vector(k, c.borders[i], c.borders[i + 1])).sum().item<double>();
      scores.emplace_back(i == 0 ? INFINITY : score, -int64_t(i));
    }
    std::sort(scores.rbegin(), scores.rend());
    int64_t left = c.budget - (t + 1 - open);
    for (const auto& [score, chunk] : scores) {
      const int64_t begin = c.borders[size_t(-chunk)], end = c.borders[size_t(1 - chunk)];
      const int64_t taken = chunk == 0 ? end - begin : std::clamp<int64_t>(left, 0, end - begin);
      seen[t].slice(0, end - taken, end).fill_(true);
      left -= taken;
    }
  }
  return seen;
}

TEST(HierarchicalSparse, BudgetsAreSpentOnChunks) {
  test::seed_torch(11);
  const auto in = test::drawn_core(31, 31, 4, 2, torch::kFloat64);
  for (const int64_t budget : {3, 11, 16}) {
    auto seen = torch::zeros({2, 4, 31, 31}, torch::kBool);
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t h = 0; h < 4; ++h)
        seen[b][h] = seen_by_chunks(in.q[b][h], in.k[b][h / 2], {{0, 4, 8, 12, 16, 20, 24, 28}, 0, budget});
    const auto p = torch::softmax(test::causal_logits(in).masked_fill(seen.logical_not(), -INFINITY), 3);
    const auto found = core({{"budget", budget}, {"min_chunk", 4}, {"max_chunk", 4}}, in);
    EXPECT_LT(relative_error(found, torch::matmul(p, test::values_of(in))), 1e-12) << budget;
  }
}

TEST(HierarchicalSparse, ThePredictorIsTheFormula) {
  // Borders of a layer whose predictor is drawn at random, found by hand: the outputs must be those of these chunks.
  test::seed_torch(12);
  torch::NoGradGuard no_grad;
  const int64_t w = 3, n = 40;
  const auto own = core_config(
      {{"borders", "predictor"}, {"window", w}, {"hidden", 5}, {"budget", 9}, {"min_chunk", 1}, {"max_chunk", 40}});
  auto mixer = test::drawn_mixer("dynamic_hierarchical_sparse_attention", own, torch::kFloat64, 1);
  const auto in = test::drawn_core(n, n, 4, 2, torch::kFloat64);
  const auto p = mixer->named_parameters();
  const auto linear = [&](const Tensor& x, const std::string& name) {
    return torch::matmul(x, p["predictor." + name + ".weight"].t()) + p["predictor." + name + ".bias"];
  };
  const auto codes = torch::tanh(linear(in.k.transpose(1, 2).flatten(2), "encoder"));
  const auto chance = [&](int64_t b, int64_t at) {
    const auto side = [&](int64_t begin) {
      const auto x = codes[b].slice(0, begin, begin + w);
      return torch::matmul(torch::softmax(torch::matmul(x, p["predictor.pool"]), 0), x);
    };
    if (at < w || at + w > n) return 0.0;
    const auto l = side(at - w), r = side(at);
    const auto cosine = (l * r).sum() / (l.norm() * r.norm());
    const auto features = torch::cat({l, r, l - r, l * r, cosine.unsqueeze(0)});
    return torch::sigmoid(linear(torch::relu(linear(features, "hidden")), "out")).item<double>();
  };
  std::vector<std::vector<int64_t>> borders(2, {0});
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t at = 1; at < n; ++at)
      if (chance(b, at) > 0.5 && chance(b, at) > chance(b, at - 1)) borders[size_t(b)].push_back(at);
  ASSERT_GT(borders[0].size() + borders[1].size(), 6);
  // Chunks of different sizes, so that it matters how they are pooled.
  std::vector<Tensor> outs;
  for (const auto& [pooling, power] : {std::pair<const char*, double>{"sqrt", 0.5}, {"mean", 1}, {"sum", 0}}) {
    auto seen = torch::zeros({2, 4, n, n}, torch::kBool);
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t h = 0; h < 4; ++h)
        seen[b][h] = seen_by_chunks(in.q[b][h], in.k[b][h / 2], {borders[size_t(b)], w, 9, power});
    const auto weights = torch::softmax(test::causal_logits(in).masked_fill(seen.logical_not(), -INFINITY), 3);
    auto config = own;
    config["pooling"] = pooling;
    auto pooled = make_mixer("dynamic_hierarchical_sparse_attention", config);
    pooled->eval();
    pooled->to(torch::kFloat64);
    test::copy_weights(*pooled, *mixer);
    outs.push_back(pooled->mix(in));
    EXPECT_LT(relative_error(outs.back(), torch::matmul(weights, test::values_of(in))), 1e-12) << pooling;
  }
  EXPECT_GT(relative_error(outs[1], outs[0]), 1e-3);
  EXPECT_GT(relative_error(outs[2], outs[0]), 1e-3);
}

TEST(HierarchicalSparse, StepsKnowWhatTheWholeKnows) {
  test::seed_torch(7);
  torch::NoGradGuard no_grad;
  const auto x = torch::randn({2, 80, 24});
  for (const char* borders : {"predictor", "similarity", "fixed"}) {
    auto mixer = test::drawn_mixer("dynamic_hierarchical_sparse_attention",
                                   {{"dim", 24},
                                    {"heads", 4},
                                    {"kv_heads", 2},
                                    {"positions", "rope"},
                                    {"budget", 16},
                                    {"window", 3},
                                    {"min_chunk", 2},
                                    {"max_chunk", 7},
                                    {"hidden", 8},
                                    {"borders", borders},
                                    {"threshold", std::string(borders) == "similarity" ? 0.9 : 0.5}});
    const auto whole = mixer->forward({.x = x});
    EXPECT_LT(relative_error(test::in_parts(*mixer, x, {1}), whole), test::kForwardTolerance) << borders;
    EXPECT_LT(relative_error(test::in_parts(*mixer, x, {30, 5}), whole), test::kForwardTolerance) << borders;
    auto changed = x.clone();
    changed.slice(1, 41).add_(3);
    EXPECT_TRUE(torch::equal(mixer->forward({.x = changed}).slice(1, 0, 41), whole.slice(1, 0, 41))) << borders;
  }
}

TEST(HierarchicalSparse, SinglePrecisionIsDoubleWithItsGradients) {
  // Several blocks of queries, the last one cut, and padding.
  test::seed_torch(18);
  const int64_t n = 250;
  auto in = test::drawn_core(n, n, 4, 2, torch::kFloat64);
  in.key_padding = torch::rand({2, n}) < 0.2;
  const auto direction = torch::randn({2, 4, n, 8}, torch::kFloat64);
  for (const double softcap : {0.0, 1.5}) {
    std::vector<std::vector<Tensor>> found;
    for (const auto type : {torch::kFloat64, torch::kFloat32}) {
      std::vector<Tensor> inputs;
      for (const auto& x : {in.q, in.k, in.v})
        inputs.push_back(x.to(torch::kFloat32).to(type).detach().requires_grad_());  // the same choice
      CoreInput own{inputs[0], inputs[1], inputs[2]};
      own.key_padding = in.key_padding;
      const auto out = core({{"budget", 40}, {"min_chunk", 5}, {"max_chunk", 9}, {"softcap", softcap}}, own);
      found.push_back(torch::autograd::grad({(out * direction.to(type)).sum()}, inputs));
      found.back().push_back(out);
    }
    EXPECT_LT(relative_error(found[1][3], found[0][3]), test::kForwardTolerance) << softcap;
    for (size_t i = 0; i < 3; ++i)
      EXPECT_LT(relative_error(found[1][i], found[0][i]), test::kGradientTolerance) << i << " " << softcap;
  }
}

TEST(HierarchicalSparse, PaddingTakesNoneOfTheBudget) {
  test::seed_torch(8);
  torch::NoGradGuard no_grad;
  auto mixer = test::drawn_mixer(
      "dynamic_hierarchical_sparse_attention",
      {{"dim", 24}, {"heads", 4}, {"borders", "fixed"}, {"budget", 10}, {"min_chunk", 4}, {"max_chunk", 4}});
  const auto x = torch::randn({1, 40, 24});
  // Eight tokens of padding are two chunks of nothing.
  MixerInput in{.x = torch::cat({x.slice(1, 0, 12), torch::randn({1, 8, 24}), x.slice(1, 12)}, 1)};
  in.key_padding = ((torch::arange(48) >= 12) & (torch::arange(48) < 20)).unsqueeze(0);
  EXPECT_LT(relative_error(mixer->forward(in).slice(1, 20), mixer->forward({.x = x}).slice(1, 12)),
            test::kForwardTolerance);
}

TEST(HierarchicalSparse, ThePredictorLearnsBorders) {
  test::seed_torch(9);
  auto mixer = make_mixer("dynamic_hierarchical_sparse_attention", {{"dim", 16},
                                                                    {"heads", 2},
                                                                    {"borders", "predictor"},
                                                                    {"window", 4},
                                                                    {"min_chunk", 2},
                                                                    {"max_chunk", 32},
                                                                    {"hidden", 16}});
  const auto draw = [] {
    std::vector<Tensor> rows;
    for (int64_t b = 0; b < 8; ++b) {
      std::vector<Tensor> topics;
      for (int64_t t = 0; t < 6; ++t) topics.push_back((torch::randn({16}) * 3).expand({12, 16}));
      rows.push_back(torch::cat(topics) + 0.3 * torch::randn({72, 16}));
    }
    return torch::stack(rows);
  };
  std::vector<Tensor> learned;
  for (auto& entry : mixer->named_parameters())
    if (entry.key().find("predictor") == 0) learned.push_back(entry.value());
  torch::optim::Adam optimizer(learned, torch::optim::AdamOptions(0.01));
  const auto x = draw();
  const double before = border_loss(*mixer, x).item<double>();
  for (int64_t step = 0; step < 120; ++step) {
    optimizer.zero_grad();
    border_loss(*mixer, draw()).backward();
    optimizer.step();
  }
  EXPECT_LT(border_loss(*mixer, x).item<double>(), 0.3 * before);
  EXPECT_FALSE(mixer->named_parameters()["k_proj.weight"].grad().defined());  // the backbone stays as it is
  auto fixed = make_mixer("dynamic_hierarchical_sparse_attention", {{"dim", 16}, {"heads", 2}, {"borders", "fixed"}});
  EXPECT_THROW(border_loss(*fixed, x), Error);
  auto dense = make_mixer("dense", {{"dim", 16}, {"heads", 2}});
  EXPECT_THROW(border_loss(*dense, x), Error);
}

TEST(HierarchicalSparse, APredictorLearnsInTheTrainingOfItsLayer) {
  test::seed_torch(10);
  const auto layer = [](double weight) {
    torch::manual_seed(10);
    return make_mixer("dynamic_hierarchical_sparse_attention", {{"dim", 16},
                                                                {"heads", 2},
                                                                {"borders", "predictor"},
                                                                {"budget", 12},
                                                                {"window", 3},
                                                                {"min_chunk", 2},
                                                                {"max_chunk", 8},
                                                                {"hidden", 6},
                                                                {"border_weight", weight}});
  };
  const auto x = torch::randn({2, 40, 16});
  const auto taught = layer(0.7), left = layer(0);
  const auto grads = [&](TokenMixer& mixer, const std::optional<Tensor>& padding) {
    mixer.zero_grad();
    MixerInput in{.x = x};
    in.key_padding = padding;
    mixer.forward(in).sum().backward();
    std::map<std::string, Tensor> found;
    for (const auto& entry : mixer.named_parameters())
      found[entry.key()] = entry.value().grad().defined() ? entry.value().grad().clone() : Tensor();
    return found;
  };
  const auto with = grads(*taught, {}), without = grads(*left, {});
  taught->zero_grad();
  (0.7 * border_loss(*taught, x)).backward();
  for (const auto& entry : taught->named_parameters()) {
    const auto& grad = with.at(entry.key());
    if (entry.key().starts_with("predictor")) {
      EXPECT_LT(relative_error(grad, entry.value().grad()), 1e-5) << entry.key();
      EXPECT_TRUE(!without.at(entry.key()).defined() || without.at(entry.key()).abs().max().item<double>() == 0);
    } else {
      EXPECT_TRUE(torch::equal(grad, without.at(entry.key()))) << entry.key();
    }
  }
  // Of a text with padding behind it only the text is learned from.
  auto padding = torch::zeros({2, 40}, torch::kBool);
  padding.slice(1, 31).fill_(true);
  const auto cut = grads(*taught, padding);
  taught->zero_grad();
  (0.7 * border_loss(*taught, x.narrow(1, 0, 31))).backward();
  for (const auto& entry : taught->named_parameters())
    if (entry.key().starts_with("predictor")) {
      EXPECT_LT(relative_error(cut.at(entry.key()), entry.value().grad()), 1e-5) << entry.key();
    }
  // In evaluation nothing is added, and by default there is nothing to be trained.
  taught->eval();
  for (const auto& [name, grad] : grads(*taught, {}))
    if (name.starts_with("predictor")) {
      EXPECT_FALSE(grad.defined() && grad.abs().max().item<double>() > 0) << name;
    }
  for (const auto& entry :
       make_mixer("dynamic_hierarchical_sparse_attention", {{"dim", 16}, {"heads", 2}})->named_parameters())
    EXPECT_FALSE(entry.key().starts_with("predictor"));
}

/// Topics of 9 to 39 tokens; the tokens of a topic ask for one that was before.
CoreInput topics_of_different_lengths(int64_t n) {
  CoreInput in{torch::zeros({1, 1, n, 16}), torch::zeros({1, 1, n, 16}), torch::randn({1, 1, n, 16})};
  std::vector<Tensor> topics;
  for (int64_t at = 0; at < n;) {
    const int64_t length = std::min<int64_t>(n - at, 9 + int64_t(topics.size()) * 7 % 31);
    topics.push_back(torch::randn({16}) * 2);
    in.k[0][0].slice(0, at, at + length).copy_(topics.back() + 0.5 * torch::randn({length, 16}));
    const auto& asked = topics[topics.size() * 5 / 11];
    in.q[0][0].slice(0, at, at + length).copy_(asked * 0.75 + 0.3 * torch::randn({length, 16}));
    at += length;
  }
  return in;
}

TEST(HierarchicalSparse, DynamicChunksAndRootsHoldMoreOfTheMass) {
  // Of the attention of exact softmax, what the chosen chunks hold: mean of six draws. Means of keys do as well as
  // roots or better on such topics (docs/results/sparse.md), so that they are not compared here.
  test::seed_torch(10);
  const nlohmann::json found{{"borders", "similarity"}, {"threshold", 0.6}, {"min_chunk", 6}, {"max_chunk", 40}},
      fixed{{"borders", "fixed"}, {"min_chunk", 24}, {"max_chunk", 24}};
  double root = 0, sum = 0, even = 0;
  for (int64_t draw = 0; draw < 6; ++draw) {
    auto in = topics_of_different_lengths(480);
    const auto exact_lse = test::causal_logits(in).logsumexp(3);
    const auto mass = [&](nlohmann::json more, const char* pooling) {
      more.update({{"dim", 16}, {"heads", 1}, {"budget", 64}, {"window", 4}, {"pooling", pooling}});
      auto mixer = make_mixer("dynamic_hierarchical_sparse_attention", more);
      mixer->eval();
      nn::CoreReport report;
      in.report = &report;
      mixer->mix(in);
      return (report.lse - exact_lse).exp().slice(2, 120).mean().item<double>() / 6;
    };
    root += mass(found, "sqrt"), sum += mass(found, "sum");
    even += mass(fixed, "sqrt");
  }
  EXPECT_GT(root, even);
  EXPECT_GT(root, sum);
}

TEST(HierarchicalSparse, BadInputIsNamed) {
  const char* name = "dynamic_hierarchical_sparse_attention";
  EXPECT_THROW(make_mixer(name, {{"budget", 0}}), Error);
  EXPECT_THROW(make_mixer(name, {{"min_chunk", 9}, {"max_chunk", 8}}), Error);
  EXPECT_THROW(make_mixer(name, {{"borders", "guess"}}), Error);
  EXPECT_THROW(make_mixer(name, {{"causal", false}}), Error);
}

}  // namespace
}  // namespace heed::hierarchical_test
