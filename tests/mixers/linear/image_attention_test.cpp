// The cards of linear attention between the cells of an image.
#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/nn/grid.h"
#include "heed/nn/token_merge.h"
#include "mixers/linear/linear_support.h"
#include "support/test_files.h"

namespace heed::image_attention_test {
namespace {

using nlohmann::json;
using test::kDouble;
using test::relative_error;
using torch::Tensor;

std::shared_ptr<TokenMixer> image_mixer(const char* name, json config) {
  config.update({{"dim", 24}, {"heads", 3}, {"causal", false}});
  return test::wide_mixer(name, config);
}

/// Parameters away from their first values.
void draw(TokenMixer& mixer, double spread) {
  torch::NoGradGuard no_grad;
  for (auto& parameter : mixer.parameters()) parameter.add_(torch::randn_like(parameter) * spread);
}

MixerInput image_of(int64_t height, int64_t width, int64_t lead = 0) {
  auto in = test::random_tokens(2, height * width + lead, 24);
  in.grid = Grid{{height, width}};
  return in;
}

Tensor projected(TokenMixer& mixer, const std::string& name, const Tensor& x) {
  return torch::matmul(x, mixer.named_parameters()[name + ".weight"].t());
}

/// [B, N, 24] -> [B, 3, N, 8]
Tensor by_head(const Tensor& x) { return x.unflatten(2, {3, 8}).transpose(1, 2); }

/// A 3 x 3 convolution of cells [height width, 24] whose kernels [24, 3, 3] are given, zeros around the grid.
Tensor convolved(const Tensor& cells, int64_t height, int64_t width, const Tensor& kernels) {
  auto out = torch::zeros_like(cells);
  for (int64_t r = 0; r < height; ++r)
    for (int64_t c = 0; c < width; ++c)
      for (int64_t i = -1; i <= 1; ++i)
        for (int64_t j = -1; j <= 1; ++j)
          if (r + i >= 0 && r + i < height && c + j >= 0 && c + j < width)
            out[r * width + c] += kernels.select(2, j + 1).select(1, i + 1) * cells[(r + i) * width + c + j];
  return out;
}

CoreInput cells(int64_t height, int64_t width) {
  const auto draw = [&] { return torch::randn({2, 3, height * width, 8}, torch::kFloat64); };
  CoreInput in{draw(), draw(), draw()};
  in.grid = Grid{{height, width}};
  return in;
}

/// Weights per query and cell, read off by values that are one cell each. v has room for 8 of them.
double sum_of_weights_error(TokenMixer& mixer, CoreInput in) {
  in.v = torch::ones_like(in.v);
  const auto out = mixer.mix(in);
  return (out - 1).abs().max().item<double>();
}

TEST(ImageAttention, WeightsAddUpToOne) {
  torch::manual_seed(1);
  const auto in = cells(4, 7);
  EXPECT_LT(sum_of_weights_error(*image_mixer("rala", {{"rotary", false}}), in), 1e-6);
  // 1e-6 is added to the sum S of scores, of which the attention is (1 + 1 / S) S - S.
  EXPECT_LT(sum_of_weights_error(*image_mixer("mala", {{"rotary", false}}), in), 1e-5);
  EXPECT_LT(sum_of_weights_error(*image_mixer("inline_attention", {{"residual", false}}), in), kDouble);
  EXPECT_LT(sum_of_weights_error(*image_mixer("agent_attention", {{"agent_side", 2}}), in), kDouble);
}

TEST(ImageAttention, EqualKeysGiveTheMean) {
  torch::manual_seed(2);
  auto in = cells(3, 5);
  in.k = in.k.narrow(2, 0, 1).expand({2, 3, 15, 8});
  const auto mean = in.v.mean(2, true).expand_as(in.v);
  EXPECT_LT(relative_error(image_mixer("rala", {{"rotary", false}})->mix(in), mean), 1e-6);
  EXPECT_LT(relative_error(image_mixer("mala", {{"rotary", false}})->mix(in), mean), 1e-5);
  EXPECT_LT(relative_error(image_mixer("inline_attention", {{"residual", false}})->mix(in), mean), kDouble);
}

TEST(InlineAttention, ZeroQueriesGiveTheMeanAndShiftedKeysTheSame) {
  torch::manual_seed(3);
  auto mixer = image_mixer("inline_attention", {{"residual", false}});
  auto in = cells(4, 4);
  const auto before = mixer->mix(in);
  in.k = in.k + torch::randn({1, 3, 1, 8}, torch::kFloat64);
  EXPECT_LT(relative_error(mixer->mix(in), before), kDouble);
  in.q = torch::zeros_like(in.q);
  EXPECT_LT(relative_error(mixer->mix(in), in.v.mean(2, true).expand_as(in.v)), kDouble);
}

TEST(InlineAttention, TellsQueriesOfOneDirectionApart) {
  torch::manual_seed(4);
  auto in = cells(4, 4);
  in.q = torch::cat({in.q.narrow(2, 0, 1), 2 * in.q.narrow(2, 0, 1), in.q.narrow(2, 2, 14)}, 2);
  const auto differ = [&](const char* name, const json& config) {
    const auto out = image_mixer(name, config)->mix(in);
    return relative_error(out.select(2, 1), out.select(2, 0));
  };
  EXPECT_GT(differ("inline_attention", {{"residual", false}}), 1e-2);
  EXPECT_GT(differ("mala", {{"rotary", false}, {"feature_map", "relu"}}), 1e-2);
  EXPECT_LT(differ("l2vit_lga", {{"least_denominator", 1e-12}, {"concentration", false}}), kDouble);
}

TEST(L2vitLga, TheClampDecidesWhetherKeysCount) {
  torch::manual_seed(5);
  auto in = cells(4, 5);
  auto longer = in;
  longer.k = 3 * in.k;
  auto above = image_mixer("l2vit_lga", {{"least_denominator", 1e-12}});
  EXPECT_LT(relative_error(above->mix(longer), above->mix(in)), kDouble);
  auto below = image_mixer("l2vit_lga", {{"least_denominator", 1e9}});
  EXPECT_LT(relative_error(below->mix(longer), 3 * below->mix(in)), kDouble);
}

TEST(L2vitLga, WithoutAClampItIsReluLinearAttention) {
  torch::manual_seed(7);
  auto in = cells(4, 5);
  auto mixer = image_mixer("l2vit_lga", {{"least_denominator", 0.0}, {"concentration", false}});
  {
    torch::NoGradGuard no_grad;
    mixer->named_parameters()["temperature"].fill_(1);
  }
  const auto weights = torch::matmul(torch::relu(in.q), torch::relu(in.k).transpose(2, 3));
  EXPECT_LT(relative_error(mixer->mix(in), torch::matmul(weights / weights.sum(3, true).clamp_min(1e-30), in.v)),
            kDouble);
  in.q = -in.q.abs();  // nothing is asked
  EXPECT_EQ(mixer->mix(in).abs().max().item<double>(), 0);
  EXPECT_THROW(make_mixer("l2vit_lga", {{"least_denominator", -1.0}}), Error);
}

TEST(Mala, WeightsAreSharesAndWhatIsAboveTheMean) {
  torch::manual_seed(8);
  const auto in = cells(4, 7);
  const auto phi = [](const Tensor& t) { return torch::elu(t) + 1; };
  const auto s = torch::matmul(phi(in.q), phi(in.k).transpose(2, 3)) / (28 * std::sqrt(8.0));
  const auto sum = s.sum(3, true);
  const auto weights = s / sum + (s - sum / 28);
  // 1e-6 is added to the sums S in 1 / S, which are above 0.5.
  EXPECT_LT(relative_error(image_mixer("mala", {{"rotary", false}})->mix(in), torch::matmul(weights, in.v)), 2e-6);
}

/// A depthwise convolution of tokens [B, height width, C] by the parameters `name` of p.
Tensor depthwise(const torch::OrderedDict<std::string, Tensor>& p, const std::string& name, const Tensor& tokens,
                 int64_t height, int64_t width) {
  const auto weight = p[name + ".weight"];
  const auto image = tokens.transpose(1, 2).unflatten(2, {height, width});
  return torch::conv2d(image, weight, p[name + ".bias"], 1, weight.size(2) / 2, 1, image.size(1))
      .flatten(2)
      .transpose(1, 2);
}

/// Attention of rala or mala by its formula, [B, 3, N, 8]; `turn` rotates what numerators see.
Tensor modulated_core(const std::string& name, const CoreInput& in, const std::function<Tensor(const Tensor&)>& turn) {
  const auto q = torch::elu(in.q) + 1, k = torch::elu(in.k) + 1;
  const double n = double(q.size(2)), root = std::sqrt(double(q.size(3)));
  if (name == "rala") {
    const auto alpha = n * torch::softmax((q.mean(2, true) * k).sum(3) / root, 2);  // [B, 3, N]
    EXPECT_LT(relative_error(alpha.sum(2), torch::full({alpha.size(0), alpha.size(1)}, n)), kDouble);
    const auto keys = alpha.unsqueeze(3) * k;
    const auto numerators = torch::matmul(turn(q), turn(keys).transpose(2, 3)) / n;
    return torch::matmul(numerators, in.v) / ((q * keys.mean(2, true)).sum(3, true) + 1e-6);
  }
  const auto sum = torch::matmul(q, k.transpose(2, 3)).sum(3, true) / (root * n);
  const auto turned = torch::matmul(turn(q), turn(k).transpose(2, 3)) / (root * n);
  return (1 + 1 / (sum + 1e-6)) * torch::matmul(turned, in.v) - sum * in.v.mean(2, true);
}

TEST(ModulatedAttention, IsItsFormula) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(20);
  for (const std::string name : {"rala", "mala"})
    for (const bool rotary : {false, true}) {
      auto mixer = image_mixer(name.c_str(), {{"rotary", rotary}});
      draw(*mixer, 0.3);
      const auto p = mixer->named_parameters();
      const auto in = image_of(4, 7);
      const auto turn = [&](const Tensor& t) { return rotary ? nn::rotate_by_cell(t, 4, 7) : t; };
      const auto v = projected(*mixer, "v_proj", in.x);
      const auto core = modulated_core(
          name, {by_head(projected(*mixer, "q_proj", in.x)), by_head(projected(*mixer, "k_proj", in.x)), by_head(v)},
          turn);
      const auto local = depthwise(p, "conv", v, 4, 7),
                 gate = projected(*mixer, "gate_proj", in.x) + p["gate_proj.bias"];
      const auto expected = projected(*mixer, "o_proj", (core.transpose(1, 2).flatten(2) + local) * gate);
      EXPECT_LT(relative_error(mixer->forward(in), expected), kDouble) << name << rotary;
    }
}

TEST(ModulatedAttention, WithoutRotationsAndConvolutionCellsHaveNoPlace) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(21);
  for (const std::string name : {"rala", "mala"})
    for (const bool placed : {false, true}) {
      auto mixer = image_mixer(name.c_str(), {{"rotary", placed}});
      draw(*mixer, 0.3);
      const auto p = mixer->named_parameters();
      if (!placed) p["conv.weight"].zero_(), p["conv.bias"].zero_();
      const auto in = image_of(4, 7);
      auto moved = in;
      const auto order = torch::randperm(28);
      moved.x = in.x.index_select(1, order);
      const double error = relative_error(mixer->forward(moved), mixer->forward(in).index_select(1, order));
      if (placed)
        EXPECT_GT(error, 1e-2) << name;
      else
        EXPECT_LT(error, kDouble) << name;
    }
}

