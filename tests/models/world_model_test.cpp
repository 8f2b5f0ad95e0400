// The card of drama_world_model: steps that equal whole sequences, states of any batch, episodes that end.
#include "heed/models/world_model.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::world_model_test {
namespace {

using test::relative_error;
using torch::Tensor;

constexpr double kRounding = 1e-11;

WorldModelConfig small(const std::string& mixer = "mamba2") {
  WorldModelConfig config;
  config.observation = 10;
  config.actions = 3;
  config.categoricals = 4;
  config.classes = 5;
  config.dim = 16;
  config.hidden = 12;
  config.mixer = mixer;
  config.mixer_config = {{"state_dim", 4}};
  if (mixer == "mamba2") config.mixer_config["head_dim"] = 8;
  if (mixer == "dense") config.mixer_config = {{"positions", "rope"}};
  return config;
}

WorldModel in_double(const WorldModelConfig& config) {
  torch::manual_seed(4);
  WorldModel model(config);
  model->to(torch::kFloat64);
  return model;
}

struct Steps {
  Tensor codes, actions;
};
Steps random_steps(const WorldModelConfig& c, int64_t batch, int64_t steps) {
  const auto classes = torch::randint(c.classes, {batch, steps, c.categoricals}, torch::kInt64);
  return {torch::one_hot(classes, c.classes).to(torch::kFloat64),
          torch::randint(c.actions, {batch, steps}, torch::kInt64)};
}

Tensor piece(const Tensor& t, int64_t begin, int64_t end) { return t.slice(1, begin, end); }

TEST(WorldModel, PrefillAndStepsEqualTheWholeSequence) {
  torch::NoGradGuard no_grad;
  for (const char* mixer : {"mamba2", "mamba", "dense"}) {
    const auto config = small(mixer);
    auto model = in_double(config);
    const auto in = random_steps(config, 3, 24);
    const auto whole = model->sequence(in.codes, in.actions);
    auto states = model->make_states(3);
    std::vector<Tensor> parts{model->sequence(piece(in.codes, 0, 8), piece(in.actions, 0, 8), {}, &states)};
    for (int64_t t = 8; t < 24; ++t)
      parts.push_back(model->sequence(piece(in.codes, t, t + 1), piece(in.actions, t, t + 1), {}, &states));
    EXPECT_LT(relative_error(torch::cat(parts, 1), whole), kRounding) << mixer;
  }
}

TEST(WorldModel, ABatchOfAThousandEqualsAThousandRuns) {
  torch::NoGradGuard no_grad;
  auto config = small();
  config.layers = 1;
  auto model = in_double(config);
  constexpr int64_t kBatch = 1024;
  const auto in = random_steps(config, kBatch, 3);
  const auto run = [&](int64_t first, int64_t count) {
    auto states = model->make_states(count);
    const auto codes = in.codes.narrow(0, first, count), actions = in.actions.narrow(0, first, count);
    model->sequence(piece(codes, 0, 2), piece(actions, 0, 2), {}, &states);
    return model->sequence(piece(codes, 2, 3), piece(actions, 2, 3), {}, &states);
  };
  const auto together = run(0, kBatch);
  std::vector<Tensor> alone;
  for (int64_t b = 0; b < kBatch; ++b) alone.push_back(run(b, 1));
  EXPECT_LT(relative_error(torch::cat(alone), together), kRounding);
}

TEST(WorldModel, EpisodesRememberNothingOfThoseBefore) {
  torch::NoGradGuard no_grad;
  for (const char* mixer : {"mamba2", "mamba", "dense"}) {
    const auto config = small(mixer);
    auto model = in_double(config);
    const auto in = random_steps(config, 2, 15);
    auto starts = torch::zeros({2, 15}, torch::kBool);
    starts[0][6] = true;
    starts[1][1] = true;
    starts[1][13] = true;
    const auto all = model->sequence(in.codes, in.actions, starts);
    const auto alone = [&](int64_t row, int64_t begin, int64_t end) {
      return model->sequence(piece(in.codes.narrow(0, row, 1), begin, end),
                             piece(in.actions.narrow(0, row, 1), begin, end));
    };
    for (const auto& [row, begin, end] :
         {std::tuple<int64_t, int64_t, int64_t>{0, 0, 6}, {0, 6, 15}, {1, 0, 1}, {1, 1, 13}, {1, 13, 15}})
      EXPECT_LT(relative_error(piece(all.narrow(0, row, 1), begin, end), alone(row, begin, end)), kRounding)
          << mixer << " " << row << " " << begin;
  }
}

TEST(WorldModel, PaddingBeforeASequenceIsNotThere) {
  torch::NoGradGuard no_grad;
  const auto config = small();
  auto model = in_double(config);
  const auto in = random_steps(config, 2, 9);
  auto padding = torch::zeros({2, 9}, torch::kBool);
  padding[0].slice(0, 0, 5).fill_(true);
  const auto all = model->sequence(in.codes, in.actions, {}, nullptr, padding);
  const auto alone = model->sequence(piece(in.codes, 5, 9).narrow(0, 0, 1), piece(in.actions, 5, 9).narrow(0, 0, 1));
  EXPECT_LT(relative_error(piece(all, 5, 9).narrow(0, 0, 1), alone), kRounding);
}

WorldBatch random_batch(const WorldModelConfig& c, int64_t batch, int64_t steps) {
  WorldBatch b{torch::randn({batch, steps, c.observation}, torch::kFloat64),
               torch::randint(c.actions, {batch, steps}, torch::kInt64), torch::randn({batch, steps}, torch::kFloat64),
               torch::rand({batch, steps}) < 0.2, torch::zeros({batch, steps}, torch::kBool)};
  b.starts.slice(1, 1).copy_(b.ends.slice(1, 0, steps - 1));
  return b;
}

TEST(WorldModel, TheLossIsOfItsParts) {
  const auto config = small();
  auto model = in_double(config);
  const auto batch = random_batch(config, 3, 7);
  const auto loss = model->loss(batch, 5);
  const auto sum = loss.reconstruction + loss.reward + loss.end + loss.dynamics + 0.1 * loss.representation;
  EXPECT_LT(relative_error(loss.total, sum), 1e-12);
  EXPECT_EQ(loss.dynamics.item<double>(), loss.representation.item<double>());
  // By hand: the KL of pairs within an episode.
  torch::NoGradGuard no_grad;
  const auto posterior = model->encode(batch.observations);
  const auto d = model->sequence(nn::straight_through_sample(posterior, 5), batch.actions, batch.starts);
  double kl = 0, pairs = 0;
  for (int64_t b = 0; b < 3; ++b)
    for (int64_t t = 0; t < 6; ++t) {
      if (batch.ends[b][t].item<bool>()) continue;
      kl += nn::categorical_kl(posterior[b][t + 1], model->prior(d)[b][t]).sum().item<double>();
      ++pairs;
    }
  EXPECT_NEAR(loss.dynamics.item<double>(), std::max(1.0, kl / pairs), 1e-10);
  // Another seed draws other codes.
  EXPECT_NE(model->loss(batch, 6).total.item<double>(), loss.total.item<double>());
}

TEST(WorldModel, FreeNatsTeachNothing) {
  auto config = small();
  config.free_bits = 1e6;
  auto model = in_double(config);
  auto loss = model->loss(random_batch(config, 2, 6), 1);
  loss.dynamics.backward({}, true);
  for (auto& parameter : model->parameters()) {
    const auto& grad = parameter.grad();
    EXPECT_TRUE(!grad.defined() || grad.abs().max().item<double>() == 0);
  }
  loss.total.backward();
  EXPECT_GT(model->named_parameters()["encoder.0.weight"].grad().abs().max().item<double>(), 0);
}

// Each KL term pulls at one of its sides.
TEST(WorldModel, ForecastsAndCodesHaveTermsOfTheirOwn) {
  auto config = small();
  config.free_bits = 0;
  auto model = in_double(config);
  const auto batch = random_batch(config, 2, 6);
  const auto gradients = [&](auto term) {
    model->zero_grad();
    term(model->loss(batch, 1)).backward();
    auto p = model->named_parameters();
    const auto size = [](const Tensor& grad) { return grad.defined() ? grad.abs().max().template item<double>() : 0; };
    return std::pair{size(p["prior.0.weight"].grad()), size(p["encoder.0.weight"].grad())};
  };
  EXPECT_GT(gradients([](const WorldLoss& l) { return l.dynamics; }).first, 0);
  EXPECT_EQ(gradients([](const WorldLoss& l) { return l.representation; }).first, 0);
  EXPECT_GT(gradients([](const WorldLoss& l) { return l.representation; }).second, 0);
}

TEST(WorldModel, HalfPrecisionKeepsWideStates) {
  torch::NoGradGuard no_grad;
  const auto config = small();
  torch::manual_seed(4);
  WorldModel model(config);
  const auto in = random_steps(config, 2, 12);
  const auto codes = in.codes.to(torch::kFloat32);
  const auto exact = model->sequence(codes, in.actions);
  model->to(torch::kBFloat16);
  auto states = model->make_states(2);
  const auto half = model->sequence(codes.to(torch::kBFloat16), in.actions, {}, &states);
  EXPECT_LT(relative_error(half, exact), 0.03);
  // Float32: 4 bytes of 4 heads x 4 x 8, and a tail of bfloat16.
  const int64_t wide = 2 * 4 * 4 * 8 * 4, tail = 2 * 3 * (2 * 16 + 2 * 4) * 2;
  for (const auto& state : states) EXPECT_EQ(state->bytes(), wide + tail);
}

TEST(WorldModel, WrongInputIsNamed) {
  auto config = small();
  config.classes = 1;
  EXPECT_THROW(WorldModel{config}, Error);
  config = small();
  config.mixer = "mamba3";
  EXPECT_THROW(WorldModel{config}, Error);
  auto model = in_double(small());
  const auto in = random_steps(small(), 2, 5);
  EXPECT_THROW(model->encode(torch::randn({2, 9})), Error);
  EXPECT_THROW(model->sequence(in.codes, piece(in.actions, 0, 4)), Error);
  auto states = model->make_states(2);
  EXPECT_THROW(model->sequence(in.codes, in.actions, torch::zeros({2, 5}, torch::kBool), &states), Error);
}

}  // namespace
}  // namespace heed::world_model_test
