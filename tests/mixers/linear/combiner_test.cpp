// The card of combiner: every form against its definition, token by token.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "mixers/linear/linear_support.h"

namespace heed::combiner_test {
namespace {

using nlohmann::json;
using test::in_parts;
using test::kDouble;
using test::relative_error;
using test::wide_mixer;
using torch::Tensor;

const auto kWide = torch::TensorOptions(torch::kFloat64);

TEST(Combiner, SpansOfOneTokenOrOfAllAreDenseAttention) {
  torch::manual_seed(3);
  const auto draw = [] { return torch::randn({2, 3, 26, 8}, kWide); };
  const CoreInput in{draw(), draw(), draw()};
  for (const bool causal : {true, false}) {
    const auto expected = wide_mixer("dense", {{"dim", 24}, {"heads", 3}, {"causal", causal}})->mix(in);
    for (const char* form : {"fixed", "axial", "mixture"})
      for (const int64_t span : {1, 26, 100}) {
        auto mixer =
            wide_mixer("combiner", {{"dim", 24}, {"heads", 3}, {"span", span}, {"causal", causal}, {"form", form}});
        EXPECT_LT(relative_error(mixer->mix(in), expected), kDouble)
            << form << " span " << span << " causal " << causal;
      }
  }
}

// Rows of 5 tokens; what sums up a row is asked for by the row's own token in the query's column, and by nothing (0)
// where the last row has none there.
TEST(Combiner, AnAxialRowIsSummedUpForEveryColumn) {
  torch::manual_seed(5);
  const int64_t n = 22, span = 5;
  const auto draw = [&] { return torch::randn({1, 1, n, 8}, kWide); };
  const CoreInput in{draw(), draw(), draw()};
  const auto q = in.q[0][0], k = in.k[0][0], v = in.v[0][0];
  for (const auto& [causal, counted] : {std::pair{true, false}, {false, false}, {true, true}, {false, true}}) {
    auto mixer = wide_mixer(
        "combiner",
        {{"dim", 8}, {"heads", 1}, {"span", span}, {"causal", causal}, {"form", "axial"}, {"count_regions", counted}});
    const auto out = mixer->mix(in)[0][0];
    for (int64_t i = 0; i < n; ++i) {
      std::vector<Tensor> keys, values, tokens;  // tokens that a key stands for
      const int64_t row = i / span;
      for (int64_t r = 0; r * span < n; ++r) {
        const int64_t begin = r * span, end = std::min(n, begin + span), asking = begin + i % span;
        if (r == row) {
          const int64_t last = causal ? i + 1 : end;
          keys.push_back(k.slice(0, begin, last));
          values.push_back(v.slice(0, begin, last));
          tokens.push_back(torch::ones({last - begin}, kWide));
        } else if (!causal || r < row) {
          const auto query = asking < n ? q[asking] : torch::zeros({8}, kWide);
          const auto weights = torch::softmax(torch::mv(k.slice(0, begin, end), query) / std::sqrt(8.0), 0);
          keys.push_back(torch::mv(k.slice(0, begin, end).t(), weights).unsqueeze(0));
          values.push_back(torch::mv(v.slice(0, begin, end).t(), weights).unsqueeze(0));
          tokens.push_back(torch::full({1}, double(counted ? end - begin : 1), kWide));
        }
      }
      const auto weights =
          torch::softmax(torch::mv(torch::cat(keys), q[i]) / std::sqrt(8.0) + torch::cat(tokens).log(), 0);
      EXPECT_LT(relative_error(out[i], torch::mv(torch::cat(values).t(), weights)), kDouble)
          << i << " " << causal << counted;
    }
  }
}

// Token i sees itself and the blocks of the binary expansion of i; on the other side, those of what is left.
TEST(Combiner, ALogsparseTokenSeesEveryOtherOnce) {
  torch::manual_seed(7);
  const int64_t n = 21;
  const auto draw = [&] { return torch::randn({1, 1, n, 8}, kWide); };
  const CoreInput in{draw(), draw(), draw()};
  const auto q = in.q[0][0], k = in.k[0][0], v = in.v[0][0];
  for (const bool causal : {true, false}) {
    auto mixer = wide_mixer("combiner", {{"dim", 8}, {"heads", 1}, {"causal", causal}, {"form", "logsparse"}});
    const auto out = mixer->mix(in)[0][0];
    for (int64_t i = 0; i < n; ++i) {
      std::vector<Tensor> keys{k.slice(0, i, i + 1)}, values{v.slice(0, i, i + 1)};
      int64_t seen = 1;
      const auto add = [&](int64_t begin, int64_t end) {
        const auto pooled = q.slice(0, begin, end).amax(0);
        const auto weights = torch::softmax(torch::mv(k.slice(0, begin, end), pooled) / std::sqrt(8.0), 0);
        keys.push_back(k.slice(0, begin, end).amax(0, true));
        values.push_back(torch::mv(v.slice(0, begin, end).t(), weights).unsqueeze(0));
        seen += end - begin;
      };
      for (int64_t size = 1; size < n; size *= 2) {
        const int64_t block = i / size;
        if (block % 2 == 1) add((block - 1) * size, block * size);
        if (!causal && block % 2 == 0 && (block + 1) * size < n)
          add((block + 1) * size, std::min(n, (block + 2) * size));
      }
      ASSERT_EQ(seen, causal ? i + 1 : n);
      const auto weights = torch::softmax(torch::mv(torch::cat(keys), q[i]) / std::sqrt(8.0), 0);
      EXPECT_LT(relative_error(out[i], torch::mv(torch::cat(values).t(), weights)), kDouble) << i << " " << causal;
    }
  }
}

class CombinerForm : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, CombinerForm, testing::Values("fixed", "axial", "mixture", "logsparse"));

TEST_P(CombinerForm, StepsEqualTheWholeAndPaddingIsNotSeen) {
  torch::manual_seed(6);
  torch::NoGradGuard no_grad;
  const json config{{"dim", 12}, {"heads", 2}, {"span", 4}, {"form", GetParam()}};
  auto mixer = wide_mixer("combiner", config);
  MixerInput in;
  in.x = torch::randn({2, 19, 12}, kWide);
  const auto whole = mixer->forward(in);
  EXPECT_LT(relative_error(in_parts(*mixer, in.x, {1, 2, 6, 3, 5, 1}), whole), kDouble);
  for (const bool causal : {true, false}) {
    auto both = config;
    both["causal"] = causal;
    auto padded = wide_mixer("combiner", both);
    // Rows and regions with some tokens left.
    in.key_padding = torch::zeros({2, 19}, torch::kBool);
    for (const int64_t hidden : {5, 9, 10, 18}) in.key_padding->select(1, hidden).fill_(true);
    const auto hidden = in.key_padding->unsqueeze(2);
    const auto before = padded->forward(in).masked_fill(hidden, 0);
    auto changed = in;
    changed.x = in.x + 4 * hidden.to(torch::kFloat64);
    EXPECT_TRUE(torch::equal(padded->forward(changed).masked_fill(hidden, 0), before)) << causal;
  }
}

TEST(Combiner, ARegionWeighsAsOneTokenOfEqualOnes) {
  torch::manual_seed(4);
  const auto equal = torch::randn({1, 1, 1, 8}, kWide).expand({1, 1, 20, 8});
  const auto place = torch::arange(20, kWide).view({1, 1, 20, 1}).expand({1, 1, 20, 8});
  auto mixer = wide_mixer("combiner", {{"dim", 8}, {"heads", 1}, {"span", 5}});
  // Token 17 sees tokens 15 to 17 and the means 2, 7 and 12 of three regions.
  const auto out = mixer->mix({equal, equal, place});
  EXPECT_NEAR(out[0][0][17][0].item<double>(), (15 + 16 + 17 + 2 + 7 + 12) / 6.0, 1e-9);
  auto counted = wide_mixer("combiner", {{"dim", 8}, {"heads", 1}, {"span", 5}, {"count_regions", true}});
  EXPECT_NEAR(counted->mix({equal, equal, place})[0][0][17][0].item<double>(), 17 / 2.0, 1e-9);
}

/// What a token meets under one softmax, and what becomes of it.
struct Met {
  std::vector<Tensor> keys, values;

