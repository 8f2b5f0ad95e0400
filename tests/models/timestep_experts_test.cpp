// The card of layers that serve intervals of time.
#include "heed/models/timestep_experts.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::timestep_experts_test {
namespace {

using test::relative_error;
using torch::Tensor;

TimestepExpertsConfig small(bool residual = true, bool recompute = false) {
  TimestepExpertsConfig c;
  c.tokens = 5, c.channels = 3, c.classes = 2;
  c.dim = 12, c.heads = 3, c.hidden = 16;
  c.layers = 6, c.groups = 2;
  c.residual = residual, c.recompute = recompute;
  return c;
}

TimestepExperts model_of(const TimestepExpertsConfig& config, bool open_gates) {
  torch::manual_seed(1);
  TimestepExperts model(config);
  torch::NoGradGuard no_grad;
  for (auto& entry : model->named_parameters()) {
    torch::manual_seed(int64_t(std::hash<std::string>{}(entry.key()) % 1000));  // the same with and without gates
    const bool gate = entry.key().ends_with("gate");
    if (!gate || open_gates) entry.value().copy_(torch::randn_like(entry.value()) * 0.4);
  }
  model->to(torch::kFloat64);
  return model;
}

struct Inputs {
  Tensor x = torch::randn({4, 5, 3}, torch::kFloat64), times = torch::rand({4}, torch::kFloat64) / 2,
         labels = torch::tensor({0, 1, 1, 0});
};

TEST(TimestepExperts, ClosedGatesAreAPlainModel) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(2);
  const Inputs in;
  const auto plain = model_of(small(false), true)->velocity(in.x, in.times, in.labels);
  EXPECT_LT(relative_error(model_of(small(), false)->velocity(in.x, in.times, in.labels), plain), 1e-12);
  EXPECT_GT(relative_error(model_of(small(), true)->velocity(in.x, in.times, in.labels), plain), 1e-3);
}

/// A group by the formula, from its parameters: x in, position, time and class; layers of attention to text and sample
/// whose scores carry those of the layer before; a perceptron; a norm and what comes out.
Tensor by_definition(TimestepExperts& model, const Inputs& in, int64_t group, const std::vector<Tensor>& text) {
  const auto p = model->named_parameters();
  const auto& c = model->config();
  const auto own = "group_" + std::to_string(group) + ".";
  const auto linear = [&](const std::string& name, const Tensor& x) {
    return torch::linear(x, p[own + name + ".weight"], p[own + name + ".bias"]);
  };
  const auto norm = [&](const std::string& name, const Tensor& x) {
    return torch::layer_norm(x, {c.dim}, p[own + name + ".weight"], p[own + name + ".bias"]);
  };
  auto embedding = torch::empty({in.times.size(0), c.dim}, torch::kFloat64);
  for (int64_t i = 0; i < c.dim / 2; ++i) {
    const auto angle = in.times * 1000 * std::pow(10000.0, -2.0 * double(i) / double(c.dim));
    embedding.select(1, 2 * i).copy_(torch::sin(angle));
    embedding.select(1, 2 * i + 1).copy_(torch::cos(angle));
  }
  auto x = linear("in", in.x) + p[own + "positions"] + linear("time", embedding).unsqueeze(1) +
           p[own + "label.weight"].index_select(0, in.labels).unsqueeze(1);
  Tensor before;
  const int64_t count = c.layers / c.groups, size = c.dim / c.heads;
  for (int64_t l = 0; l < count; ++l) {
    const auto name = "layer_" + std::to_string(l) + ".";
    auto parts = linear(name + "qkv", norm(name + "norm", x)).chunk(3, 2);
    if (!text.empty()) {
      const auto& own_text = text[text.size() == 1 ? 0 : size_t(group * count + l)];
      const auto kv = (c.blend ? own_text : linear(name + "text_kv", own_text)).chunk(2, 2);
      parts[1] = torch::cat({kv[0], parts[1]}, 1), parts[2] = torch::cat({kv[1], parts[2]}, 1);
    }
    const auto heads = [&](const Tensor& t) { return t.unflatten(2, {c.heads, size}).transpose(1, 2); };
    auto scores = torch::matmul(heads(parts[0]), heads(parts[1]).transpose(2, 3)) / std::sqrt(double(size));
    if (l > 0) {
      const auto gate = torch::tanh(torch::matmul(embedding, p[own + name + "gate"].t()));
      scores = scores + gate.unsqueeze(2).unsqueeze(3) * before;
    }
    before = scores;
    const auto mixed = torch::matmul(torch::softmax(scores, 3), heads(parts[2])).transpose(1, 2).flatten(2);
    x = x + linear(name + "o_proj", mixed);
    x = x + linear(name + "down", torch::gelu(linear(name + "up", norm(name + "mlp_norm", x))));
  }
  return linear("out", norm("norm", x));
}

