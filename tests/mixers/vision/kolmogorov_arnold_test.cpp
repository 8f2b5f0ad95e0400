// The card of learned operators in the place of softmax.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "heed/mixers/shared_parameters.h"
#include "support/gradient_check.h"
#include "support/image_support.h"

namespace heed::kolmogorov_arnold_test {
namespace {

using test::image_input;
using test::image_mixer;
using test::kDouble;
using test::linear_of;
using test::parameter;
using test::reached;
using test::relative_error;
using torch::Tensor;

TEST(KolmogorovArnoldAttention, ClosedFormsOfTheOperator) {
  torch::manual_seed(6);
  const auto in = image_input(1, 2, 4);
  const auto mixer = image_mixer("kolmogorov_arnold_attention",
                                 {{"dim", 4}, {"heads", 1}, {"max_length", 2}, {"rank", 2}, {"frequencies", 1}});
  // sigma(s)_p = sin(s_p).
  auto functions = parameter(*mixer, "functions").data();
  functions.zero_();
  for (int64_t p = 0; p < 2; ++p) functions[0][p][p][1] = 1;
  parameter(*mixer, "expand").data().copy_(torch::eye(2).unsqueeze(0));
  const auto qkv = linear_of(*mixer, "qkv", in.x).chunk(3, 2);
  const auto scores = torch::matmul(qkv[0], qkv[1].transpose(1, 2)) / 2;
  const auto expected = linear_of(*mixer, "o_proj", torch::matmul(torch::sin(scores), qkv[2]));
  EXPECT_LT(relative_error(mixer->forward(in), expected), kDouble);
}

TEST(KolmogorovArnoldAttention, MultiplesOfAngles) {
  torch::manual_seed(7);
  const auto in = image_input(1, 5, 4);
  const auto mixer = image_mixer("kolmogorov_arnold_attention",
                                 {{"dim", 4}, {"heads", 2}, {"max_length", 5}, {"rank", 0}, {"frequencies", 5}});
  const auto functions = parameter(*mixer, "functions");
  const auto qkv = linear_of(*mixer, "qkv", in.x).chunk(3, 2);
  const auto q = split_heads(qkv[0], 2), k = split_heads(qkv[1], 2), v = split_heads(qkv[2], 2);
  const auto scores = torch::matmul(q, k.transpose(2, 3)) / std::sqrt(2.0);
  auto rows = torch::zeros_like(scores);
  for (int64_t m = 1; m <= 5; ++m) {
    rows += torch::einsum("bhnq,hpq->bhnp", {torch::cos(m * scores), functions.select(3, 2 * m - 2)});
    rows += torch::einsum("bhnq,hpq->bhnp", {torch::sin(m * scores), functions.select(3, 2 * m - 1)});
  }
  const auto expected = linear_of(*mixer, "o_proj", join_heads(torch::matmul(rows, v)));
  EXPECT_LT(relative_error(mixer->forward(in), expected), 1e-9);
}

/// [.., count]: the functions of a basis at the scores x, one by one from their definitions.
Tensor functions_of(const std::string& basis, int64_t size, double range, const Tensor& shape, const Tensor& x) {
  std::vector<Tensor> values;
  if (basis == "spline") {
    values.push_back(x / (1 + torch::exp(-x)));
    // Cox and de Boor: from steps between knots to cubic pieces.
    const double interval = 2 * range / double(size);
    const auto knot = [&](int64_t i) { return -range + double(i - 3) * interval; };
    std::vector<Tensor> pieces;
    for (int64_t i = 0; i < size + 6; ++i) pieces.push_back(((x >= knot(i)) & (x < knot(i + 1))).to(x.scalar_type()));
    for (int64_t order = 1; order <= 3; ++order)
      for (int64_t i = 0; i + order < size + 6; ++i)
        pieces[size_t(i)] = ((x - knot(i)) * pieces[size_t(i)] + (knot(i + order + 1) - x) * pieces[size_t(i + 1)]) /
                            (double(order) * interval);
    values.insert(values.end(), pieces.begin(), pieces.begin() + size + 3);
  } else if (basis == "wavelet") {
    for (int64_t m = 0; m < size; ++m) {
      const auto t = (x - shape[m]) / torch::exp(shape[size + m]);
      values.push_back(2 / (std::sqrt(3.0) * std::pow(M_PI, 0.25)) * (1 - t * t) * torch::exp(-t * t / 2));
    }
  } else {
    auto below = torch::zeros_like(x);
    for (int64_t n = 1; n <= std::max<int64_t>(1, size - 1); ++n) below += shape[n - 1] * x.pow(n);
    for (int64_t m = 0; m <= size; ++m) values.push_back(x.pow(m) / (1 + below.abs()));
  }
  return torch::stack(values, -1);
}

TEST(KolmogorovArnoldAttention, OtherBasesAreWhatTheirFormulasSay) {
  test::seed_images(20);
  torch::NoGradGuard no_grad;
  for (const char* basis : {"spline", "wavelet", "rational"})
    for (const int64_t size : {1, 4}) {
      const double range = 0.8;  // scores leave it
      const auto mixer = test::drawn_image_mixer("kolmogorov_arnold_attention", {{"dim", 4},
                                                                                 {"heads", 2},
                                                                                 {"max_length", 5},
                                                                                 {"rank", 0},
                                                                                 {"basis", basis},
                                                                                 {"frequencies", size},
                                                                                 {"range", range}});
      const auto x = torch::randn({2, 5, 4}, torch::kFloat64) * 2;
      const auto qkv = linear_of(*mixer, "qkv", x).chunk(3, 2);
      const auto q = split_heads(qkv[0], 2), k = split_heads(qkv[1], 2), v = split_heads(qkv[2], 2);
      const auto scores = torch::matmul(q, k.transpose(2, 3)) / std::sqrt(2.0);
      ASSERT_GT(scores.abs().max().item<double>(), range);
      std::vector<Tensor> rows;
      for (int64_t h = 0; h < 2; ++h) {
        const auto shape = std::string(basis) == "spline" ? Tensor() : parameter(*mixer, "shape")[h];
        rows.push_back(torch::einsum("bnqm,pqm->bnp", {functions_of(basis, size, range, shape, scores.select(1, h)),
                                                       parameter(*mixer, "functions")[h]}));
      }
      const auto expected = linear_of(*mixer, "o_proj", join_heads(torch::matmul(torch::stack(rows, 1), v)));
      EXPECT_LT(relative_error(mixer->forward({.x = x}), expected), kDouble) << basis << " " << size;
    }
}

TEST(KolmogorovArnoldAttention, OtherBasesHaveGradients) {
  test::seed_images(22);
  for (const char* basis : {"spline", "wavelet", "rational"}) {
    const auto mixer = test::drawn_image_mixer(
        "kolmogorov_arnold_attention",
        {{"dim", 4}, {"heads", 2}, {"max_length", 5}, {"rank", 3}, {"basis", basis}, {"frequencies", 3}});
    const auto x = torch::randn({2, 5, 4}, torch::kFloat64).requires_grad_();
    std::vector<Tensor> inputs{x};
    for (auto& entry : mixer->named_parameters()) inputs.push_back(entry.value());
    SCOPED_TRACE(basis);
    test::expect_gradient([&] { return mixer->forward({.x = x}); }, inputs);
  }
}

/// Inside their range the splines add up to 1: functions of ones are a constant row.
TEST(KolmogorovArnoldAttention, SplinesAddUpToOne) {
  test::seed_images(21);
  torch::NoGradGuard no_grad;
  const auto mixer = image_mixer("kolmogorov_arnold_attention", {{"dim", 4},
                                                                 {"heads", 1},
                                                                 {"max_length", 6},
                                                                 {"rank", 0},
                                                                 {"basis", "spline"},
                                                                 {"frequencies", 7},
                                                                 {"range", 50.0}});
  auto functions = parameter(*mixer, "functions");
  functions.fill_(1).select(3, 0).zero_();  // without silu
  const auto x = torch::randn({1, 6, 4}, torch::kFloat64);
  const auto v = linear_of(*mixer, "qkv", x).chunk(3, 2)[2];
  const auto expected = linear_of(*mixer, "o_proj", (6 * v.sum(1, true)).expand({1, 6, 4}));
  EXPECT_LT(relative_error(mixer->forward({.x = x}), expected), kDouble);
}

/// Low rank of as many rows as tokens, expanded by 1, is the full operator.
TEST(KolmogorovArnoldAttention, FullRankIsTheFullOperator) {
  test::seed_images(15);
  torch::NoGradGuard no_grad;
  const auto make = [](int64_t rank) {
    return test::drawn_image_mixer("kolmogorov_arnold_attention",
                                   {{"dim", 8}, {"heads", 2}, {"max_length", 6}, {"rank", rank}, {"frequencies", 3}});
  };
  const auto low = make(6), full = make(0);
  for (const auto& entry : full->named_parameters()) parameter(*low, entry.key()).copy_(entry.value());
  parameter(*low, "expand").copy_(torch::eye(6).expand({2, 6, 6}));
  for (const int64_t tokens : {6, 4}) {
    const auto x = torch::randn({2, tokens, 8}, torch::kFloat64);
    EXPECT_LT(relative_error(low->forward({.x = x}), full->forward({.x = x})), kDouble) << tokens;
  }
  EXPECT_THROW(low->forward({.x = torch::randn({1, 7, 8}, torch::kFloat64)}), Error);
}

/// A score of one key that grows by a turn changes nothing; one that grows by half a turn does.
TEST(KolmogorovArnoldAttention, ScoresAreAngles) {
  test::seed_images(16);
  torch::NoGradGuard no_grad;
  const auto mixer = test::drawn_image_mixer(
      "kolmogorov_arnold_attention", {{"dim", 4}, {"heads", 1}, {"max_length", 5}, {"rank", 3}, {"frequencies", 4}});
  // Channel 3 of the input is the key's first channel, and the query's is 2 = sqrt(D) for all: it adds to the score.
  auto weight = parameter(*mixer, "qkv.weight");
  weight[0].zero_(), weight[4].zero_();
  weight.select(1, 3).zero_();
  weight[4][3] = 1;
  auto bias = parameter(*mixer, "qkv.bias");
  bias[0] = 2, bias[4] = 0;
  const auto x = torch::randn({1, 5, 4}, torch::kFloat64);
  const auto turned = [&](double angle) {
    auto moved = x.clone();
    moved[0][2][3] += angle;
    return mixer->forward({.x = moved});
  };
  EXPECT_LT(relative_error(turned(2 * M_PI), turned(0)), kDouble);
  EXPECT_GT(relative_error(turned(M_PI), turned(0)), 1e-3);
}

/// Rows that sum up to no share of 1 come to the nearest point that does, which a search over a fine grid finds, too.
TEST(KolmogorovArnoldAttention, TheNearestPointOfTheSimplex) {
  test::seed_images(17);
  torch::NoGradGuard no_grad;
  const auto make = [](bool simplex) {
    return image_mixer("kolmogorov_arnold_attention",
                       {{"dim", 3}, {"heads", 1}, {"max_length", 3}, {"rank", 0}, {"simplex", simplex}});
  };
  const auto plain = make(false), projected = make(true);
  for (const auto& entry : plain->named_parameters()) {
    entry.value().add_(torch::randn_like(entry.value()));
    if (entry.key() == "qkv.weight") entry.value().narrow(0, 6, 3).copy_(torch::eye(3));
    if (entry.key() == "o_proj.weight") entry.value().copy_(torch::eye(3));
    if (entry.key().ends_with("bias")) entry.value().zero_();
    parameter(*projected, entry.key()).copy_(entry.value());
  }
  MixerInput in;
  in.x = torch::eye(3, torch::kFloat64).unsqueeze(0);  // values are unit vectors: rows are what comes out
  const auto rows = plain->forward(in)[0], nearest = projected->forward(in)[0];
  constexpr int64_t kSteps = 400;
  for (int64_t r = 0; r < 3; ++r) {
    EXPECT_GE(nearest[r].min().item<double>(), 0);
    EXPECT_NEAR(nearest[r].sum().item<double>(), 1, 1e-12);
    double best = INFINITY;
    for (int64_t i = 0; i <= kSteps; ++i)
      for (int64_t j = 0; i + j <= kSteps; ++j) {
        const auto point = torch::tensor({double(i), double(j), double(kSteps - i - j)}, torch::kFloat64) / kSteps;
        best = std::min(best, (point - rows[r]).norm().item<double>());
      }
    const double own = (nearest[r] - rows[r]).norm().item<double>();
    EXPECT_LE(own, best + 1e-12);
    EXPECT_GT(own, best - 2.0 / kSteps);  // a point of the grid is never further from the nearest one
  }
  // A point of the simplex stays: sigma(s)_p is made the constant row (0.2, 0.5, 0.3) by scores of 0.
  parameter(*projected, "qkv.weight").narrow(0, 0, 6).zero_();
  auto functions = parameter(*projected, "functions");
  functions.zero_();
  const auto point = torch::tensor({0.2, 0.5, 0.3}, torch::kFloat64);
  functions.select(3, 0).select(2, 0).copy_(point.unsqueeze(0));
  EXPECT_LT(relative_error(projected->forward(in)[0], point.expand({3, 3})), 1e-12);
}

TEST(KolmogorovArnoldAttention, PaddedKeysHaveNoFunction) {
  test::seed_images(18);
  torch::NoGradGuard no_grad;
  for (const auto& [rank, basis] :
       {std::pair<int64_t, const char*>{0, "fourier"}, {3, "fourier"}, {3, "spline"}, {3, "rational"}}) {
    const auto mixer = test::drawn_image_mixer(
        "kolmogorov_arnold_attention", {{"dim", 4}, {"heads", 2}, {"max_length", 6}, {"rank", rank}, {"basis", basis}});
    MixerInput in;
    in.x = torch::randn({2, 6, 4}, torch::kFloat64);
    in.key_padding = torch::zeros({2, 6}, torch::kBool);
    in.key_padding->narrow(1, 4, 2).fill_(true);
    // Tokens at the end that are hidden are tokens that are not there.
    EXPECT_LT(relative_error(mixer->forward(in).narrow(1, 0, 4), mixer->forward({.x = in.x.narrow(1, 0, 4)})), kDouble);
  }
}

/// Layers with one operator: its gradient is the sum of what copies in every layer would get.
TEST(KolmogorovArnoldAttention, UniversalOperatorsLearnFromAllLayers) {
  test::seed_images(19);
  for (const auto& [rank, basis] : {std::pair<int64_t, const char*>{0, "fourier"}, {3, "fourier"}, {3, "wavelet"}}) {
    const auto make = [rank = rank, basis = basis](const char* kind) {
      return test::drawn_image_mixer(
          "kolmogorov_arnold_attention",
          {{"dim", 4}, {"heads", 2}, {"max_length", 5}, {"rank", rank}, {"basis", basis}, {"operator", kind}});
    };
    const auto first = make("universal"), second = make("universal"), copy = make("layer");
    dynamic_cast<SharedParameters&>(*second).take_from(*first);
    EXPECT_FALSE(second->named_parameters().contains("functions"));
    {
      torch::NoGradGuard no_grad;
      for (const auto& entry : first->named_parameters()) parameter(*copy, entry.key()).copy_(entry.value());
      for (const auto& entry : second->named_parameters()) parameter(*copy, entry.key()).copy_(entry.value());
    }
    const auto x = torch::randn({2, 5, 4}, torch::kFloat64);
    const auto through = [&](TokenMixer& last) { return last.forward({.x = first->forward({.x = x})}); };
    const auto shared = through(*second), apart = through(*copy);
    EXPECT_LT(relative_error(shared, apart), kDouble);
    for (const std::string name : {"functions", "expand", "shape"}) {
      if (!first->named_parameters().contains(name)) continue;
      const auto own = parameter(*first, name);
      const auto gradient = torch::autograd::grad({shared.square().sum()}, {own}, {}, true)[0];
      const auto parts = torch::autograd::grad({apart.square().sum()}, {own, parameter(*copy, name)}, {}, true);
      EXPECT_LT(relative_error(parts[0] + parts[1], gradient), kDouble) << name;
    }
    // Layers of their own stay apart.
    dynamic_cast<SharedParameters&>(*copy).take_from(*first);
    EXPECT_TRUE(copy->named_parameters().contains("functions"));
    const auto longer = image_mixer("kolmogorov_arnold_attention",
                                    {{"dim", 4}, {"heads", 2}, {"max_length", 6}, {"operator", "universal"}});
    EXPECT_THROW(dynamic_cast<SharedParameters&>(*longer).take_from(*first), Error);
  }
}

TEST(KolmogorovArnoldAttention, RowsOfTheSimplex) {
  torch::manual_seed(8);
  // With values that are unit vectors the rows can be read: 4 cells, 4 channels.
  auto in = image_input(1, 4, 4);
  const auto mixer =
      image_mixer("kolmogorov_arnold_attention", {{"dim", 4}, {"heads", 1}, {"max_length", 4}, {"simplex", true}});
  parameter(*mixer, "qkv.weight").data().narrow(0, 8, 4).copy_(torch::eye(4));
  parameter(*mixer, "o_proj.weight").data().copy_(torch::eye(4));
  for (const char* name : {"qkv.bias", "o_proj.bias"}) parameter(*mixer, name).data().zero_();
  in.x = torch::eye(4, torch::kFloat64).unsqueeze(0);
  const auto rows = mixer->forward(in)[0];
  EXPECT_GE(rows.min().item<double>(), 0);
  EXPECT_LT((rows.sum(1) - 1).abs().max().item<double>(), kDouble);
  EXPECT_EQ(reached(*image_mixer("kolmogorov_arnold_attention", {{"dim", 4}, {"heads", 1}}), image_input(2, 4, 4), 3)
                .sum()
                .item<int64_t>(),
            8);
}

/// The core of unit vectors is the map of the layer.
TEST(KolmogorovArnoldAttention, TheCoreAloneIsTheMap) {
  test::seed_images(47);
  torch::NoGradGuard no_grad;
  auto in = image_input(1, 5, 4, 2);
  in.key_padding = torch::zeros({2, 5}, torch::kBool);
  (*in.key_padding)[1][4] = true;
  const auto mixer = test::drawn_image_mixer("kolmogorov_arnold_attention",
                                             {{"dim", 4}, {"heads", 2}, {"max_length", 6}, {"rank", 3}});
  const auto qkv = linear_of(*mixer, "qkv", in.x).chunk(3, 2);
  CoreInput core;
  core.q = split_heads(qkv[0], 2), core.k = split_heads(qkv[1], 2);
  core.v = torch::eye(5, torch::kFloat64).expand({2, 2, 5, 5}).contiguous();
  core.key_padding = in.key_padding;
  const auto map = mixer->mix(core);
  const auto values = split_heads(qkv[2].masked_fill(in.key_padding->unsqueeze(2), 0), 2);
  EXPECT_LT(relative_error(mixer->forward(in), linear_of(*mixer, "o_proj", join_heads(torch::matmul(map, values)))),
            kDouble);
  core.q = core.q.narrow(1, 0, 1);
  EXPECT_THROW(mixer->mix(core), Error);
}

}  // namespace
}  // namespace heed::kolmogorov_arnold_test
