// The card of sea: columns that share out the keys, exact attention over what is selected, an estimator that learns
// from a teacher and from nothing else.
#include "heed/mixers/sea.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "mixers/linear/sea_columns.h"
#include "support/torch_support.h"

namespace heed::sea_test {
namespace {

using linear::VisibleKeys;
using test::relative_error;
using torch::Tensor;

constexpr int64_t kHeads = 3, kSize = 8, kDim = kHeads * kSize;

std::shared_ptr<TokenMixer> in_double(bool causal, const nlohmann::json& own = nlohmann::json::object()) {
  nlohmann::json config{{"dim", kDim}, {"heads", kHeads}, {"columns", 16}, {"keys", 4}, {"causal", causal}};
  config.update(own);
  torch::manual_seed(5);
  auto mixer = make_mixer("sea", config);
  mixer->to(torch::kFloat64);
  return mixer;
}

/// Every query takes what it selected, whole.
void open_gates(TokenMixer& mixer) {
  torch::NoGradGuard no_grad;
  mixer.named_parameters()["estimator.gates.bias"].fill_(100);
}

CoreInput random_heads(int64_t n) {
  const auto draw = [&] { return torch::randn({2, kHeads, n, kSize}, torch::kFloat64); };
  return {draw(), draw(), draw()};
}

VisibleKeys causal_keys(const Tensor& shown) { return {shown, shown.cumsum(1)}; }
VisibleKeys all_keys(const Tensor& shown) { return {shown, shown.sum(1, true).expand_as(shown)}; }

/// bool [B, H, N, M] of what is listed.
Tensor listed_map(const BlockListTensors& lists, int64_t n, int64_t m) {
  auto map = torch::zeros({lists.batch * lists.heads * n, m}, torch::kBool);
  const auto* offsets = lists.offsets.data_ptr<int64_t>();
  for (int64_t row = 0; row < map.size(0); ++row)
    map[row].index_fill_(0, lists.columns.slice(0, offsets[row], offsets[row + 1]).to(torch::kInt64), true);
  return map.view({lists.batch, lists.heads, n, m});
}

TEST(SeaColumns, ShareOutTheVisibleKeys) {
  for (const int64_t columns : {1, 4, 16, 128}) {
    const auto count = torch::arange(300).unsqueeze(0);
    const auto edges = linear::column_edges(count, columns)[0];
    EXPECT_TRUE(torch::equal(edges.select(1, 0), torch::zeros({300}, torch::kInt64)));
    EXPECT_TRUE(torch::equal(edges.select(1, columns), count[0]));
    const auto width = edges.slice(1, 1) - edges.slice(1, 0, columns);
    EXPECT_GE(width.min().item<int64_t>(), 0);
    EXPECT_LE((width.amax(1) - width.amin(1)).max().item<int64_t>(), 1);
  }
}

TEST(SeaColumns, AStretchedMapHasTheValueOfEachKeysColumn) {
  torch::manual_seed(1);
  for (const int64_t columns : {3, 8, 40}) {
    auto shown = torch::ones({2, 23}, torch::kBool);
    shown[1].slice(0, 4, 9).fill_(false);
    for (const bool causal : {true, false}) {
      const auto keys = causal ? causal_keys(shown) : all_keys(shown);
      const auto map = torch::softmax(torch::randn({2, 1, 23, columns}, torch::kFloat64), 3);
      const auto weights = linear::stretched(map, keys), edges = linear::column_edges(keys.count, columns);
      for (int64_t b = 0; b < 2; ++b)
        for (int64_t i = 0; i < 23; ++i) {
          auto expected = torch::zeros({23}, torch::kFloat64);
          const auto order = shown[b].nonzero().squeeze(1);
          for (int64_t c = 0; c < columns; ++c)
            for (int64_t r = edges[b][i][c].item<int64_t>(); r < edges[b][i][c + 1].item<int64_t>(); ++r)
              expected[order[r].item<int64_t>()] = map[b][0][i][c];
          EXPECT_LT(relative_error(weights[b][0][i], expected / expected.sum()), 1e-12);
        }
    }
  }
}

TEST(SeaColumns, AsManyKeysAreListedAsTheBudgetSays) {
  torch::manual_seed(2);
  const int64_t n = 200, columns = 16, k = 5;
  const auto keys = causal_keys(torch::ones({1, n}, torch::kBool));
  const auto map = torch::softmax(torch::randn({1, kHeads, n, columns}), 3);
  const auto kept = linear::kept_columns(map, keys.count, k);
  const auto listed = listed_map(linear::listed_keys(kept, keys), n, n);
  EXPECT_FALSE(listed.logical_and(torch::ones({n, n}, torch::kBool).triu(1)).any().item<bool>());
  for (int64_t i = 0; i < n; ++i) {
    const int64_t seen = i + 1, all = kHeads * columns;
    const auto budget = std::max<int64_t>(1, std::llround(double(kHeads * k * columns) / double(seen)));
    EXPECT_EQ(kept[0].select(1, i).sum().item<int64_t>(), std::min(budget, all));
    const int64_t found = listed[0].select(1, i).sum().item<int64_t>();
    // A column is as wide as it is, rounded down or up.
    EXPECT_GE(found, std::min(budget, all) * (seen / columns)) << i;
    EXPECT_LE(found, std::min(budget, all) * ((seen + columns - 1) / columns)) << i;
    if (seen >= 4 * columns) {
      EXPECT_NEAR(double(found), kHeads * k, double(budget + seen / columns)) << i;
    }
  }
}

TEST(SeaColumns, OfEqualEntriesTheLowerHeadAndColumnIsKept) {
  const auto kept = linear::kept_columns(torch::full({1, 2, 1, 8}, 0.125), torch::full({1, 1}, 16, torch::kInt64), 3);
  EXPECT_EQ(kept.sum().item<int64_t>(), 3);
  EXPECT_TRUE(kept[0][0][0].slice(0, 0, 3).all().item<bool>());
}

TEST(SeaColumns, PaddingIsNeverListed) {
  torch::manual_seed(3);
  auto shown = torch::ones({2, 30}, torch::kBool);
  shown[0].slice(0, 20).fill_(false);
  shown[1].slice(0, 0, 7).fill_(false);
  for (const bool causal : {true, false}) {
    const auto keys = causal ? causal_keys(shown) : all_keys(shown);
    const auto kept = linear::kept_columns(torch::rand({2, kHeads, 30, 8}), keys.count, 4);
    const auto listed = listed_map(linear::listed_keys(kept, keys), 30, 30);
    EXPECT_FALSE(listed.logical_and(shown.logical_not().view({2, 1, 1, 30})).any().item<bool>());
    EXPECT_TRUE(listed[0][0][15].any().item<bool>() || listed[0][1][15].any().item<bool>() ||
                listed[0][2][15].any().item<bool>());
  }
}

TEST(Sea, WithEveryKeySelectedItIsSoftmaxAttention) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(4);
  for (const bool causal : {true, false})
    for (const int64_t n : {1, 9, 50}) {
      auto mixer = in_double(causal, {{"keys", 1000}});
      open_gates(*mixer);
      const auto in = random_heads(n);
      auto scores = torch::matmul(in.q, in.k.transpose(2, 3)) / std::sqrt(double(kSize));
      if (causal) scores = scores.masked_fill(torch::ones({n, n}, torch::kBool).triu(1), -INFINITY);
      EXPECT_LT(relative_error(mixer->mix(in), torch::matmul(torch::softmax(scores, 3), in.v)), 1e-12) << causal << n;
    }
}

TEST(Sea, ClosedGatesLeaveTheAverage) {
  torch::NoGradGuard no_grad;
  auto mixer = in_double(true);
  mixer->named_parameters()["estimator.gates.bias"].fill_(-100);
  const auto in = random_heads(17);
  const auto means = in.v.cumsum(2) / torch::arange(1, 18, torch::kFloat64).view({1, 1, -1, 1});
  EXPECT_LT(relative_error(mixer->mix(in), means), 1e-12);
}

// With the teacher's own map, column by key, the error falls as keys are added.
TEST(Sea, AtAPerfectMapMoreKeysAreBetter) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(6);
  const int64_t n = 40;
  auto in = random_heads(n);
  in.q = in.q * 2;
  const auto map = torch::softmax(torch::matmul(in.q, in.k.transpose(2, 3)) / std::sqrt(double(kSize)), 3);
  const auto exact = torch::matmul(map, in.v);
  const auto keys = all_keys(torch::ones({2, n}, torch::kBool));
  double last = INFINITY;
  for (const int64_t k : {1, 2, 4, 8, 16, 32, 40}) {
    AttentionOptions options;
    options.blocks = linear::listed_keys(linear::kept_columns(map, keys.count, k), keys);
    const double error = relative_error(attention(in.q, in.k, in.v, options), exact);
    EXPECT_LT(error, last) << k;
    last = error;
  }
  EXPECT_LT(last, 1e-12);
}