TEST(TimestepExperts, GroupsAreWhatTheFormulaSays) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(7);
  Inputs in;
  for (const int64_t groups : {1, 2}) {  // one group: an ordinary flow transformer
    auto config = small();
    config.groups = groups;
    auto model = model_of(config, true);
    for (int64_t g = 0; g < groups; ++g) {
      in.times = (torch::rand({4}, torch::kFloat64) + double(g)) / double(groups);
      EXPECT_LT(relative_error(model->velocity(in.x, in.times, in.labels), by_definition(model, in, g, {})), 1e-9);
    }
  }
}

/// What a decoder tells: the inputs of its blocks, or the keys and values of its layers, without a gradient.
TEST(TimestepExperts, ADecoderTellsItsStatesOrItsKeysAndValues) {
  torch::manual_seed(12);
  DecoderConfig told;
  told.vocab_size = 11, told.dim = 12, told.heads = 4, told.kv_heads = 2, told.head_dim = 4, told.hidden = 20;
  told.layers.resize(3);
  DecoderLm lm(told);
  const auto tokens = torch::randint(0, 11, {2, 5}, torch::kInt64);
  const auto states = told_by(lm, tokens).text, shared = told_by(lm, tokens, true).text;
  ASSERT_EQ(states.size(), 3u);
  ASSERT_EQ(shared.size(), 3u);
  EXPECT_LT(relative_error(states[0], lm->embed(tokens)), 1e-6);
  EXPECT_FALSE(states[2].requires_grad() || shared[2].requires_grad());
  for (size_t l = 0; l < 3; ++l) {  // no positions: keys are projections of what the block got
    const auto p = lm->blocks[l]->mixer->named_parameters();
    const auto x = lm->blocks[l]->input_norm(states[l]);
    std::vector<Tensor> parts;
    for (const char* name : {"k_proj.weight", "v_proj.weight"}) {
      const auto heads = torch::matmul(x, p[name].t()).unflatten(2, {2, 4});
      parts.push_back(heads.repeat_interleave(2, 2).flatten(2));
    }
    EXPECT_LT(relative_error(shared[l], torch::cat(parts, 2)), 1e-5) << l;
  }
  TimestepExpertsConfig config;
  config.dim = 16, config.heads = 4, config.layers = 3, config.groups = 1, config.text = 32, config.blend = true;
  TimestepExperts flow(config);
  const auto velocity = flow->velocity(torch::randn({2, 16, 4}), torch::full({2}, 0.3), told_by(lm, tokens, true));
  EXPECT_TRUE(torch::isfinite(velocity).all().item<bool>());
  velocity.sum().backward();
  for (const auto& p : lm->parameters()) EXPECT_FALSE(p.grad().defined());
  config.text = 12;
  EXPECT_THROW(TimestepExperts{config}, Error);
}

/// Every layer attends to the states of the text at its own depth, counted through all groups.
TEST(TimestepExperts, LayersReadTheTextAtTheirDepth) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(8);
  Inputs in;
  in.times = in.times + 0.5;  // the second group
  for (const auto& [recompute, blend] : {std::pair{false, false}, {true, false}, {false, true}, {true, true}}) {
    auto config = small(true, recompute);
    config.text = blend ? 2 * config.dim : 4, config.blend = blend;
    auto model = model_of(config, true);
    std::vector<Tensor> text;
    for (int l = 0; l < 6; ++l) text.push_back(torch::randn({4, 3, config.text}, torch::kFloat64));
    const auto told = model->velocity(in.x, in.times, {in.labels, text});
    EXPECT_LT(relative_error(told, by_definition(model, in, 1, text)), 1e-9);
    EXPECT_LT(
        relative_error(model->velocity(in.x, in.times, {in.labels, {text[0]}}), by_definition(model, in, 1, {text[0]})),
        1e-9);
    EXPECT_LT(relative_error(model->velocity(in.x, in.times, in.labels), by_definition(model, in, 1, {})), 1e-9);
    for (size_t l = 0; l < 6; ++l) {
      auto other = text;
      other[l] = other[l] + 1;
      const auto changed = model->velocity(in.x, in.times, {in.labels, other});
      EXPECT_EQ(torch::equal(changed, told), l < 3) << l;
    }
    EXPECT_THROW(model->velocity(in.x, in.times, {in.labels, {text[0], text[1]}}), Error);
    EXPECT_THROW(model->velocity(in.x, in.times, {in.labels, {text[0].narrow(0, 0, 2)}}), Error);
    EXPECT_THROW(model->velocity(in.x, in.times, {in.labels, {text[0].narrow(2, 0, 3)}}), Error);
  }
  EXPECT_THROW(model_of(small(), true)->velocity(in.x, in.times, {in.labels, {torch::randn({4, 3, 4})}}), Error);
}