/// How many singular values of a matrix are above rounding.
int64_t rank_of(const Tensor& matrix) {
  const auto values = torch::linalg_svdvals(matrix);
  return (values > values[0] * 1e-10).sum().item<int64_t>();
}

// Values of few directions: what is read of them has no more, and the gate, token by token, gives it all channels.
TEST(ModulatedAttention, TheGateRaisesTheRank) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(22);
  for (const std::string name : {"rala", "mala"}) {
    auto mixer = image_mixer(name.c_str(), {{"rotary", false}});
    const auto p = mixer->named_parameters();
    const auto random = [](std::vector<int64_t> size) { return torch::randn(size, torch::kFloat64); };
    p["v_proj.weight"].copy_(torch::matmul(random({24, 2}), random({2, 24})));
    p["conv.weight"].zero_(), p["conv.bias"].zero_();
    p["o_proj.weight"].copy_(torch::eye(24, torch::kFloat64));
    const auto in = image_of(6, 8);
    const auto rank_of_head = [&] { return rank_of(mixer->forward(in)[0].slice(1, 0, 8)); };
    p["gate_proj.weight"].zero_(), p["gate_proj.bias"].fill_(1);
    EXPECT_EQ(rank_of_head(), 2) << name;
    p["gate_proj.weight"].normal_();
    EXPECT_EQ(rank_of_head(), 8) << name;
  }
}

