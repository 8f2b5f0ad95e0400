// The cards of attention to summaries of an image, and of operators in the place of softmax.
#include <gtest/gtest.h>

#include "heed/attention.h"
#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
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

TEST(AggregatedAttention, IsOneSoftmaxOverNeighboursAndThePooledImage) {
  torch::manual_seed(4);
  const int64_t height = 4, width = 6, dim = 8, heads = 2, size = 4, reduction = 2;
  const auto in = image_input(height, width, dim);
  const auto mixer =
      image_mixer("aggregated_attention",
                  {{"dim", dim}, {"heads", heads}, {"reduction", reduction}, {"bias_hidden", 5}, {"side", 6}});
  const auto unit = [](const Tensor& t) { return t / t.norm(2, -1, true); };
  const auto weight = [&](const char* name) { return parameter(*mixer, name); };
  const auto q = unit(split_heads(linear(*mixer, "q_proj", in.x), heads));
  const auto kv = linear(*mixer, "kv_proj", in.x).chunk(2, 2);
  const auto k = unit(split_heads(kv[0], heads)), v = split_heads(kv[1], heads);
  const auto pooled_image = torch::avg_pool2d(
      torch::gelu(linear(*mixer, "pool_in", in.x)).view({1, height, width, dim}).permute({0, 3, 1, 2}), {2, 2});
  const auto pooled = torch::layer_norm(pooled_image.flatten(2).transpose(1, 2), {dim});
  const auto pooled_kv = linear(*mixer, "kv_proj", pooled).chunk(2, 2);
  const auto pooled_k = unit(split_heads(pooled_kv[0], heads)), pooled_v = split_heads(pooled_kv[1], heads);
  auto expected = torch::zeros({1, heads, height * width, size}, torch::kFloat64);
  const auto offset = [&](double r) {
    r *= 8.0 / 5;
    return (r < 0 ? -1.0 : 1.0) * std::log2(1 + std::abs(r)) / 3;
  };
  for (int64_t h = 0; h < heads; ++h) {
    const auto tau = torch::softplus(weight("temperature")[h].squeeze());
    EXPECT_NEAR(tau.item<double>(), 1 / 0.24, 1e-6);
    for (int64_t i = 0; i < height * width; ++i) {
      const int64_t row = i / width, column = i % width;
      std::vector<Tensor> logits, values, learned;
      std::vector<std::pair<int64_t, int64_t>> near;
      for (int64_t d = 0; d < 9; ++d) {
        const int64_t r = row + d / 3 - 1, c = column + d % 3 - 1;
        if (r >= 0 && r < height && c >= 0 && c < width) near.push_back({d, r * width + c});
      }
      const auto keys = static_cast<double>(near.size() + 6);
      const auto asked = (q[0][h][i] + weight("query_embedding")[h][0]) * tau * std::log(keys);
      for (const auto& [d, j] : near) {
        logits.push_back((asked * k[0][h][j]).sum() + weight("near_bias")[h][0][d]);
        values.push_back(v[0][h][j]);
        learned.push_back((q[0][h][i] * weight("tokens")[h].select(1, d)).sum() + weight("tokens_bias")[h][0][d]);
      }
      for (int64_t j = 0; j < 6; ++j) {
        const auto place = torch::tensor(
            {offset(double(row) - (double(j / 3) * 2 + 0.5)), offset(double(column) - (double(j % 3) * 2 + 0.5))},
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
  EXPECT_LT(relative_error(mixer->forward(in), linear(*mixer, "o_proj", join_heads(expected))), 1e-9);
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