TEST(TimestepExperts, ScoresMadeAgainAreScoresKept) {
  torch::manual_seed(3);
  const Inputs in;
  auto kept = model_of(small(true, false), true), made = model_of(small(true, true), true);
  const auto a = kept->velocity(in.x, in.times, in.labels), b = made->velocity(in.x, in.times, in.labels);
  EXPECT_LT(relative_error(b, a), 1e-10);
  a.square().sum().backward();
  b.square().sum().backward();
  const auto other = made->named_parameters();
  for (const auto& entry : kept->named_parameters()) {
    if (!entry.value().grad().defined()) continue;
    EXPECT_LT(relative_error(other[entry.key()].grad(), entry.value().grad()), 1e-8) << entry.key();
  }
}

TEST(TimestepExperts, GroupsDivideLayersAndTime) {
  auto model = model_of(small(), true);
  EXPECT_EQ(model->group_of(0), 0);
  EXPECT_EQ(model->group_of(0.4999), 0);
  EXPECT_EQ(model->group_of(0.5), 1);  // a border is the later group's
  EXPECT_EQ(model->group_of(1), 1);
  EXPECT_EQ(model->interval(0).second, model->interval(1).first);
  EXPECT_THROW(model->group_of(1.1), Error);
  torch::manual_seed(4);
  const Inputs in;
  for (const int64_t group : {0, 1}) {
    model->zero_grad();
    model->velocity(in.x, in.times + 0.5 * double(group), in.labels).square().sum().backward();
    const auto own = "group_" + std::to_string(group) + ".";
    int64_t layers = 0;
    for (const auto& entry : model->named_parameters()) {
      const auto& gradient = entry.value().grad();
      const bool touched = gradient.defined() && gradient.abs().max().item<double>() > 0;
      EXPECT_EQ(touched, entry.key().starts_with(own)) << entry.key();
      layers += touched && entry.key().ends_with("qkv.weight");
    }
    EXPECT_EQ(layers, 3);
  }
  EXPECT_THROW(model->velocity(in.x, torch::tensor({0.1, 0.2, 0.6, 0.7}, torch::kFloat64), in.labels), Error);
  EXPECT_THROW(model->velocity(in.x, in.times), Error);
  auto odd = small();
  odd.groups = 4;
  EXPECT_THROW(TimestepExperts{odd}, Error);
}

/// Rounded times reach the end of an interval: 0.25 + 0.25 x 255 / 256 is 0.5 in bfloat16.
TEST(TimestepExperts, TimesThatRoundToTheBorderAreOfTheGroupThatDrewThem) {
  torch::manual_seed(8);
  torch::NoGradGuard no_grad;
  auto config = small(false);
  config.classes = 0, config.layers = 4, config.groups = 4;
  TimestepExperts model(config);
  model->to(torch::kBFloat16);
  const auto x = torch::randn({256, 5, 3}).to(torch::kBFloat16);
  for (int draw = 0; draw < 12; ++draw) EXPECT_TRUE(std::isfinite(model->loss(x).item<double>()));
}

TEST(TimestepExperts, AnExactFieldNeedsOneStep) {
  torch::manual_seed(5);
  const auto x0 = torch::randn({2, 3}), x1 = torch::randn({2, 3});
  for (const int64_t steps : {1, 3, 8})
    EXPECT_LT(relative_error(euler([&](const Tensor&, double) { return x1 - x0; }, x0, steps), x1), 1e-5);
  EXPECT_THROW(euler([&](const Tensor& x, double) { return x; }, x0, 0), Error);
}

/// Two tokens that are always the same two numbers are learned.
TEST(TimestepExperts, LearnsWhereNoiseShouldGo) {
  torch::manual_seed(6);
  auto config = small();
  config.tokens = 2, config.channels = 1, config.classes = 0, config.layers = 4;
  TimestepExperts model(config);
  const auto target = torch::tensor({2.0f, -1.0f}).view({1, 2, 1});
  torch::optim::Adam adam(model->parameters(), torch::optim::AdamOptions(1e-2));
  for (int step = 0; step < 300; ++step) {
    adam.zero_grad();
    model->loss(target.expand({32, 2, 1})).backward();
    adam.step();
  }
  const auto samples = model->sample(64, 8);
  EXPECT_LT((samples.mean(0) - target[0]).abs().max().item<double>(), 0.4);
  EXPECT_LT(samples.std(0).max().item<double>(), 0.6);  // of the noise: 1
}

}  // namespace
}  // namespace heed::timestep_experts_test