TEST(Sea, TheSelectionHasNoGradient) {
  auto mixer = in_double(true);
  MixerInput in;
  in.x = torch::randn({2, 30, kDim}, torch::kFloat64);
  mixer->forward(in).square().sum().backward();
  for (auto& entry : mixer->named_parameters()) {
    const bool maps = entry.key().find("estimator.conv") == 0 || entry.key().find("estimator.out_proj") == 0 ||
                      entry.key().find("_norm") != std::string::npos;
    const auto& grad = entry.value().grad();
    EXPECT_EQ(grad.defined() && grad.abs().max().item<double>() > 0, !maps) << entry.key();
  }
}

struct Distilled {
  double loss, sparse, random;
};

/// The error of the context without the average: of what the estimator selects, and of as many keys drawn at random.
Distilled measure(TokenMixer& mixer, const MixerInput& in, const SeaTeacher& teacher, const CoreInput& heads) {
  torch::NoGradGuard no_grad;
  const auto bias = mixer.named_parameters()["estimator.gates.bias"], kept = bias.clone();
  bias.fill_(100);
  const double sparse = relative_error(mixer.mix(heads), teacher.context);
  bias.copy_(kept);
  AttentionOptions options;
  const int64_t n = in.x.size(1);
  const auto keys = all_keys(torch::ones({in.x.size(0), n}, torch::kBool));
  options.blocks = linear::listed_keys(linear::kept_columns(torch::rand({in.x.size(0), 2, n, n}), keys.count, 4), keys);
  return {sea_distillation_loss(mixer, in, teacher).item<double>(), sparse,
          relative_error(attention(heads.q, heads.k, heads.v, options), teacher.context)};
}

