// The cards of attention to summaries of an image.
#include <gtest/gtest.h>

#include <set>

#include "heed/attention.h"
#include "heed/error.h"
#include "heed/mixers/recurrent_mixer.h"
#include "support/image_support.h"

namespace heed::summary_attention_test {
namespace {

using test::image_input;
using test::image_mixer;
using test::kDouble;
using test::linear_of;
using test::parameter;
using test::reached;
using test::relative_error;
using torch::Tensor;

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
  const auto kv = linear_of(*mixer, "window0.kv", linear_of(*mixer, "window0_mean", cells)).chunk(2, 2);
  const auto q = linear_of(*mixer, "q_proj", in.x).narrow(2, 4, 28);
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
      const auto q = linear_of(*mixer, "q_proj", in.x[0].masked_fill(shown.view({-1, 1}) == 0, 0));
      const auto attend = [&](const std::string& name, const Tensor& own_q, int64_t own_heads, const Tensor& keys,
                              const Tensor& counted, int64_t rows, int64_t columns) {
        const auto kv = linear_of(*mixer, name + ".kv", keys).chunk(2, 1);
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
                               linear_of(*mixer, name + "_mean", torch::stack(means)), torch::stack(counts), 7, 7));
        first += windowed;
      }
      const auto mask = shown.view({-1, 1});
      const auto expected = linear_of(*mixer, "o_proj", torch::cat(parts, 1));
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
  EXPECT_LT(relative_error(out, linear_of(*mixer, "o_proj", torch::cat(values)).expand_as(out)), kDouble);
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
    const auto expected = linear_of(*mixer, "o_proj", value).expand({2, 35, 8});
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
  const auto q = unit(split_heads(linear_of(*mixer, "q_proj", in.x), 2));
  const auto kv = linear_of(*mixer, "kv_proj", in.x).chunk(2, 2);
  const auto scale = torch::softplus(parameter(*mixer, "temperature")) * std::log(15.0);
  const auto weights = torch::softmax(scale * torch::matmul(q, unit(split_heads(kv[0], 2)).transpose(2, 3)), 3);
  const auto expected = linear_of(*mixer, "o_proj", join_heads(torch::matmul(weights, split_heads(kv[1], 2))));
  EXPECT_LT(relative_error(mixer->forward(in), expected), kDouble);
}

/// The entry of a table at a place between its rows and columns, by linear interpolation.
Tensor between(const Tensor& table, double row, double column) {
  const auto lower = [](double at, int64_t size) { return std::min<int64_t>(int64_t(std::floor(at)), size - 2); };
  const int64_t r = lower(row, table.size(0)), c = lower(column, table.size(1));
  const double down = row - double(r), right = column - double(c);
  return (1 - down) * ((1 - right) * table[r][c] + right * table[r][c + 1]) +
         down * ((1 - right) * table[r + 1][c] + right * table[r + 1][c + 1]);
}