  void one(const Tensor& k, const Tensor& v) { keys.push_back(k), values.push_back(v); }
  /// The region of `tokens`: the largest key, the expectation of values under the largest query.
  void region(const Tensor& q, const Tensor& k, const Tensor& v, const std::vector<int64_t>& tokens) {
    if (tokens.empty()) return;
    const auto of = [&](const Tensor& t) { return t.index_select(0, torch::tensor(tokens)); };
    const auto weights = torch::softmax(torch::mv(of(k), of(q).amax(0)) / std::sqrt(double(q.size(1))), 0);
    one(of(k).amax(0), torch::mv(of(v).t(), weights));
  }
  Tensor answer(const Tensor& query) const {
    const auto weights = torch::softmax(torch::mv(torch::stack(keys), query) / std::sqrt(double(query.size(0))), 0);
    return torch::mv(torch::stack(values).t(), weights);
  }
};

// Token (r, c) sees its row and its column, of other columns the parts above it (and below), of other rows what is to
// the left and to the right of its column.
TEST(Combiner, AMixtureSeesRowsColumnsAndTheirParts) {
  torch::manual_seed(8);
  const int64_t n = 23, s = 5;
  const auto draw = [&] { return torch::randn({1, 1, n, 8}, kWide); };
  const CoreInput in{draw(), draw(), draw()};
  const auto q = in.q[0][0], k = in.k[0][0], v = in.v[0][0];
  for (const bool causal : {true, false}) {
    auto mixer =
        wide_mixer("combiner", {{"dim", 8}, {"heads", 1}, {"span", s}, {"causal", causal}, {"form", "mixture"}});
    const auto out = mixer->mix(in)[0][0];
    for (int64_t i = 0; i < n; ++i) {
      const int64_t row = i / s, column = i % s;
      Met met;
      std::vector<std::vector<int64_t>> above(s), below(s);
      for (int64_t j = 0; j < n; ++j) {
        const int64_t r = j / s, c = j % s;
        const bool visible = causal ? j <= i : true;
        if (visible && (r == row || c == column)) met.one(k[j], v[j]);
        if (c != column && r < row) above[c].push_back(j);
        if (c != column && r > row && !causal) below[c].push_back(j);
      }
      for (int64_t c = 0; c < s; ++c) met.region(q, k, v, above[c]), met.region(q, k, v, below[c]);
      for (int64_t r = 0; r * s < n; ++r) {
        if (r == row || (causal && r > row)) continue;
        std::vector<int64_t> left, right;
        for (int64_t j = r * s; j < std::min(n, r * s + s); ++j)
          if (j % s != column) (j % s < column ? left : right).push_back(j);
        met.region(q, k, v, left), met.region(q, k, v, right);
      }
      EXPECT_LT(relative_error(out[i], met.answer(q[i])), kDouble) << i << " causal " << causal;
    }
  }
}

Tensor pooled(const std::string& kind, const Tensor& t) {
  return kind == "max" ? t.amax(0) : kind == "mean" ? t.mean(0) : t.sum(0);
}

TEST(Combiner, RegionsArePooledAsTheirNamesSay) {
  torch::manual_seed(9);
  torch::NoGradGuard no_grad;
  const int64_t n = 13, span = 5;
  const auto draw = [&] { return torch::randn({1, 2, n, 4}, kWide); };
  const CoreInput in{draw(), draw(), draw()};
  for (const std::string kind : {"max", "mean", "sum"})
    for (const std::string map : {"identity", "relu", "deepset"}) {
      auto mixer =
          wide_mixer("combiner", {{"dim", 8}, {"heads", 2}, {"span", span}, {"pool", kind}, {"pool_map", map}});
      const auto p = mixer->named_parameters();
      const auto mapped = [&](const Tensor& t, const char* weight) {
        if (map == "identity") return t;
        return torch::relu(map == "deepset" ? torch::matmul(t, p[weight]) : t);
      };
      const auto out = mixer->mix(in);
      for (int64_t h = 0; h < 2; ++h) {
        const auto q = in.q[0][h], k = in.k[0][h], v = in.v[0][h];
        for (int64_t i = 0; i < n; ++i) {
          Met met;
          for (int64_t j = i / span * span; j <= i; ++j) met.one(k[j], v[j]);
          for (int64_t begin = 0; begin < i / span * span; begin += span) {
            const auto part = [&](const Tensor& t) { return t.slice(0, begin, begin + span); };
            const auto query = pooled(kind, mapped(part(q), "pool.query_weight"));
            const auto weights = torch::softmax(torch::mv(part(k), query) / 2, 0);
            met.one(pooled(kind, mapped(part(k), "pool.key_weight")), torch::mv(part(v).t(), weights));
          }
          EXPECT_LT(relative_error(out[0][h][i], met.answer(q[i])), kDouble) << kind << " " << map << " " << i;
        }
      }
    }
}

// A part that grows token by token ends as the pool of all of them.
TEST(Combiner, AMixtureOfOneRowAboveKnowsItsPools) {
  torch::manual_seed(10);
  torch::NoGradGuard no_grad;
  const int64_t s = 6;
  const auto draw = [&] { return torch::randn({1, 1, s + 1, 4}, kWide); };
  const CoreInput in{draw(), draw(), draw()};
  const auto q = in.q[0][0], k = in.k[0][0], v = in.v[0][0];
  for (const std::string kind : {"max", "mean", "sum"}) {
    auto mixer = wide_mixer("combiner", {{"dim", 4}, {"heads", 1}, {"span", s}, {"form", "mixture"}, {"pool", kind}});
    // The first token of the second row: the token above it, the other columns, what is right of it above.
    Met met;
    met.one(k[s], v[s]), met.one(k[0], v[0]);
    for (int64_t c = 1; c < s; ++c) met.one(k[c], v[c]);
    const auto weights = torch::softmax(torch::mv(k.slice(0, 1, s), pooled(kind, q.slice(0, 1, s))) / 2, 0);
    met.one(pooled(kind, k.slice(0, 1, s)), torch::mv(v.slice(0, 1, s).t(), weights));
    EXPECT_LT(relative_error(mixer->mix(in)[0][0][s], met.answer(q[s])), kDouble) << kind;
  }
}

TEST(Combiner, ProjectedKeysOfRowsAreMapsOfTheirValues) {
  torch::manual_seed(11);
  torch::NoGradGuard no_grad;
  const int64_t n = 11, s = 4;
  auto mixer =
      wide_mixer("combiner", {{"dim", 8}, {"heads", 2}, {"span", s}, {"form", "axial"}, {"row_keys", "projected"}});
  const auto weight = mixer->named_parameters()["row_key_proj.weight"];
  weight.normal_();
  const auto draw = [&] { return torch::randn({1, 2, n, 4}, kWide); };
  const CoreInput in{draw(), draw(), draw()};
  const auto out = mixer->mix(in);
  for (int64_t i = 0; i < n; ++i) {
    std::vector<Met> met(2);
    for (int64_t begin = 0; begin + s <= i / s * s; begin += s) {
      std::vector<Tensor> values;
      for (int64_t h = 0; h < 2; ++h) {
        const auto part = [&](const Tensor& t) { return t[0][h].slice(0, begin, begin + s); };
        values.push_back(
            torch::mv(part(in.v).t(), torch::softmax(torch::mv(part(in.k), in.q[0][h][begin + i % s]) / 2, 0)));
      }
      const auto keys = torch::mv(weight, torch::cat(values)).view({2, 4});
      for (int64_t h = 0; h < 2; ++h) met[h].one(keys[h], values[h]);
    }
    for (int64_t h = 0; h < 2; ++h) {
      for (int64_t j = i / s * s; j <= i; ++j) met[h].one(in.k[0][h][j], in.v[0][h][j]);
      EXPECT_LT(relative_error(out[0][h][i], met[h].answer(in.q[0][h][i])), kDouble) << i;
    }
  }
}

TEST_P(CombinerForm, WeightsAddUpToOneOverEveryVisibleToken) {
  torch::manual_seed(12);
  const int64_t n = 14;
  for (const bool causal : {true, false}) {
    auto mixer =
        wide_mixer("combiner", {{"dim", 4}, {"heads", 1}, {"span", 4}, {"form", GetParam()}, {"causal", causal}});
    const auto draw = [&] { return torch::randn({1, 1, n, 4}, kWide); };
    CoreInput in{draw(), draw(), draw()};
    in.v = torch::zeros({1, 1, n, 4}, kWide).requires_grad_();
    // The output is linear in the values: its gradient is the row of weights.
    const auto out = mixer->mix(in);
    for (int64_t i = 0; i < n; ++i) {
      const auto row = torch::autograd::grad({out[0][0][i][0]}, {in.v}, {}, true)[0][0][0].select(1, 0);
      const int64_t seen = causal ? i + 1 : n;
      EXPECT_GT(row.slice(0, 0, seen).min().item<double>(), 0) << i;
      EXPECT_NEAR(row.sum().item<double>(), 1, 1e-12) << i;
      EXPECT_EQ(row.slice(0, seen).abs().sum().item<double>(), 0) << i;
    }
  }
}

TEST(Combiner, WrongSettingsAreNamed) {
  EXPECT_THROW(make_mixer("combiner", {{"form", "axial"}, {"pool", "mean"}}), Error);
  EXPECT_THROW(make_mixer("combiner", {{"form", "axial"}, {"pool_map", "relu"}}), Error);
  EXPECT_THROW(make_mixer("combiner", {{"form", "fixed"}, {"row_keys", "projected"}}), Error);
  EXPECT_THROW(make_mixer("combiner", {{"pool", "median"}}), Error);
}

}  // namespace
}  // namespace heed::combiner_test