// Every query attends to marked tokens, which stand at one set of places or another. The estimator learns to find them
// by the distillation loss alone.
TEST(Sea, DistillationTeachesTheEstimatorWhereToLook) {
  torch::manual_seed(8);
  const int64_t n = 32, dim = 32, heads = 2;
  auto mixer = make_mixer("sea", {{"dim", dim}, {"heads", heads}, {"columns", n}, {"keys", 4}, {"causal", false}});
  auto parameters = mixer->named_parameters();
  // Channel 0 is 1 for every token, and makes all queries point one way.
  auto mark = torch::randn({dim}) / std::sqrt(double(dim));
  mark[0] = 0;
  {
    torch::NoGradGuard no_grad;
    for (const char* name : {"q_proj.weight", "k_proj.weight", "v_proj.weight"})
      parameters[name].normal_(0, 1 / std::sqrt(double(dim)));
    // Keys of marked tokens point where all queries point.
    parameters["k_proj.weight"].add_(torch::outer(torch::ones({dim}), mark) * 0.8);
    parameters["q_proj.weight"].mul_(0.5).select(1, 0).fill_(1);
  }
  const auto project = [&](const char* name, const Tensor& x) {
    return torch::matmul(x, parameters[name].t()).view({x.size(0), n, heads, dim / heads}).transpose(1, 2);
  };
  struct Batch {
    MixerInput in;
    SeaTeacher teacher;
    CoreInput heads;
  };
  const auto draw = [&](int64_t batch) {
    torch::NoGradGuard no_grad;
    Batch b;
    auto marked = torch::zeros({batch, n, 1});
    for (int64_t item = 0; item < batch; ++item)
      for (const int64_t place : {3, 11, 20, 27}) marked[item][place + item % 2 * 4] = 1;
    b.in.x = torch::randn({batch, n, dim}) * 0.5 + marked * mark * 2;
    b.in.x.select(2, 0).fill_(1);
    b.heads = {project("q_proj.weight", b.in.x), project("k_proj.weight", b.in.x), project("v_proj.weight", b.in.x)};
    const auto scores = torch::matmul(b.heads.q, b.heads.k.transpose(2, 3)) / std::sqrt(double(dim / heads));
    b.teacher.weights = torch::softmax(scores, 3);
    b.teacher.context = torch::matmul(b.teacher.weights, b.heads.v);
    return b;
  };
  std::vector<Tensor> learned;
  for (auto& entry : parameters)
    if (entry.key().find("estimator.") == 0) learned.push_back(entry.value());
  torch::optim::Adam adam(learned, torch::optim::AdamOptions(5e-3));
  const auto test = draw(16);
  const auto before = measure(*mixer, test.in, test.teacher, test.heads);
  for (int step = 0; step < 150; ++step) {
    const auto batch = draw(16);
    const auto loss = sea_distillation_loss(*mixer, batch.in, batch.teacher);
    adam.zero_grad();
    loss.backward();
    adam.step();
  }
  const auto after = measure(*mixer, test.in, test.teacher, test.heads);
  EXPECT_LT(after.loss, before.loss);
  EXPECT_LT(after.sparse, 0.6 * after.random) << after.sparse << " " << after.random;
  EXPECT_LT(after.sparse, 0.6 * before.sparse) << after.sparse << " " << before.sparse;
}