TEST(AggregatedAttention, IsOneSoftmaxOverNeighboursAndThePooledImage) {
  test::seed_images(4);
  torch::NoGradGuard no_grad;
  const int64_t height = 5, width = 7, dim = 8, heads = 2, size = 4, reduction = 2;
  const int64_t rows = height / reduction, columns = width / reduction;
  for (const auto& [keys_of, bias_of] : {std::pair<std::string, std::string>{"both", "perceptron"},
                                         {"near", "perceptron"},
                                         {"pooled", "perceptron"},
                                         {"both", "table"}}) {
    const bool neighbours = keys_of != "pooled", far = keys_of != "near", table = bias_of == "table";
    auto in = image_input(height, width, dim);
    auto shown = torch::ones({height, width}, torch::kFloat64);
    const auto mixer = test::drawn_image_mixer("aggregated_attention", {{"dim", dim},
                                                                        {"heads", heads},
                                                                        {"reduction", reduction},
                                                                        {"bias_hidden", 5},
                                                                        {"side", 6},
                                                                        {"keys", keys_of},
                                                                        {"bias", bias_of}});
    const auto unit = [](const Tensor& t) { return t / t.norm(2, -1, true).clamp_min(1e-12); };
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
      const auto q = unit(split_heads(linear_of(*mixer, "q_proj", x), heads));
      const auto kv = linear_of(*mixer, "kv_proj", x).chunk(2, 2);
      const auto k = unit(split_heads(kv[0], heads)), v = split_heads(kv[1], heads);
      // Cells of the pooled image: where they begin and end, what of them is shown, where their middle is.
      const auto activated = far ? torch::gelu(linear_of(*mixer, "pool_in", x)).view({height, width, dim})
                                 : torch::zeros({height, width, dim}, torch::kFloat64);
      std::vector<Tensor> means, places;
      std::vector<bool> counted;
      for (int64_t i = 0; i < rows * columns; ++i) {
        const auto begin = [](int64_t at, int64_t cells, int64_t parts) { return at * cells / parts; };
        const auto end = [](int64_t at, int64_t cells, int64_t parts) {
          return ((at + 1) * cells + parts - 1) / parts;
        };
        const int64_t top = begin(i / columns, height, rows), bottom = end(i / columns, height, rows),
                      left = begin(i % columns, width, columns), right = end(i % columns, width, columns);
        const auto part = [&](const Tensor& t) { return t.slice(0, top, bottom).slice(1, left, right); };
        const double number = part(shown).sum().item<double>();
        means.push_back((part(activated) * part(shown).unsqueeze(2)).flatten(0, 1).sum(0) / std::max(number, 1.0));
        counted.push_back(number > 0);
        places.push_back(torch::tensor({double(top + bottom - 1) / 2, double(left + right - 1) / 2}, torch::kFloat64));
      }
      Tensor pooled_k, pooled_v;
      if (far) {
        const auto pooled =
            torch::layer_norm(torch::stack(means), {dim}, weight("pool_norm.weight"), weight("pool_norm.bias"));
        const auto pooled_kv = linear_of(*mixer, "kv_proj", pooled.unsqueeze(0)).chunk(2, 2);
        pooled_k = unit(split_heads(pooled_kv[0], heads)), pooled_v = split_heads(pooled_kv[1], heads);
      }
      const auto pooled_count = far ? std::count(counted.begin(), counted.end(), true) : 0;
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
            if (neighbours && r >= 0 && r < height && c >= 0 && c < width && shown[r][c].item<double>() > 0)
              near.push_back({d, r * width + c});
          }
          local_counts.insert(near.size());
          const double keys = double(near.size()) + double(pooled_count);
          if (keys == 0) continue;  // padding that no cell of the image is near
          const auto asked = (q[0][h][i] + weight("query_embedding")[h][0]) * tau * std::log(keys);
          for (const auto& [d, j] : near) {
            logits.push_back((asked * k[0][h][j]).sum() + weight("near_bias")[h][0][d]);
            values.push_back(v[0][h][j]);
            learned.push_back((q[0][h][i] * weight("tokens")[h].select(1, d)).sum() + weight("tokens_bias")[h][0][d]);
          }
          for (int64_t j = 0; far && j < rows * columns; ++j) {
            if (!counted[size_t(j)]) continue;
            const double down = double(row) - places[size_t(j)][0].item<double>(),
                         right = double(column) - places[size_t(j)][1].item<double>();
            Tensor bias;
            if (table) {
              bias = between(weight("bias_table")[h], down * 5 / double(height - 1) + 5,
                             right * 5 / double(width - 1) + 5);
            } else {
              const auto place = torch::tensor({offset(down), offset(right)}, torch::kFloat64);
              bias = linear_of(*mixer, "bias_out", torch::relu(linear_of(*mixer, "bias_in", place)))[h];
            }
            logits.push_back((asked * pooled_k[0][h][j]).sum() + bias);
            values.push_back(pooled_v[0][h][j]);
            learned.push_back(torch::zeros({}, torch::kFloat64));
          }
          const auto weights = torch::softmax(torch::stack(logits), 0) + torch::stack(learned);
          expected[0][h][i] = torch::matmul(weights, torch::stack(values));
        }
      }
      if (!padded && neighbours) {
        EXPECT_EQ(local_counts, (std::set<size_t>{4, 6, 9}));
      }
      const auto mask = shown.view({1, -1, 1});
      EXPECT_LT(relative_error(mixer->forward(in) * mask, linear_of(*mixer, "o_proj", join_heads(expected)) * mask),
                kDouble)
          << padded << " " << keys_of << " " << bias_of;
    }
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

}  // namespace
}  // namespace heed::summary_attention_test
