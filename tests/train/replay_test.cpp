#include "heed/train/replay.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/torch_support.h"

namespace heed::train::replay_test {
namespace {

using torch::Tensor;

/// Steps that tell their number by what was seen; episodes of 5.
Replay filled(int64_t steps) {
  Replay replay(2, steps);
  for (int64_t t = 0; t < steps; ++t) replay.add({float(t), 0}, t % 3, float(t) / 2, t % 5 == 0, t % 5 == 4);
  return replay;
}

TEST(Replay, WindowsHoldStepsInOrderAndCountThem) {
  auto replay = filled(40);
  const auto batch = replay.windows(6, 7, 1);
  const auto first = batch.observations.select(2, 0).to(torch::kInt64);
  auto counts = torch::zeros({40}, torch::kFloat64);
  for (int64_t b = 0; b < 6; ++b)
    for (int64_t t = 0; t < 7; ++t) {
      const int64_t step = first[b][0].item<int64_t>() + t;
      ASSERT_EQ(first[b][t].item<int64_t>(), step);
      EXPECT_EQ(batch.actions[b][t].item<int64_t>(), step % 3);
      EXPECT_EQ(batch.rewards[b][t].item<float>(), float(step) / 2);
      EXPECT_EQ(batch.starts[b][t].item<bool>(), step % 5 == 0);
      EXPECT_EQ(batch.ends[b][t].item<bool>(), step % 5 == 4);
      counts[step] += 1;
    }
  EXPECT_TRUE(torch::equal(replay.trained(), counts));
  EXPECT_EQ(replay.imagined().sum().item<double>(), 0);
}

TEST(Replay, ContextsEndAtADrawnStepOfOneEpisode) {
  auto replay = filled(23);
  const auto [batch, padding] = replay.contexts(200, 8, 4, 2);
  for (int64_t b = 0; b < 200; ++b) {
    const auto last = batch.observations[b][7][0].item<int64_t>();
    for (int64_t t = 0; t < 8; ++t) {
      const int64_t step = last - 7 + t;
      ASSERT_EQ(padding[b][t].item<bool>(), step < 0 || step / 5 != last / 5);
      if (!padding[b][t].item<bool>()) {
        EXPECT_EQ(batch.observations[b][t][0].item<int64_t>(), step);
      }
    }
  }
  EXPECT_DOUBLE_EQ(replay.imagined().sum().item<double>(), 200.0 / 4);
}

TEST(Replay, WhatWasTrainedOnLeastIsDrawnMost) {
  const auto trained = torch::tensor({0.0, 10.0, 20.0}, torch::kFloat64);
  const auto weights = Replay::model_weights(trained);
  EXPECT_NEAR((weights[0] / weights[1]).item<double>(), std::exp(1.0), 1e-12);
  EXPECT_NEAR((weights[1] / weights[2]).item<double>(), std::exp(1.0), 1e-12);
  // As often imagined from as trained on, or less: all alike.
  const auto even = Replay::imagination_weights(trained, torch::tensor({0.0, 3.0, 20.0}, torch::kFloat64));
  EXPECT_LT((even - 1.0 / 3).abs().max().item<double>(), 1e-12);
  const auto uneven = Replay::imagination_weights(trained, torch::tensor({20.0, 3.0, 20.0}, torch::kFloat64));
  EXPECT_NEAR((uneven[0] / uneven[1]).item<double>(), std::exp(-2.0), 1e-12);
  EXPECT_DOUBLE_EQ(uneven[1].item<double>(), uneven[2].item<double>());
}

// New steps catch up with those that were there before.
TEST(Replay, LateStepsCatchUp) {
  Replay replay(1, 200);
  for (int64_t t = 0; t < 100; ++t) replay.add({0}, 0, 0, false, false);
  for (uint64_t s = 0; s < 300; ++s) replay.windows(4, 5, s);
  for (int64_t t = 0; t < 100; ++t) replay.add({0}, 0, 0, false, false);
  for (uint64_t s = 300; s < 600; ++s) replay.windows(4, 5, s);
  const double early = replay.trained().slice(0, 10, 90).mean().item<double>(),
               late = replay.trained().slice(0, 110, 190).mean().item<double>();
  EXPECT_GT(late, 0.6 * early);  // drawn evenly from the second half on, it would be a third
}

TEST(Replay, WrongRequestsAreNamed) {
  auto replay = filled(10);
  EXPECT_THROW(replay.add({0, 0}, 0, 0, false, false), Error);
  EXPECT_THROW(replay.windows(1, 11, 0), Error);
  Replay other(2, 4);
  EXPECT_THROW(other.add({0}, 0, 0, false, false), Error);
  EXPECT_THROW(other.contexts(1, 1, 1, 0), Error);
}

}  // namespace
}  // namespace heed::train::replay_test