TEST(Mala, WeightsFollowTheLengthOfAQuery) {
  torch::manual_seed(23);
  constexpr double kEps = 1e-6;  // added to sums of scores
  auto in = cells(2, 4);
  in.v = torch::eye(8, torch::kFloat64).expand({2, 3, 8, 8}).contiguous();  // outputs are weights
  auto mala = image_mixer("mala", {{"rotary", false}, {"feature_map", "relu"}});
  auto plain = image_mixer("linear_attention", {{"feature_map", "relu"}});
  const auto weights = [&](TokenMixer& mixer, double length) {
    auto scaled = in;
    scaled.q = in.q * length;
    return mixer.mix(scaled);
  };
  const auto scores = torch::matmul(torch::relu(in.q), torch::relu(in.k).transpose(2, 3)) / (8 * std::sqrt(8.0));
  const auto sum = scores.sum(3, true);
  ASSERT_GT(sum.min().item<double>(), 1e-2);
  const auto shares = scores / sum, above = scores - sum / 8;
  // Of a query of length a: shares + a (scores above their mean), and a gap of two weights grows with a.
  for (const double a : {1e-3, 0.5, 1.0, 2.0, 40.0}) {
    const auto w = weights(*mala, a);
    const auto smallest = a * sum.min().item<double>();
    EXPECT_LT((w - (shares + a * above)).abs().max().item<double>(), kEps / smallest) << a;
    const auto gap = w.select(3, 0) - w.select(3, 1);
    const auto expected = shares.select(3, 0) - shares.select(3, 1) + a * (scores.select(3, 0) - scores.select(3, 1));
    EXPECT_LT((gap - expected).abs().max().item<double>(), 2 * kEps / smallest) << a;
    EXPECT_LT(relative_error(weights(*plain, a), shares), kDouble) << a;
  }
  // Short queries read as in linear attention: what the length adds, and eps, are small.
  EXPECT_LT(relative_error(weights(*mala, 1e-2), weights(*plain, 1)),
            1e-2 * relative_error(shares + above, shares) + kEps / (1e-2 * sum.min().item<double>()));
  EXPECT_GT(relative_error(weights(*mala, 40), weights(*plain, 40)), 0.1);
}

