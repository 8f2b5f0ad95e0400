// The card of bi-level routing attention.
#include <gtest/gtest.h>

#include "heed/attention.h"
#include "heed/mixers/recurrent_mixer.h"
#include "heed/nn/windows.h"
#include "support/image_support.h"

namespace heed::bilevel_routing_test {
namespace {

using test::image_input;
using test::image_mixer;
using test::kDouble;
using test::parameter;
using test::reached;
using test::relative_error;
using torch::Tensor;

std::shared_ptr<TokenMixer> mixer_of(int64_t regions, int64_t top, bool local = false) {
  auto mixer = image_mixer("bilevel_routing_attention", {{"dim", 8}, {"heads", 2}, {"regions", regions}, {"top", top}});
  if (!local) parameter(*mixer, "local.weight").data().zero_();
  return mixer;
}

TEST(BilevelRouting, AllRegionsAreDense) {
  torch::manual_seed(1);
  // 7 rows are regions of 3, 3 and 1 cells.
  for (const auto& [height, width] : {std::pair<int64_t, int64_t>{6, 6}, {7, 5}}) {
    const auto in = image_input(height, width, 8, 2);
    const auto mixer = mixer_of(3, 9);
    const auto qkv = torch::linear(in.x, parameter(*mixer, "qkv.weight"), parameter(*mixer, "qkv.bias")).chunk(3, 2);
    AttentionOptions options;
    options.scale = 1 / std::sqrt(8.0);
    const auto heads = attention(split_heads(qkv[0], 2), split_heads(qkv[1], 2), split_heads(qkv[2], 2), options);
    const auto expected =
        torch::linear(join_heads(heads), parameter(*mixer, "o_proj.weight"), parameter(*mixer, "o_proj.bias"));
    EXPECT_LT(relative_error(mixer->forward(in), expected), kDouble) << height << " " << width;
  }
}

TEST(BilevelRouting, RegionsInAnotherOrder) {
  torch::manual_seed(2);
  const auto in = image_input(6, 6, 8);
  const nn::Windows regions(nn::Windows::Kind::block, 6, 6, 2, 2);
  const auto order = torch::randperm(9);
  const auto shuffle = [&](const Tensor& x) {
    return regions.join(regions.split(x.view({1, 6, 6, 8})).index_select(0, order)).flatten(1, 2);
  };
  const auto mixer = mixer_of(3, 2);
  auto shuffled = in;
  shuffled.x = shuffle(in.x);
  EXPECT_LT(relative_error(mixer->forward(shuffled), shuffle(mixer->forward(in))), kDouble);
}

TEST(BilevelRouting, OrthogonalRegionsChooseThemselves) {
  // q = k = x and regions of their own direction: what is left is attention inside windows.
  torch::manual_seed(3);
  auto in = image_input(4, 4, 8);
  const nn::Windows regions(nn::Windows::Kind::block, 4, 4, 2, 2);
  auto cells = torch::zeros({4, 4, 8}, torch::kFloat64);
  for (int64_t r = 0; r < 4; ++r) cells[r].select(1, 2 * r) = 1 + torch::rand({4}, torch::kFloat64);
  in.x = regions.join(cells).flatten(1, 2);
  const auto mixer = mixer_of(2, 1);
  auto qkv = parameter(*mixer, "qkv.weight").data();
  for (int64_t part = 0; part < 2; ++part) qkv.narrow(0, 8 * part, 8).copy_(torch::eye(8));
  parameter(*mixer, "qkv.bias").data().narrow(0, 0, 16).zero_();
  const auto parts = test::linear_of(*mixer, "qkv", cells).chunk(3, 2);
  AttentionOptions options;
  options.scale = 1 / std::sqrt(8.0);
  const auto heads = attention(split_heads(parts[0], 2), split_heads(parts[1], 2), split_heads(parts[2], 2), options);
  const auto expected = test::linear_of(*mixer, "o_proj", regions.join(join_heads(heads)).flatten(1, 2));
  EXPECT_LT(relative_error(mixer->forward(in), expected), kDouble);
}

/// What the card says, cell by cell: regions of ceil(cells / S), the means of what they show, the k best of them (all
/// where there are fewer), softmax over their cells, a convolution of the values.
Tensor by_definition(TokenMixer& mixer, const Tensor& x, int64_t height, int64_t width, int64_t side, int64_t top,
                     const Tensor& hidden, bool soft) {
  const auto qkv = test::linear_of(mixer, "qkv", x).chunk(3, 1);
  const int64_t rows = (height + side - 1) / side, columns = (width + side - 1) / side;
  const int64_t across = (width + columns - 1) / columns, count = (height + rows - 1) / rows * across;
  std::vector<std::vector<int64_t>> members(static_cast<size_t>(count));
  const auto region_of = [&](int64_t cell) { return size_t(cell / width / rows * across + cell % width / columns); };
  for (int64_t cell = 0; cell < height * width; ++cell)
    if (!hidden[cell].item<bool>()) members[region_of(cell)].push_back(cell);
  std::vector<Tensor> q_means, k_means;
  for (const auto& cells : members) {
    const auto mean = [&](const Tensor& t) {
      return cells.empty() ? torch::zeros({8}, torch::kFloat64) : t.index_select(0, torch::tensor(cells)).mean(0);
    };
    q_means.push_back(mean(qkv[0])), k_means.push_back(mean(qkv[1]));
  }
  const double scale = 1 / std::sqrt(8.0);
  const auto kernel = parameter(mixer, "local.weight"), bias = parameter(mixer, "local.bias");
  std::vector<Tensor> out;
  for (int64_t cell = 0; cell < height * width; ++cell) {
    std::vector<std::pair<double, size_t>> ranked;
    for (size_t r = 0; r < members.size(); ++r)
      if (!members[r].empty()) ranked.emplace_back(-(q_means[region_of(cell)] * k_means[r]).sum().item<double>(), r);
    std::sort(ranked.begin(), ranked.end());
    ranked.resize(std::min(ranked.size(), size_t(top)));
    std::vector<Tensor> chances, keys, values;
    for (const auto& [score, r] : ranked) chances.push_back(torch::tensor(-score * scale, torch::kFloat64));
    const auto shares = torch::softmax(torch::stack(chances), 0);
    for (size_t c = 0; c < ranked.size(); ++c)
      for (const int64_t key : members[ranked[c].second]) {
        const auto share = soft ? shares[int64_t(c)] : torch::ones({}, torch::kFloat64);
        keys.push_back(qkv[1][key] * share), values.push_back(qkv[2][key] * share);
      }
    const auto k = torch::stack(keys).view({-1, 2, 4}), v = torch::stack(values).view({-1, 2, 4});
    const auto weights = torch::softmax((qkv[0][cell].view({1, 2, 4}) * k).sum(2) * scale, 0);
    auto sum = (weights.unsqueeze(2) * v).sum(0).flatten() + bias;
    for (int64_t i = 0; i < 5; ++i)
      for (int64_t j = 0; j < 5; ++j) {
        const int64_t row = cell / width + i - 2, column = cell % width + j - 2, at = row * width + column;
        if (row < 0 || row >= height || column < 0 || column >= width || hidden[at].item<bool>()) continue;
        sum = sum + kernel.select(1, 0).select(1, i).select(1, j) * qkv[2][at];
      }
    out.push_back(sum);
  }
  return test::linear_of(mixer, "o_proj", torch::stack(out));
}

TEST(BilevelRouting, IsWhatTheDefinitionSays) {
  torch::NoGradGuard no_grad;
  test::seed_images(6);
  const int64_t height = 5, width = 7;
  for (const bool soft : {false, true})
    for (const int64_t top : {1, 2, 4, 50}) {
      const auto mixer = test::drawn_image_mixer(
          "bilevel_routing_attention", {{"dim", 8}, {"heads", 2}, {"regions", 3}, {"top", top}, {"soft", soft}});
      auto in = image_input(height, width, 8);
      auto hidden = torch::zeros({height * width}, torch::kBool);
      for (const bool padded : {false, true}) {
        if (padded) {
          hidden.view({height, width}).narrow(0, 3, 2).fill_(true);  // the last two of three rows of regions
          hidden[1] = true;
          in.key_padding = hidden.unsqueeze(0);
        }
        const auto expected = by_definition(*mixer, in.x[0], height, width, 3, top, hidden, soft);
        const auto shown = hidden.logical_not().unsqueeze(1);
        // Regions of padding alone are chosen where nothing else is left; soft routing then counts them among the
        // scores, so it is compared where they are not.
        if (padded && soft && top > 1) continue;
        EXPECT_LT(relative_error(mixer->forward(in)[0] * shown, expected * shown), kDouble)
            << "soft " << soft << " top " << top << " padded " << padded;
      }
    }
}

TEST(BilevelRouting, RegionsNotChosenHaveNoGradient) {
  torch::manual_seed(4);
  auto in = image_input(6, 6, 8);
  in.x.requires_grad_(true);
  const auto mixer = mixer_of(3, 2);
  const auto out = mixer->forward(in).view({1, 6, 6, 8});
  out[0][0][0].sum().backward();
  const nn::Windows regions(nn::Windows::Kind::block, 6, 6, 2, 2);
  const auto touched = regions.split(in.x.grad().view({1, 6, 6, 8})).abs().amax({1, 2}) > 0;
  // The two chosen ones, and the own one, whose query it is.
  const auto parts = test::linear_of(*mixer, "qkv", regions.split(in.x.view({1, 6, 6, 8}))).chunk(3, 2);
  const auto scores = torch::matmul(parts[0].mean(1), parts[1].mean(1).t())[0];
  auto expected = torch::zeros({9}, torch::kBool);
  expected.index_fill_(0, std::get<1>(scores.topk(2)), true);
  expected[0] = true;
  EXPECT_TRUE(torch::equal(touched, expected));
}

/// Means of signed features cancel: the larger a region, the less its mean tells of a direction that its cells have.
TEST(BilevelRouting, LargeRegionsOfSignedFeaturesAreFoundLess) {
  test::seed_images(7);
  const auto share_found = [](int64_t cells) {
    const int64_t trials = 400, regions = 8, dim = 16;
    // One region's keys have the query's direction, each cell with a sign of its own and one more plus than minus.
    const auto direction = torch::randn({trials, 1, dim}, torch::kFloat64);
    auto keys = torch::randn({trials, regions, cells, dim}, torch::kFloat64);
    auto signs = torch::ones({cells}, torch::kFloat64);
    for (int64_t c = 1; c + 1 < cells; c += 2) signs[c] = -1;
    keys.select(1, 0).add_(signs.view({1, cells, 1}) * direction);
    const auto scores = (keys.mean(2) * direction).sum(2);
    return (scores.argmax(1) == 0).to(torch::kFloat64).mean().item<double>();
  };
  const double small = share_found(1), large = share_found(49);
  EXPECT_GT(small, 0.9);
  EXPECT_LT(large, 0.6);
}

TEST(BilevelRouting, SoftRoutingLearns) {
  torch::manual_seed(5);
  const auto make = [](int64_t top, bool soft) {
    return image_mixer("bilevel_routing_attention",
                       {{"dim", 8}, {"heads", 2}, {"regions", 2}, {"top", top}, {"soft", soft}});
  };
  const auto mixer = make(1, true), hard = make(1, false), two = make(2, true);
  {
    torch::NoGradGuard no_grad;
    for (const auto& p : mixer->named_parameters())
      for (const auto& other : {hard, two}) parameter(*other, p.key()).copy_(p.value());
  }
  // The softmax of one score is 1.
  const auto in = image_input(4, 5, 8);
  EXPECT_LT(relative_error(mixer->forward(in), hard->forward(in)), kDouble);
  // Of two it weighs keys and values: where regions are chosen has a gradient.
  const auto gradient = [&](TokenMixer& asked) {
    return torch::autograd::grad({asked.forward(in).square().sum()}, {parameter(asked, "qkv.weight")})[0];
  };
  EXPECT_GT(relative_error(gradient(*two), gradient(*hard)), 1e-3);
}

TEST(BilevelRouting, AllRegionsAreDenseBesideTheConvolution) {
  test::seed_images(8);
  const auto in = image_input(7, 5, 8, 2);
  const auto mixer =
      test::drawn_image_mixer("bilevel_routing_attention", {{"dim", 8}, {"heads", 2}, {"regions", 3}, {"top", 9}});
  const auto qkv = test::linear_of(*mixer, "qkv", in.x).chunk(3, 2);
  AttentionOptions options;
  options.scale = 1 / std::sqrt(8.0);
  const auto heads = attention(split_heads(qkv[0], 2), split_heads(qkv[1], 2), split_heads(qkv[2], 2), options);
  const auto values = qkv[2].unflatten(1, {7, 5}).permute({0, 3, 1, 2});
  const auto local =
      torch::conv2d(values, parameter(*mixer, "local.weight"), parameter(*mixer, "local.bias"), 1, 2, 1, 8);
  const auto expected = test::linear_of(*mixer, "o_proj", join_heads(heads) + local.flatten(2).transpose(1, 2));
  EXPECT_LT(relative_error(mixer->forward(in), expected), kDouble);
}

}  // namespace
}  // namespace heed::bilevel_routing_test