TEST(Sea, TheLossIgnoresPadding) {
  auto mixer = in_double(true);
  torch::manual_seed(9);
  MixerInput in;
  in.x = torch::randn({1, 20, kDim}, torch::kFloat64);
  auto weights = torch::softmax(torch::randn({1, kHeads, 20, 20}, torch::kFloat64), 3).tril();
  const SeaTeacher teacher{weights / weights.sum(3, true), torch::randn({1, kHeads, 20, kSize}, torch::kFloat64)};
  auto short_in = in;
  short_in.x = in.x.narrow(1, 0, 14);
  const SeaTeacher short_teacher{teacher.weights.narrow(2, 0, 14).narrow(3, 0, 14).contiguous(),
                                 teacher.context.narrow(2, 0, 14).contiguous()};
  in.key_padding = torch::zeros({1, 20}, torch::kBool);
  in.key_padding->slice(1, 14).fill_(true);
  const double whole = sea_distillation_loss(*mixer, in, teacher).item<double>();
  auto changed = in;
  changed.x = in.x.clone();
  changed.x.slice(1, 14).add_(3);
  EXPECT_EQ(sea_distillation_loss(*mixer, changed, teacher).item<double>(), whole);
  EXPECT_GT(sea_distillation_loss(*mixer, short_in, short_teacher).item<double>(), 0);
}

TEST(Sea, WrongSettingsAreNamed) {
  EXPECT_THROW(make_mixer("sea", {{"columns", 6}}), Error);
  EXPECT_THROW(make_mixer("sea", {{"key_dim", 4}}), Error);
  auto mixer = in_double(true, {{"max_length", 4}});
  MixerInput in;
  in.x = torch::randn({1, 5, kDim}, torch::kFloat64);
  EXPECT_THROW(mixer->forward(in), Error);
  auto dense = make_mixer("dense", {{"dim", kDim}, {"heads", kHeads}});
  EXPECT_THROW(sea_distillation_loss(*dense, in, {}), Error);
}

}  // namespace
}  // namespace heed::sea_test