TEST(L2vitLga, ConcentratesByTwoConvolutions) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(24);
  auto mixer = image_mixer("l2vit_lga", {{"least_denominator", 0.5}}),
       attention = image_mixer("l2vit_lga", {{"least_denominator", 0.5}, {"concentration", false}});
  draw(*mixer, 0.3);
  test::copy_weights(*attention, *mixer);
  const auto p = mixer->named_parameters(), buffers = mixer->named_buffers();
  buffers["lcm_batch_norm.running_mean"].normal_();
  buffers["lcm_batch_norm.running_var"].uniform_(0.5, 2);
  for (const bool stream : {false, true}) {
    auto in = image_of(9, 8);
    if (stream) in.residual = torch::randn_like(in.x);
    const auto attended = attention->forward(in);
    const auto inner =
        torch::layer_norm((stream ? in.residual : in.x) + attended, {24}, p["lcm_norm.weight"], p["lcm_norm.bias"]);
    const auto mixed = torch::gelu(depthwise(p, "lcm_in", inner, 9, 8));
    const auto normed = (mixed - buffers["lcm_batch_norm.running_mean"]) /
                            (buffers["lcm_batch_norm.running_var"] + 1e-5).sqrt() * p["lcm_batch_norm.weight"] +
                        p["lcm_batch_norm.bias"];
    EXPECT_LT(relative_error(mixer->forward(in), attended + depthwise(p, "lcm_out", normed, 9, 8)), kDouble) << stream;
  }
  // A second convolution of zeros adds nothing to the stream.
  const auto in = image_of(9, 8);
  EXPECT_GT(relative_error(mixer->forward(in), attention->forward(in)), 1e-2);
  p["lcm_out.weight"].zero_(), p["lcm_out.bias"].zero_();
  EXPECT_TRUE(torch::equal(mixer->forward(in), attention->forward(in)));
}

