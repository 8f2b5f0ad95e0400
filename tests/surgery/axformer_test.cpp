// The card of axformer_pruning: what the search takes out, and that it is really gone.
#include "heed/surgery/axformer.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/nn/core_report.h"
#include "support/torch_support.h"

namespace heed::surgery::axformer_test {
namespace {

using test::relative_error;
using torch::Tensor;
using Kind = AxElement::Kind;

Encoder drawn_encoder(int64_t layers, uint64_t seed) {
  testing::Test::RecordProperty("seed", int(seed));
  torch::manual_seed(seed);
  EncoderConfig config;
  config.dim = 16, config.heads = 4, config.kv_heads = 4, config.head_dim = 4, config.hidden = 24;
  config.vocab_size = 20, config.position_rows = 32;
  config.attention.qkv_bias = config.attention.output_bias = true;
  config.block.placement = formats::NormPlacement::post;
  config.layers.resize(size_t(layers));
  Encoder model(config);
  torch::NoGradGuard no_grad;
  for (auto& parameter : model->parameters()) parameter.add_(torch::randn_like(parameter) * 0.3);
  model->eval();
  return model;
}

Tensor hidden(Encoder& model, const Tensor& tokens) {
  torch::NoGradGuard no_grad;
  return model->forward({.tokens = tokens});
}

Tensor parameter(Encoder& model, const std::string& name) { return model->named_parameters()[name]; }

std::vector<Tensor> copies(Encoder& model) {
  std::vector<Tensor> all;
  for (const auto& p : model->parameters()) all.push_back(p.clone());
  return all;
}

TEST(Axformer, NothingGoesWithoutTolerance) {
  auto model = drawn_encoder(2, 1);
  const auto tokens = torch::randint(20, {3, 9}, torch::kInt64);
  const auto wanted = hidden(model, tokens) * 0.5;
  const auto before = copies(model);
  const auto loss = [&](Encoder& m) { return (hidden(m, tokens) - wanted).square().mean().item<double>(); };
  AxOptions options;
  options.tolerance = -INFINITY;
  const auto plan = axformer_search(model, loss, options);
  EXPECT_TRUE(plan.removed.empty() && plan.hard_layers.empty());
  EXPECT_EQ(plan.loss, plan.first_loss);
  // 4 blocks, then 2 x (4 heads + 4 groups), then 2 layers made hard.
  EXPECT_EQ(plan.trials.size(), 4 + 16 + 2);
  EXPECT_EQ(to_string(plan.trials[0].element), "layer 1 attention");
  EXPECT_EQ(to_string(plan.trials[1].element), "layer 1 channels");
  auto same = axformer_apply(model, plan, options);
  EXPECT_TRUE(torch::equal(hidden(same, tokens), hidden(model, tokens)));
  const auto after = copies(model);
  for (size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(torch::equal(before[i], after[i]));
}

TEST(Axformer, HeadsCutOutAreHeadsOfNoWeight) {
  auto model = drawn_encoder(2, 2);
  const auto tokens = torch::randint(20, {3, 9}, torch::kInt64);
  AxPlan plan;
  plan.removed = {{Kind::head, 1, 2}, {Kind::head, 0, 0}, {Kind::head, 0, 3}, {Kind::channel_group, 1, 1}};
  auto cut = axformer_apply(model, plan);
  EXPECT_EQ(parameter(cut, "layers_0.self_attn.q_proj.weight").size(0), 8);
  EXPECT_EQ(parameter(cut, "layers_1.self_attn.o_proj.weight").size(1), 12);
  {
    torch::NoGradGuard no_grad;
    parameter(model, "layers_1.self_attn.o_proj.weight").slice(1, 8, 12).zero_();
    parameter(model, "layers_0.self_attn.o_proj.weight").slice(1, 0, 4).zero_();
    parameter(model, "layers_0.self_attn.o_proj.weight").slice(1, 12, 16).zero_();
    model->blocks[1]->mlp->output_weight().slice(1, 6, 12).zero_();
  }
  EXPECT_LT(relative_error(hidden(cut, tokens), hidden(model, tokens)), 1e-6);
}

TEST(Axformer, WholeBlocksLeaveTheStream) {
  auto model = drawn_encoder(1, 3);
  const auto tokens = torch::randint(20, {2, 7}, torch::kInt64);
  AxPlan plan;
  plan.removed = {{Kind::attention, 0, 0}, {Kind::channels, 0, 0}};
  auto cut = axformer_apply(model, plan);
  // What a token becomes then depends on no other.
  auto changed = tokens.clone();
  changed.select(1, 3).add_(1).remainder_(20);
  const auto a = hidden(cut, tokens), b = hidden(cut, changed);
  EXPECT_TRUE(torch::equal(a.select(1, 5), b.select(1, 5)));
  EXPECT_FALSE(torch::equal(hidden(model, tokens).select(1, 5), hidden(model, changed).select(1, 5)));
}

TEST(Axformer, ANoisyHeadIsTheFirstHeadToGo) {
  auto model = drawn_encoder(2, 4);
  const auto tokens = torch::randint(20, {4, 10}, torch::kInt64);
  torch::NoGradGuard no_grad;
  auto output = parameter(model, "layers_1.self_attn.o_proj.weight").slice(1, 4, 8);
  output.zero_();  // head 1 of layer 1 does nothing
  const auto wanted = hidden(model, tokens);
  output.add_(torch::randn_like(output) * 0.3);  // and now adds noise, as loud as another head
  const auto loss = [&](Encoder& m) { return (hidden(m, tokens) - wanted).square().mean().item<double>(); };
  AxOptions options;
  options.hard_attention = false;
  const auto plan = axformer_search(model, loss, options);
  ASSERT_FALSE(plan.removed.empty());
  EXPECT_EQ(plan.removed[0], (AxElement{Kind::head, 1, 1}));
  EXPECT_LT(plan.loss, plan.first_loss);
  // The best loss never rises, and what is left gives it.
  double best = plan.first_loss;
  for (const auto& trial : plan.trials)
    if (trial.kept) {
      EXPECT_LE(trial.loss, best);
      best = trial.loss;
    }
  auto cut = axformer_apply(model, plan, options);
  EXPECT_NEAR(loss(cut), plan.loss, 1e-6 * plan.first_loss);
}

TEST(Axformer, AWideToleranceTakesEverythingAndSkipsTheParts) {
  auto model = drawn_encoder(2, 5);
  const auto tokens = torch::randint(20, {2, 6}, torch::kInt64);
  AxOptions options;
  options.tolerance = 1e9;
  const auto plan = axformer_search(
      model, [&](Encoder& m) { return double(hidden(m, tokens).mean().item<float>()); }, options);
  EXPECT_EQ(plan.removed.size(), 4);
  EXPECT_EQ(plan.trials.size(), 4);
}

TEST(Axformer, HardAttentionOfAllKeysIsAttention) {
  auto model = drawn_encoder(2, 6);
  const auto tokens = torch::randint(20, {2, 8}, torch::kInt64);
  AxPlan plan;
  plan.hard_layers = {0, 1};
  AxOptions options;
  options.share = 1;
  auto all = axformer_apply(model, plan, options);
  EXPECT_LT(relative_error(hidden(all, tokens), hidden(model, tokens)), test::kForwardTolerance);
  options.share = 0.25;
  auto few = axformer_apply(model, plan, options);
  EXPECT_GT(relative_error(hidden(few, tokens), hidden(model, tokens)), 1e-3);
}

TEST(HardAttention, KeepsTheLargestWeights) {
  torch::manual_seed(7);
  const CoreInput in{torch::randn({2, 4, 12, 8}, torch::kFloat64), torch::randn({2, 2, 12, 8}, torch::kFloat64),
                     torch::randn({2, 2, 12, 8}, torch::kFloat64)};
  const auto s = torch::matmul(in.q, in.k.repeat_interleave(2, 1).transpose(2, 3)) / std::sqrt(8.0);
  const auto v = in.v.repeat_interleave(2, 1);
  for (const double ratio : {0.0, 0.5}) {
    auto mixer =
        make_mixer("hard_attention",
                   {{"dim", 32}, {"heads", 4}, {"kv_heads", 2}, {"causal", false}, {"share", 0.3}, {"ratio", ratio}});
    const auto weights = torch::softmax(s, 3);
    auto kept = weights >= weights.amax(3, true) * 0.5;
    if (ratio == 0) kept = torch::zeros_like(kept).scatter_(3, std::get<1>(weights.topk(4, 3)), true);
    const auto p = torch::where(kept, weights, torch::zeros_like(weights));
    EXPECT_LT(relative_error(mixer->mix(in), torch::matmul(p / p.sum(3, true), v)), 1e-12) << ratio;
  }
  EXPECT_THROW(make_mixer("hard_attention", {{"share", 0.0}}), Error);
  EXPECT_THROW(make_mixer("hard_attention", {{"ratio", 1.5}}), Error);
}

TEST(HardAttention, ACausalQueryKeepsAShareOfItsPast) {
  torch::manual_seed(9);
  const CoreInput in{torch::randn({2, 4, 15, 8}, torch::kFloat64), torch::randn({2, 2, 20, 8}, torch::kFloat64),
                     torch::randn({2, 2, 20, 8}, torch::kFloat64)};
  const auto future = torch::arange(20) > (torch::arange(15) + 5).unsqueeze(1);
  const auto s = (torch::matmul(in.q, in.k.repeat_interleave(2, 1).transpose(2, 3)) / std::sqrt(8.0))
                     .masked_fill(future, -INFINITY);
  const auto weights = torch::softmax(s, 3), v = in.v.repeat_interleave(2, 1);
  for (const auto& [share, ratio] : {std::pair{0.25, 0.0}, {0.25, 0.4}, {1.0, 0.0}, {0.25, 1e-300}}) {
    auto mixer =
        make_mixer("hard_attention", {{"dim", 32}, {"heads", 4}, {"kv_heads", 2}, {"share", share}, {"ratio", ratio}});
    auto kept = weights >= weights.amax(3, true) * ratio;
    if (ratio == 0)
      for (int64_t i = 0; i < 15; ++i) {
        const auto order = std::get<1>(s.select(2, i).topk(int64_t(std::ceil(share * double(i + 6))), 2));
        kept.select(2, i).copy_(torch::zeros({2, 4, 20}, torch::kBool).scatter_(2, order, true));
      }
    const auto p = torch::where(kept, weights, torch::zeros_like(weights));
    EXPECT_LT(relative_error(mixer->mix(in), torch::matmul(p / p.sum(3, true), v)), 1e-12) << share << " " << ratio;
    // All keys, or none too small: plain softmax.
    if (share == 1 || ratio == 1e-300) {
      EXPECT_LT(relative_error(mixer->mix(in), torch::matmul(weights, v)), 1e-12);
    }
  }
}

TEST(HardAttention, WeightsBehindASoftCapAreWhatIsCompared) {
  torch::manual_seed(15);
  const double cap = 0.8;
  const CoreInput in{2 * torch::randn({2, 4, 12, 8}, torch::kFloat64), torch::randn({2, 4, 12, 8}, torch::kFloat64),
                     torch::randn({2, 4, 12, 8}, torch::kFloat64)};
  const auto s = torch::matmul(in.q, in.k.transpose(2, 3)) / std::sqrt(8.0);
  const auto weights = torch::softmax(torch::tanh(s / cap) * cap, 3);
  const auto kept = weights >= weights.amax(3, true) * 0.5;
  const auto p = torch::where(kept, weights, torch::zeros_like(weights));
  auto mixer =
      make_mixer("hard_attention", {{"dim", 32}, {"heads", 4}, {"causal", false}, {"ratio", 0.5}, {"softcap", cap}});
  EXPECT_LT(relative_error(mixer->mix(in), torch::matmul(p / p.sum(3, true), in.v)), 1e-12);
}

DecoderLm drawn_decoder(uint64_t seed) {
  testing::Test::RecordProperty("seed", int(seed));
  torch::manual_seed(seed);
  DecoderConfig config;
  config.dim = 16, config.heads = 6, config.kv_heads = 3, config.head_dim = 4, config.hidden = 24;
  config.vocab_size = 20, config.max_length = 32;
  config.positions.kind = "rope";
  config.attention.qkv_bias = true;
  config.layers.resize(2);
  DecoderLm model(config);
  torch::NoGradGuard no_grad;
  for (auto& parameter : model->parameters()) parameter.add_(torch::randn_like(parameter) * 0.3);
  model->eval();
  return model;
}

TEST(Axformer, HeadsThatShareKeysGoTogether) {
  auto model = drawn_decoder(10);
  torch::NoGradGuard no_grad;
  const auto tokens = torch::randint(20, {3, 9}, torch::kInt64);
  const auto wanted = model->forward(tokens).clone();
  AxPlan plan;
  plan.removed = {{Kind::head, 0, 1}, {Kind::channel_group, 1, 3}};
  auto cut = axformer_apply(model, plan);
  const auto parameters = cut->named_parameters();
  EXPECT_EQ(parameters["layers_0.self_attn.q_proj.weight"].size(0), 16);
  EXPECT_EQ(parameters["layers_0.self_attn.k_proj.bias"].size(0), 8);
  EXPECT_TRUE(torch::equal(model->forward(tokens), wanted));  // as before
  model->named_parameters()["layers_0.self_attn.o_proj.weight"].slice(1, 8, 16).zero_();
  model->blocks[1]->mlp->output_weight().slice(1, 18, 24).zero_();
  EXPECT_LT(relative_error(cut->forward(tokens), model->forward(tokens)), 1e-6);
  // A search of what was cut already, hard layers last; and steps of what it leaves.
  const auto loss = [&](DecoderLm& m) { return (m->forward(tokens) - wanted).square().mean().item<double>(); };
  AxOptions options;
  options.tolerance = 1;
  options.share = 0.5;
  size_t reported = 0;
  const auto found = axformer_search(cut, loss, options, [&](const AxTrial&, size_t done, size_t most) {
    EXPECT_EQ(done, ++reported);
    EXPECT_LE(done, most);
    EXPECT_EQ(most, 4 + (2 + 4) + (3 + 4) + 2);
  });
  EXPECT_EQ(found.trials.size(), reported);
  ASSERT_FALSE(found.removed.empty());
  auto left = axformer_apply(cut, found, options);
  EXPECT_NEAR(loss(left), found.trials.back().kept ? found.trials.back().loss : loss(left), 1e-5);
  auto state = left->make_state(3);
  std::vector<Tensor> parts;
  for (int64_t t = 0; t < 9; ++t) parts.push_back(left->forward(tokens.slice(1, t, t + 1), &state));
  EXPECT_LT(relative_error(torch::cat(parts, 1), left->forward(tokens)), test::kForwardTolerance);
}

TEST(Axformer, BadInputIsNamed) {
  auto model = drawn_encoder(1, 8);
  AxOptions options;
  options.channel_groups = 5;
  EXPECT_THROW(axformer_search(
                   model, [](Encoder&) { return 0.0; }, options),
               Error);
  auto config = model->config();
  config.layers[0].mixer = "sigmoid_attention";
  Encoder other(config);
  EXPECT_THROW(axformer_search(other, [](Encoder&) { return 0.0; }), Error);
}

}  // namespace
}  // namespace heed::surgery::axformer_test
