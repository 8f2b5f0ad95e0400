// A sequence model on tokens and on vectors, in one go and in steps.
#include "heed/models/sequence.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::sequence_test {
namespace {

SequenceConfig small(bool tokens) {
  SequenceConfig config;
  config.dim = 24;
  config.heads = config.kv_heads = 4;
  config.head_dim = 6;
  config.hidden = 20;
  (tokens ? config.vocab_size : config.channels) = 5;
  config.outputs = 3;
  config.max_length = 16;
  config.positions.kind = "rope";
  config.layers = {{"dense"}, {"gla"}};
  return config;
}

TEST(SequenceModel, StepsGiveWhatTheWholeGives) {
  torch::NoGradGuard no_grad;
  for (const auto& [tokens, bare] : {std::pair{true, false}, {false, false}, {false, true}}) {
    auto config = small(tokens);
    config.bare = bare;
    SequenceModel model(config);
    const auto inputs = tokens ? torch::randint(5, {2, 11}, torch::kInt64) : torch::randn({2, 11, 5});
    const auto whole = model->forward(inputs);
    auto state = model->make_state(2);
    std::vector<torch::Tensor> parts;
    for (const auto& [begin, end] : {std::pair{0, 4}, {4, 5}, {5, 11}})
      parts.push_back(model->forward(inputs.slice(1, begin, end), {}, &state));
    EXPECT_LT(test::relative_error(torch::cat(parts, 1), whole), 1e-5) << tokens;
    EXPECT_EQ(model->answers(whole).sizes(), (std::vector<int64_t>{2, 11, 3}));
  }
}

TEST(SequenceModel, EveryParameterHasAGradient) {
  for (const auto& [tokens, bare] : {std::pair{true, false}, {false, false}, {false, true}})
    for (const bool causal : {true, false}) {
      auto config = small(tokens);
      config.causal = causal;
      config.bare = bare;
      config.layers = {{"dense"}, {"dense"}};
      SequenceModel model(config);
      const auto inputs = tokens ? torch::randint(5, {2, 9}, torch::kInt64) : torch::randn({2, 9, 5});
      model->answers(model->forward(inputs)).square().sum().backward();
      for (const auto& entry : model->named_parameters())
        EXPECT_TRUE(entry.value().grad().defined() && test::all_finite(entry.value().grad())) << entry.key();
    }
}

// Without positions, tokens that change places would change nothing but their order.
TEST(SequenceModel, SeesOrderInBothDirections) {
  torch::NoGradGuard no_grad;
  auto config = small(true);
  config.causal = false;
  config.positions.kind = "none";
  config.layers = {{"dense"}};
  SequenceModel model(config);
  for (auto& parameter : model->parameters()) parameter.add_(torch::randn_like(parameter) * 0.2);
  const auto inputs = torch::tensor({{1, 2, 3, 4}}), swapped = torch::tensor({{1, 3, 2, 4}});
  EXPECT_GT(test::relative_error(model->forward(swapped).select(1, 0), model->forward(inputs).select(1, 0)), 1e-4);
}

// With biases at 0, where they start, everything scales: twice the numbers, twice the answers.
TEST(SequenceModel, BareBlocksScaleWithTheirInputs) {
  torch::NoGradGuard no_grad;
  auto config = small(false);
  config.bare = true;
  config.causal = false;
  config.layers = {{"positional_attention"}, {"positional_attention"}};
  SequenceModel model(config);
  for (auto& entry : model->named_parameters())
    if (entry.key().find("bias") != std::string::npos) entry.value().zero_();
  const auto inputs = torch::randn({2, 7, 5});
  EXPECT_LT(
      test::relative_error(model->answers(model->forward(inputs * 4)), 4 * model->answers(model->forward(inputs))),
      1e-5);
}

TEST(SequenceModel, InputsThatDoNotFitAreNamed) {
  auto config = small(true);
  config.channels = 3;
  EXPECT_THROW(SequenceModel{config}, Error);
  SequenceModel model(small(false));
  EXPECT_THROW(model->forward(torch::randn({2, 4, 6})), Error);
  EXPECT_THROW(SequenceModel(small(true))->forward(torch::full({1, 2}, 5, torch::kInt64)), Error);
}

}  // namespace
}  // namespace heed::sequence_test