TEST(InlineAttention, AResidualOfZerosIsNone) {
  torch::manual_seed(9);
  torch::NoGradGuard no_grad;
  auto with = image_mixer("inline_attention", {{"residual", true}}),
       without = image_mixer("inline_attention", {{"residual", false}});
  auto parameters = with->named_parameters();
  for (auto& entry : without->named_parameters()) entry.value().copy_(parameters[entry.key()]);
  MixerInput in;
  in.x = torch::randn({2, 20, 24}, torch::kFloat64);
  in.grid = Grid{{4, 5}};
  EXPECT_GT(relative_error(with->forward(in), without->forward(in)), 1e-3);
  parameters["kernel_out.weight"].zero_(), parameters["kernel_out.bias"].zero_();
  EXPECT_LT(relative_error(with->forward(in), without->forward(in)), kDouble);
}

TEST(InlineAttention, KernelsFollowFromTheMeanToken) {
  torch::manual_seed(12);
  torch::NoGradGuard no_grad;
  for (const bool token : {false, true}) {
    auto with = image_mixer("inline_attention", {{"class_token", token}}),
         without = image_mixer("inline_attention", {{"class_token", token}, {"residual", false}});
    draw(*with, 0.3);
    test::copy_weights(*without, *with);
    const auto p = with->named_parameters();
    const auto in = image_of(3, 5, token);
    // Grouped by head: each head's kernels from its own channels of the mean.
    const auto grouped = [&](const std::string& name, const Tensor& x) {
      const auto weight = p[name + ".weight"].squeeze(2).view({3, -1, 8});
      return torch::matmul(weight, x.view({3, 8, 1})).flatten() + p[name + ".bias"];
    };
    const auto difference = with->forward(in) - without->forward(in);
    for (int64_t b = 0; b < 2; ++b) {
      const auto kernels = grouped("kernel_out", torch::gelu(grouped("kernel_in", in.x[b].mean(0)))).view({24, 3, 3});
      const auto v = projected(*with, "v_proj", in.x[b]).slice(0, token);
      auto local = convolved(v, 3, 5, kernels);
      if (token) local = torch::cat({torch::zeros({1, 24}, torch::kFloat64), local});
      EXPECT_LT(relative_error(difference[b], projected(*with, "o_proj", local)), kDouble) << token;
    }
  }
}

TEST(InlineAttention, AClassTokenIsOneMoreKey) {
  torch::manual_seed(13);
  auto mixer = image_mixer("inline_attention", {{"residual", false}, {"class_token", true}});
  auto in = cells(4, 7);
  in.grid = Grid{{3, 9}};
  const auto s = torch::matmul(in.q, in.k.transpose(2, 3)) / (28 * std::sqrt(8.0));
  EXPECT_LT(relative_error(mixer->mix(in), torch::matmul(s - s.mean(3, true) + 1.0 / 28, in.v)), kDouble);
  MixerInput wrong = image_of(4, 7);
  EXPECT_NE(error_of([&] { mixer->forward(wrong); }).find("28 cells for 28 tokens; 29 is accepted"), std::string::npos);
  EXPECT_THROW(make_mixer("inline_attention", {{"class_token", true}, {"window", 2}}), Error);
}

TEST(InlineAttention, WindowsAreImagesOfTheirOwn) {
  torch::manual_seed(14);
  torch::NoGradGuard no_grad;
  auto whole = image_mixer("inline_attention", {});
  draw(*whole, 0.3);
  auto cut = image_mixer("inline_attention", {{"window", 3}});
  test::copy_weights(*cut, *whole);
  // 3 does not divide 5 and 7: the last windows are smaller.
  const auto in = image_of(5, 7);
  const auto out = cut->forward(in).view({2, 5, 7, 24}), x = in.x.view({2, 5, 7, 24});
  for (int64_t r = 0; r < 5; r += 3)
    for (int64_t c = 0; c < 7; c += 3) {
      const auto window = [&](const Tensor& t) { return t.slice(1, r, r + 3).slice(2, c, c + 3); };
      MixerInput part{.x = window(x).flatten(1, 2)};
      part.grid = Grid{{window(x).size(1), window(x).size(2)}};
      EXPECT_LT(relative_error(window(out).flatten(1, 2), whole->forward(part)), kDouble) << r << " " << c;
    }
}

