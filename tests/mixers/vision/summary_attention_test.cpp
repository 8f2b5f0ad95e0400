// The cards of attention to summaries of an image, and of operators in the place of softmax.
#include <gtest/gtest.h>

#include <set>

#include "heed/attention.h"
#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "heed/mixers/shared_parameters.h"
#include "support/gradient_check.h"
#include "support/image_support.h"

namespace heed::summary_attention_test {
namespace {

using nlohmann::json;
using test::image_input;
using test::image_mixer;
using test::kDouble;
using test::parameter;
using test::reached;
using test::relative_error;
using torch::Tensor;

Tensor linear(torch::nn::Module& mixer, const std::string& name, const Tensor& x) {
  return torch::linear(x, parameter(mixer, name + ".weight"), parameter(mixer, name + ".bias"));
}

TEST(FactorizationAttention, AWindowOfTheImageIsDense) {
  torch::manual_seed(1);
  // 7 x 7 cells and dilation 1: the fused tokens of the windowed group are the cells themselves.
  const auto in = image_input(7, 7, 32, 2);
  const auto mixer = image_mixer("factorization_attention", {{"dim", 32}, {"heads", 2}, {"reduction", 1}});
  parameter(*mixer, "window0.places.weight").data().zero_();
  auto conv = parameter(*mixer, "window0_conv.weight").data();
  conv.zero_();
  conv.select(2, 1).select(2, 1).fill_(1);
  parameter(*mixer, "window0_conv.bias").data().zero_();
  parameter(*mixer, "o_proj.weight").data().copy_(torch::eye(32));
  parameter(*mixer, "o_proj.bias").data().zero_();
  const auto cells = in.x.narrow(2, 4, 28);
  const auto kv = linear(*mixer, "window0.kv", linear(*mixer, "window0_mean", cells)).chunk(2, 2);
  const auto q = linear(*mixer, "q_proj", in.x).narrow(2, 4, 28);
  const auto expected = join_heads(attention(split_heads(q, 2), split_heads(kv[0], 2), split_heads(kv[1], 2)));
  EXPECT_LT(relative_error(mixer->forward(in).narrow(2, 4, 28), expected), kDouble);
}

TEST(FactorizationAttention, OneLayerSeesTheWholeImage) {
  torch::manual_seed(2);
  const auto in = image_input(9, 10, 32);
  for (const int64_t reduction : {1, 2, 3}) {
    const auto mixer = image_mixer("factorization_attention", {{"dim", 32}, {"heads", 2}, {"reduction", reduction}});
    EXPECT_EQ(reached(*mixer, in, 44).sum().item<int64_t>(), 90) << reduction;
  }
  EXPECT_THROW(make_mixer("factorization_attention", {{"dim", 24}}), Error);
}

TEST(FactorizationAttention, PeriodicImagesHaveOneWindow) {
  torch::manual_seed(3);
  // Of an image that repeats every 7 cells the mean window is any of them; borders are kept out by a convolution of
  // one cell.
  const auto tile = torch::randn({1, 7, 7, 32}, torch::kFloat64);
  auto one = image_input(7, 7, 32), four = image_input(14, 14, 32);
  one.x = tile.flatten(1, 2);
  four.x = tile.repeat({1, 2, 2, 1}).flatten(1, 2);
  const auto mixer = image_mixer("factorization_attention", {{"dim", 32}, {"heads", 2}, {"reduction", 1}});
  auto conv = parameter(*mixer, "window0_conv.weight").data();
  conv.zero_();
  conv.select(2, 1).select(2, 1).fill_(1);
  parameter(*mixer, "o_proj.weight").data().copy_(torch::eye(32));
  const auto first = [](const Tensor& out, int64_t width) {
    return out.unflatten(1, {-1, width}).narrow(1, 0, 7).narrow(2, 0, 7).narrow(3, 4, 28);
  };
  EXPECT_LT(relative_error(first(mixer->forward(four), 14), first(mixer->forward(one), 7)), kDouble);
}

/// All groups of channels by the formula: a pooled image, mean windows, mean windows of cells apart.
TEST(FactorizationAttention, GroupsAreWhatTheFormulaSays) {
  test::seed_images(11);
  torch::NoGradGuard no_grad;
  const int64_t dim = 32, heads = 2;
  const auto reflected = [](int64_t at, int64_t size) {
    while (at < 0 || at >= size) at = size == 1 ? 0 : (at < 0 ? -at : 2 * (size - 1) - at);
    return at;
  };
  for (const auto& [height, width, reduction, released] : {std::tuple<int64_t, int64_t, int64_t, bool>{9, 10, 2, false},
                                                           {5, 4, 3, false},
                                                           {16, 3, 2, false},
                                                           {8, 8, 1, false},
                                                           {8, 8, 1, true},
                                                           {9, 10, 2, true}}) {
    const auto mixer = test::drawn_image_mixer(
        "factorization_attention",
        {{"dim", dim}, {"heads", heads}, {"reduction", reduction}, {"released_pooling", released}});
    auto in = image_input(height, width, dim);
    auto shown = torch::ones({height, width}, torch::kFloat64);
    for (const bool padded : {false, true}) {
      if (padded) {
        shown.narrow(0, height - 2, 2).fill_(0);
        shown[0][1] = 0;
        in.key_padding = (shown == 0).view({1, -1});
      }
      const auto x = in.x.view({height, width, dim}) * shown.unsqueeze(2);
      const auto q = linear(*mixer, "q_proj", in.x[0].masked_fill(shown.view({-1, 1}) == 0, 0));
      const auto attend = [&](const std::string& name, const Tensor& own_q, int64_t own_heads, const Tensor& keys,
                              const Tensor& counted, int64_t rows, int64_t columns) {
        const auto kv = linear(*mixer, name + ".kv", keys).chunk(2, 1);
        const auto v = kv[1] * counted.unsqueeze(1);
        const int64_t channels = v.size(1);
        const auto places =
            torch::conv2d(v.t().reshape({1, channels, rows, columns}), parameter(*mixer, name + ".places.weight"),
                          parameter(*mixer, name + ".places.bias"), 1, 1, 1, channels);
        const auto split = [&](const Tensor& t) { return t.view({t.size(0), own_heads, -1}).transpose(0, 1); };
        const auto values = kv[1] + places.view({channels, -1}).t();
        auto logits =
            torch::matmul(split(own_q), split(kv[0]).transpose(1, 2)) / std::sqrt(double(channels / own_heads));
        logits = logits.masked_fill(counted.view({1, 1, -1}) == 0, -1e300);
        return torch::matmul(torch::softmax(logits, 2), split(values)).transpose(0, 1).flatten(1);
      };
      const int64_t pooled = dim / 8, windowed = reduction > 1 ? dim * 7 / 16 : dim * 7 / 8;
      // The pooled image: borders that no whole cell fits in are filled with zeros.
      const int64_t rows = (height + reduction - 1) / reduction, columns = (width + reduction - 1) / reduction;
      std::vector<Tensor> cells, counted;
      for (int64_t i = 0; i < rows * columns; ++i) {
        auto sum = parameter(*mixer, "pool.bias").clone();
        double any = 0;
        for (int64_t r = 0; r < reduction; ++r)
          for (int64_t c = 0; c < reduction; ++c) {
            const int64_t row = i / columns * reduction + r, column = i % columns * reduction + c;
            if (row >= height || column >= width) continue;
            sum += torch::mv(parameter(*mixer, "pool.weight").select(3, c).select(2, r),
                             x[row][column].narrow(0, 0, pooled));
            any += shown[row][column].item<double>();
          }
        cells.push_back(sum);
        counted.push_back(torch::tensor(any > 0 ? 1.0 : 0.0, torch::kFloat64));
      }
      const auto normed = torch::layer_norm(torch::stack(cells), {pooled}, parameter(*mixer, "pool_norm.weight"),
                                            parameter(*mixer, "pool_norm.bias"));
      std::vector<Tensor> parts{
          attend("pooled", q.narrow(1, 0, pooled), 1, normed, torch::stack(counted), rows, columns)};
      int64_t first = pooled;
      for (int64_t w = 0; w < (reduction > 1 ? 2 : 1); ++w) {
        const auto name = "window" + std::to_string(w);
        const int64_t dilation = w == 0 ? 1 : reduction, extent = 6 * dilation + 1;
        const auto own = x.narrow(2, first, windowed).permute({2, 0, 1}).unsqueeze(0);
        const auto convolved = torch::conv2d(own, parameter(*mixer, name + "_conv.weight"),
                                             parameter(*mixer, name + "_conv.bias"), 1, 1, 1, windowed)[0]
                                   .permute({1, 2, 0}) *
                               shown.unsqueeze(2);
        std::vector<Tensor> means, counts;
        for (int64_t i = 0; i < 49; ++i) {
          std::vector<Tensor> seen, there;  // of every window
          for (int64_t top = 0; top < height; top += extent)
            for (int64_t left = 0; left < width; left += extent) {
              const int64_t row = reflected(top + i / 7 * dilation, height),
                            column = reflected(left + i % 7 * dilation, width);
              seen.push_back(convolved[row][column]);
              there.push_back(shown[row][column].expand({windowed}));
            }
          const auto mean = [&, released = released](const std::vector<Tensor>& rows) {
            if (!released) return torch::stack(rows).sum(0);
            // Runs of as many numbers as there are windows, over a head's of all of them.
            const auto stacked = torch::stack(rows).view({int64_t(rows.size()), heads, -1});
            std::vector<Tensor> bins;
            for (int64_t h = 0; h < heads; ++h)
              bins.push_back(stacked.select(1, h).reshape({-1, int64_t(rows.size())}).sum(1));
            return torch::cat(bins);
          };
          const auto number = mean(there);
          means.push_back(mean(seen) / number.clamp_min(1));
          counts.push_back((number.max() > 0).to(torch::kFloat64));
        }
        parts.push_back(attend(name, q.narrow(1, first, windowed), heads,
                               linear(*mixer, name + "_mean", torch::stack(means)), torch::stack(counts), 7, 7));
        first += windowed;
      }
      const auto mask = shown.view({-1, 1});
      const auto expected = linear(*mixer, "o_proj", torch::cat(parts, 1));
      EXPECT_LT(relative_error(mixer->forward(in)[0] * mask, expected * mask), kDouble)
          << height << " " << width << " " << reduction << " " << padded << " " << released;
    }
  }
}

TEST(FactorizationAttention, EqualValuesComeOutAsTheyAre) {
  test::seed_images(12);
  torch::NoGradGuard no_grad;
  const auto mixer = test::drawn_image_mixer("factorization_attention", {{"dim", 32}, {"heads", 2}, {"reduction", 2}});
  std::vector<Tensor> values;
  for (const std::string name : {"pooled", "window0", "window1"}) {
    const int64_t channels = parameter(*mixer, name + ".kv.weight").size(1);
    parameter(*mixer, name + ".kv.weight").narrow(0, channels, channels).zero_();
    for (const char* part : {".places.weight", ".places.bias"}) parameter(*mixer, name + part).zero_();
    values.push_back(parameter(*mixer, name + ".kv.bias").narrow(0, channels, channels));
  }
  const auto out = mixer->forward(image_input(5, 9, 32, 2));
  EXPECT_LT(relative_error(out, linear(*mixer, "o_proj", torch::cat(values)).expand_as(out)), kDouble);
}

TEST(AggregatedAttention, EqualValuesComeOutAsTheyAre) {
  test::seed_images(13);
  torch::NoGradGuard no_grad;
  for (const int64_t reduction : {1, 2}) {
    const auto mixer = test::drawn_image_mixer(
        "aggregated_attention", {{"dim", 8}, {"heads", 2}, {"reduction", reduction}, {"bias_hidden", 5}});
    parameter(*mixer, "kv_proj.weight").narrow(0, 8, 8).zero_();
    const auto value = parameter(*mixer, "kv_proj.bias").narrow(0, 8, 8);
    const auto in = image_input(5, 7, 8, 2);
    const auto expected = linear(*mixer, "o_proj", value).expand({2, 35, 8});
    if (reduction > 1) {
      // What is learned beside the softmax keeps rows from summing to 1.
      EXPECT_GT(relative_error(mixer->forward(in), expected), 1e-2);
      for (const char* name : {"tokens", "tokens_bias"}) parameter(*mixer, name).zero_();
    }
    EXPECT_LT(relative_error(mixer->forward(in), expected), kDouble) << reduction;
  }
}

TEST(AggregatedAttention, TheLastStageIsCosineAttention) {
  test::seed_images(14);
  torch::NoGradGuard no_grad;
  const auto mixer =
      test::drawn_image_mixer("aggregated_attention", {{"dim", 8}, {"heads", 2}, {"reduction", 1}, {"bias_hidden", 5}});
  for (const char* name : {"query_embedding", "bias_out.weight", "bias_out.bias"}) parameter(*mixer, name).zero_();
  const auto in = image_input(3, 5, 8, 2);
  const auto unit = [](const Tensor& t) { return t / t.norm(2, -1, true); };
  const auto q = unit(split_heads(linear(*mixer, "q_proj", in.x), 2));
  const auto kv = linear(*mixer, "kv_proj", in.x).chunk(2, 2);
  const auto scale = torch::softplus(parameter(*mixer, "temperature")) * std::log(15.0);
  const auto weights = torch::softmax(scale * torch::matmul(q, unit(split_heads(kv[0], 2)).transpose(2, 3)), 3);
  const auto expected = linear(*mixer, "o_proj", join_heads(torch::matmul(weights, split_heads(kv[1], 2))));
  EXPECT_LT(relative_error(mixer->forward(in), expected), kDouble);
}

TEST(AggregatedAttention, IsOneSoftmaxOverNeighboursAndThePooledImage) {
  test::seed_images(4);
  torch::NoGradGuard no_grad;
  const int64_t height = 5, width = 7, dim = 8, heads = 2, size = 4, reduction = 2;
  const int64_t rows = height / reduction, columns = width / reduction;
  auto in = image_input(height, width, dim);
  auto shown = torch::ones({height, width}, torch::kFloat64);
  const auto mixer = test::drawn_image_mixer(
      "aggregated_attention",
      {{"dim", dim}, {"heads", heads}, {"reduction", reduction}, {"bias_hidden", 5}, {"side", 6}});
  const auto unit = [](const Tensor& t) { return t / t.norm(2, -1, true); };
  const auto weight = [&](const char* name) { return parameter(*mixer, name); };
  const auto offset = [&](double r) {
    r *= 8.0 / 5;
    return (r < 0 ? -1.0 : 1.0) * std::log2(1 + std::abs(r)) / 3;
  };
  for (const bool padded : {false, true}) {
    if (padded) {
      shown.narrow(0, 0, 3).narrow(1, 0, 3).fill_(0);  // a pooled cell and more
      shown[4][6] = 0;
      in.key_padding = (shown == 0).view({1, -1});
    }
    const auto x = in.x * shown.view({1, -1, 1});
    const auto q = unit(split_heads(linear(*mixer, "q_proj", x), heads));
    const auto kv = linear(*mixer, "kv_proj", x).chunk(2, 2);
    const auto k = unit(split_heads(kv[0], heads)), v = split_heads(kv[1], heads);
    // Cells of the pooled image: where they begin and end, what of them is shown, where their middle is.
    const auto activated = torch::gelu(linear(*mixer, "pool_in", x)).view({height, width, dim});
    std::vector<Tensor> means, places;
    std::vector<bool> counted;
    for (int64_t i = 0; i < rows * columns; ++i) {
      const auto begin = [](int64_t at, int64_t cells, int64_t parts) { return at * cells / parts; };
      const auto end = [](int64_t at, int64_t cells, int64_t parts) { return ((at + 1) * cells + parts - 1) / parts; };
      const int64_t top = begin(i / columns, height, rows), bottom = end(i / columns, height, rows),
                    left = begin(i % columns, width, columns), right = end(i % columns, width, columns);
      const auto part = [&](const Tensor& t) { return t.slice(0, top, bottom).slice(1, left, right); };
      const double number = part(shown).sum().item<double>();
      means.push_back((part(activated) * part(shown).unsqueeze(2)).flatten(0, 1).sum(0) / std::max(number, 1.0));
      counted.push_back(number > 0);
      places.push_back(torch::tensor({double(top + bottom - 1) / 2, double(left + right - 1) / 2}, torch::kFloat64));
    }
    const auto pooled =
        torch::layer_norm(torch::stack(means), {dim}, weight("pool_norm.weight"), weight("pool_norm.bias"));
    const auto pooled_kv = linear(*mixer, "kv_proj", pooled.unsqueeze(0)).chunk(2, 2);
    const auto pooled_k = unit(split_heads(pooled_kv[0], heads)), pooled_v = split_heads(pooled_kv[1], heads);
    const auto pooled_count = std::count(counted.begin(), counted.end(), true);
    auto expected = torch::zeros({1, heads, height * width, size}, torch::kFloat64);
    std::set<size_t> local_counts;
    for (int64_t h = 0; h < heads; ++h) {
      const auto tau = torch::softplus(weight("temperature")[h].squeeze());
      for (int64_t i = 0; i < height * width; ++i) {
        const int64_t row = i / width, column = i % width;
        std::vector<Tensor> logits, values, learned;
        std::vector<std::pair<int64_t, int64_t>> near;
        for (int64_t d = 0; d < 9; ++d) {
          const int64_t r = row + d / 3 - 1, c = column + d % 3 - 1;
          if (r >= 0 && r < height && c >= 0 && c < width && shown[r][c].item<double>() > 0)
            near.push_back({d, r * width + c});
        }
        local_counts.insert(near.size());
        const auto keys = static_cast<double>(near.size()) + double(pooled_count);
        const auto asked = (q[0][h][i] + weight("query_embedding")[h][0]) * tau * std::log(keys);
        for (const auto& [d, j] : near) {
          logits.push_back((asked * k[0][h][j]).sum() + weight("near_bias")[h][0][d]);
          values.push_back(v[0][h][j]);
          learned.push_back((q[0][h][i] * weight("tokens")[h].select(1, d)).sum() + weight("tokens_bias")[h][0][d]);
        }
        for (int64_t j = 0; j < rows * columns; ++j) {
          if (!counted[size_t(j)]) continue;
          const auto at = places[size_t(j)];
          const auto place =
              torch::tensor({offset(double(row) - at[0].item<double>()), offset(double(column) - at[1].item<double>())},
                            torch::kFloat64);
          const auto bias = linear(*mixer, "bias_out", torch::relu(linear(*mixer, "bias_in", place)))[h];
          logits.push_back((asked * pooled_k[0][h][j]).sum() + bias);
          values.push_back(pooled_v[0][h][j]);
          learned.push_back(torch::zeros({}, torch::kFloat64));
        }
        const auto weights = torch::softmax(torch::stack(logits), 0) + torch::stack(learned);
        expected[0][h][i] = torch::matmul(weights, torch::stack(values));
      }
    }
    if (!padded) {
      EXPECT_EQ(local_counts, (std::set<size_t>{4, 6, 9}));
    }
    const auto mask = shown.view({1, -1, 1});
    EXPECT_LT(relative_error(mixer->forward(in) * mask, linear(*mixer, "o_proj", join_heads(expected)) * mask), kDouble)
        << padded;
  }
  const auto fresh = make_mixer("aggregated_attention", {{"dim", dim}, {"heads", heads}});
  EXPECT_NEAR(torch::softplus(parameter(*fresh, "temperature")).max().item<double>(), 1 / 0.24, 1e-6);
}

TEST(AggregatedAttention, TheLengthOfQueriesDoesNotMatter) {
  torch::manual_seed(5);
  const auto in = image_input(4, 4, 8);
  for (const int64_t reduction : {1, 2}) {
    const auto mixer =
        image_mixer("aggregated_attention", {{"dim", 8}, {"heads", 2}, {"reduction", reduction}, {"bias_hidden", 5}});
    const auto before = mixer->forward(in);
    for (const char* name : {"q_proj.weight", "q_proj.bias"}) parameter(*mixer, name).data().mul_(7);
    EXPECT_LT(relative_error(mixer->forward(in), before), kDouble) << reduction;
  }
}

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
  const auto qkv = linear(*mixer, "qkv", in.x).chunk(3, 2);
  const auto scores = torch::matmul(qkv[0], qkv[1].transpose(1, 2)) / 2;
  const auto expected = linear(*mixer, "o_proj", torch::matmul(torch::sin(scores), qkv[2]));
  EXPECT_LT(relative_error(mixer->forward(in), expected), kDouble);
}

TEST(KolmogorovArnoldAttention, MultiplesOfAngles) {
  torch::manual_seed(7);
  const auto in = image_input(1, 5, 4);
  const auto mixer = image_mixer("kolmogorov_arnold_attention",
                                 {{"dim", 4}, {"heads", 2}, {"max_length", 5}, {"rank", 0}, {"frequencies", 5}});
  const auto functions = parameter(*mixer, "functions");
  const auto qkv = linear(*mixer, "qkv", in.x).chunk(3, 2);
  const auto q = split_heads(qkv[0], 2), k = split_heads(qkv[1], 2), v = split_heads(qkv[2], 2);
  const auto scores = torch::matmul(q, k.transpose(2, 3)) / std::sqrt(2.0);
  auto rows = torch::zeros_like(scores);
  for (int64_t m = 1; m <= 5; ++m) {
    rows += torch::einsum("bhnq,hpq->bhnp", {torch::cos(m * scores), functions.select(3, 2 * m - 2)});
    rows += torch::einsum("bhnq,hpq->bhnp", {torch::sin(m * scores), functions.select(3, 2 * m - 1)});
  }
  const auto expected = linear(*mixer, "o_proj", join_heads(torch::matmul(rows, v)));
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
      const auto qkv = linear(*mixer, "qkv", x).chunk(3, 2);
      const auto q = split_heads(qkv[0], 2), k = split_heads(qkv[1], 2), v = split_heads(qkv[2], 2);
      const auto scores = torch::matmul(q, k.transpose(2, 3)) / std::sqrt(2.0);
      ASSERT_GT(scores.abs().max().item<double>(), range);
      std::vector<Tensor> rows;
      for (int64_t h = 0; h < 2; ++h) {
        const auto shape = std::string(basis) == "spline" ? Tensor() : parameter(*mixer, "shape")[h];
        rows.push_back(torch::einsum("bnqm,pqm->bnp", {functions_of(basis, size, range, shape, scores.select(1, h)),
                                                       parameter(*mixer, "functions")[h]}));
      }
      const auto expected = linear(*mixer, "o_proj", join_heads(torch::matmul(torch::stack(rows, 1), v)));
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
  const auto v = linear(*mixer, "qkv", x).chunk(3, 2)[2];
  const auto expected = linear(*mixer, "o_proj", (6 * v.sum(1, true)).expand({1, 6, 4}));
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

}  // namespace
}  // namespace heed::summary_attention_test