TEST(InlineAttention, EveryMapGivesTheSameFormula) {
  torch::manual_seed(15);
  const auto in = cells(4, 7);
  const std::vector<std::pair<const char*, std::function<Tensor(const Tensor&)>>> maps{
      {"identity", [](const Tensor& t) { return t; }},
      {"relu", [](const Tensor& t) { return torch::relu(t); }},
      {"leaky_relu", [](const Tensor& t) { return torch::where(t > 0, t, 0.01 * t); }},
      {"exp", [](const Tensor& t) { return torch::exp(t); }}};
  for (const auto& [name, phi] : maps) {
    const auto s = torch::matmul(phi(in.q), phi(in.k).transpose(2, 3)) / (28 * std::sqrt(8.0));
    auto mixer = image_mixer("inline_attention", {{"residual", false}, {"feature_map", name}});
    EXPECT_LT(relative_error(mixer->mix(in), torch::matmul(s - s.mean(3, true) + 1.0 / 28, in.v)), kDouble) << name;
  }
}

/// agent_attention without its tables of biases.
std::shared_ptr<TokenMixer> plain_agents(int64_t side) {
  auto mixer = image_mixer("agent_attention", {{"agent_side", side}});
  torch::NoGradGuard no_grad;
  for (auto& entry : mixer->named_parameters())
    if (entry.key().find("bias") != std::string::npos) entry.value().zero_();
  return mixer;
}

TEST(AgentAttention, OneAgentPoolsForAll) {
  torch::manual_seed(10);
  const auto in = cells(4, 6);
  const auto agent = in.q.mean(2, true);
  const auto pooled =
      torch::matmul(torch::softmax(torch::matmul(agent, in.k.transpose(2, 3)) / std::sqrt(8.0), 3), in.v);
  EXPECT_LT(relative_error(plain_agents(1)->mix(in), pooled.expand_as(in.v)), kDouble);
}

TEST(AgentAttention, EqualKeysGiveTheMean) {
  torch::manual_seed(11);
  auto in = cells(4, 6);
  in.k = in.k.narrow(2, 0, 1).expand_as(in.k).contiguous();
  EXPECT_LT(relative_error(plain_agents(2)->mix(in), in.v.mean(2, true).expand_as(in.v)), kDouble);
}

TEST(AgentAttention, IsTwoSoftmaxMapsOfLowRank) {
  torch::manual_seed(6);
  auto mixer = image_mixer("agent_attention", {{"agent_side", 2}});
  {
    torch::NoGradGuard no_grad;
    for (auto& entry : mixer->named_parameters())
      if (entry.key().find("bias") != std::string::npos) entry.value().zero_();
  }
  auto in = cells(4, 6);
  const auto image = in.q.transpose(2, 3).reshape({2, 24, 4, 6});
  const auto agents = torch::adaptive_avg_pool2d(image, {2, 2}).view({2, 3, 8, 4}).transpose(2, 3);
  const auto map = [](const Tensor& a, const Tensor& b) {
    return torch::softmax(torch::matmul(a, b.transpose(2, 3)) / std::sqrt(8.0), 3);
  };
  const auto whole = torch::matmul(map(in.q, agents), map(agents, in.k));
  EXPECT_LT(relative_error(mixer->mix(in), torch::matmul(whole, in.v)), kDouble);
}

// On a grid of 7 x 7 the small tables stand as they are.
TEST(AgentAttention, AClassTokenIsSeenButNotPooled) {
  torch::manual_seed(16);
  torch::NoGradGuard no_grad;
  for (const bool token : {false, true}) {
    auto mixer = image_mixer("agent_attention", {{"agent_side", 2}, {"bias_side", 7}, {"class_token", token}});
    draw(*mixer, 0.5);
    const auto p = mixer->named_parameters();
    const auto in = image_of(7, 7, token);
    const auto bias = [&](const std::string& of) {
      auto table = (p[of + "_bias"] + p[of + "_row_bias"] + p[of + "_column_bias"]).flatten(2);
      return token ? torch::cat({p[of + "_class_bias"], table}, 2) : table;  // [3, 4, N]
    };
    const auto q = by_head(projected(*mixer, "q_proj", in.x)), k = by_head(projected(*mixer, "k_proj", in.x)),
               v = by_head(projected(*mixer, "v_proj", in.x));
    const auto image = q.slice(2, token).transpose(2, 3).reshape({2, 24, 7, 7});
    const auto agents = torch::adaptive_avg_pool2d(image, {2, 2}).view({2, 3, 8, 4}).transpose(2, 3);
    const auto scores = [](const Tensor& a, const Tensor& b) {
      return torch::matmul(a, b.transpose(2, 3)) / std::sqrt(8.0);
    };
    const auto held = torch::matmul(torch::softmax(scores(agents, k) + bias("key"), 3), v);
    const auto read =
        torch::matmul(torch::softmax(scores(q, agents) + bias("query").transpose(1, 2), 3), held).transpose(1, 2);
    std::vector<Tensor> local;
    for (int64_t b = 0; b < 2; ++b) {
      const auto values = projected(*mixer, "v_proj", in.x[b]).slice(0, token);
      auto cells = convolved(values, 7, 7, p["conv.weight"].squeeze(1)) + p["conv.bias"];
      if (token) cells = torch::cat({torch::zeros({1, 24}, torch::kFloat64), cells});
      local.push_back(cells);
    }
    const auto expected = projected(*mixer, "o_proj", read.flatten(2) + torch::stack(local));
    EXPECT_LT(relative_error(mixer->forward(in), expected), kDouble) << token;
  }
}

// The two masks are independent, so that outputs have their mean.
TEST(AgentAttention, DropoutKeepsTheMean) {
  torch::manual_seed(17);
  torch::NoGradGuard no_grad;
  auto mixer = image_mixer("agent_attention", {{"agent_side", 2}, {"bias_side", 7}, {"dropout", 0.3}});
  draw(*mixer, 0.3);
  auto in = image_of(3, 4);
  const auto expected = mixer->forward(in);
  mixer->train();
  constexpr int64_t kDraws = 1000;
  std::vector<Tensor> outs;
  for (int64_t seed = 0; seed < kDraws; ++seed) {
    in.seed = uint64_t(seed);
    outs.push_back(mixer->forward(in));
  }
  EXPECT_FALSE(torch::equal(outs[0], outs[1]));
  in.seed = 0;
  EXPECT_TRUE(torch::equal(mixer->forward(in), outs[0]));
  const auto all = torch::stack(outs),
             error = (all.mean(0) - expected).abs() / (all.std(0) / std::sqrt(double(kDraws)));
  // Of 576 numbers the largest is within 5 standard errors.
  EXPECT_LT(error.max().item<double>(), 5);
  EXPECT_THROW(make_mixer("agent_attention", {{"dropout", 1.0}}), Error);
}

TEST(TokenMerge, KeepsACellOfEveryRegionAndMergesTheMostAlike) {
  torch::manual_seed(9);
  const int64_t height = 5, width = 7;
  const auto x = torch::randn({2, height * width, 6}, torch::kFloat64);
  for (const double ratio : {0.0, 0.4, 1.0}) {
    const nn::TokenMerge merge(x, {}, height, width, 2, ratio);
    const int64_t kept = 3 * 4, merged = std::min<int64_t>(std::llround(ratio * 35), 35 - kept);
    ASSERT_EQ(merge.tokens, 35 - merged);
    const auto y = merge.reduce(x);
    for (int64_t b = 0; b < 2; ++b) {
      // Tokens are means of the cells that are theirs, each cell's once.
      for (int64_t n = 0; n < merge.tokens; ++n) {
        const auto cells = (merge.target[b] == n).nonzero().squeeze(1);
        ASSERT_GT(cells.size(0), 0);
        EXPECT_LT(relative_error(y[b][n], x[b].index_select(0, cells).mean(0)), kDouble);
      }
      // A cell that is merged is so with the one it is most like, and is more like it than those that stay are to any.
      const auto likeness = torch::matmul(x[b], x[b].t()) / torch::outer(x[b].norm(2, 1), x[b].norm(2, 1));
      std::vector<int64_t> first;
      for (int64_t cell = 0; cell < 35; ++cell)
        if (cell / width % 2 == 0 && cell % width % 2 == 0) first.push_back(cell);
      const auto to_kept = likeness.index_select(1, torch::tensor(first));
      double least_merged = 2, most_left = -2;
      for (int64_t cell = 0; cell < 35; ++cell) {
        const int64_t target = merge.target[b][cell].item<int64_t>();
        const double best = to_kept[cell].max().item<double>();
        if (std::find(first.begin(), first.end(), cell) != first.end()) continue;
        if (target < kept) {
          EXPECT_EQ(to_kept[cell].argmax().item<int64_t>(), target);
          least_merged = std::min(least_merged, best);
        } else {
          most_left = std::max(most_left, best);
        }
      }
      EXPECT_GE(least_merged, most_left);
    }
  }
}

TEST(AgentSd, IsTwoSoftmaxMapsThroughMergedTokens) {
  torch::manual_seed(10);
  auto mixer = image_mixer("agent_sd", {{"stride", 2}, {"ratio", 0.7}});
  const auto in = cells(4, 6);
  const nn::TokenMerge merge(in.k.mean(1), {}, 4, 6, 2, 0.7);
  ASSERT_LT(2 * merge.tokens, 24);
  const auto agents = merge.reduce(in.q.transpose(1, 2).flatten(2)).view({2, -1, 3, 8}).transpose(1, 2);
  const auto map = [](const Tensor& a, const Tensor& b, double scale) {
    return torch::softmax(torch::matmul(a, b.transpose(2, 3)) * scale, 3);
  };
  const auto held = torch::matmul(map(agents, in.k, 1 / std::sqrt(8.0)), in.v);
  const auto expected = torch::matmul(map(in.q, agents, std::pow(8.0, -0.15)), held) + 0.075 * in.v;
  EXPECT_LT(relative_error(mixer->mix(in), expected), kDouble);
  // Too few are merged to gain by it: softmax attention as it was.
  auto few = image_mixer("agent_sd", {{"stride", 2}, {"ratio", 0.4}});
  EXPECT_LT(relative_error(few->mix(in), torch::matmul(map(in.q, in.k, 1 / std::sqrt(8.0)), in.v)), kDouble);
}

TEST(GridConv, IsATableOfNeighbours) {
  torch::manual_seed(7);
  nn::GridConv conv(3, 3);
  const auto x = torch::randn({1, 4 * 5, 3});
  const auto out = conv(x, 4, 5);
  const auto at = [&](int64_t r, int64_t c, int64_t ch) {
    return r < 0 || r >= 4 || c < 0 || c >= 5 ? 0.0 : x[0][r * 5 + c][ch].item<double>();
  };
  for (int64_t r = 0; r < 4; ++r) {
    for (int64_t c = 0; c < 5; ++c) {
      double sum = 0;
      for (int64_t i = 0; i < 3; ++i)
        for (int64_t j = 0; j < 3; ++j) sum += conv->weight[1][0][i][j].item<double>() * at(r + i - 1, c + j - 1, 1);
      EXPECT_NEAR(out[0][r * 5 + c][1].item<double>(), sum, 1e-5);
    }
  }
}

TEST(RotateByCell, ProductsDependOnTheWayBetweenCells) {
  torch::manual_seed(8);
  const auto a = torch::randn({8}, torch::kFloat64), b = torch::randn({8}, torch::kFloat64);
  const auto q = nn::rotate_by_cell(a.expand({6 * 7, 8}), 6, 7), k = nn::rotate_by_cell(b.expand({6 * 7, 8}), 6, 7);
  const auto products = torch::matmul(q, k.t()).view({6, 7, 6, 7});
  EXPECT_NEAR(products[0][0][2][3].item<double>(), products[3][2][5][5].item<double>(), 1e-12);
  EXPECT_GT(std::abs(products[0][0][2][3].item<double>() - products[0][0][3][3].item<double>()), 1e-3);
}

}  // namespace
}  // namespace heed::image_attention_test
