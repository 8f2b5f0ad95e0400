// The card of colours that travel through a video.
#include "heed/models/memory_propagation.h"

#include <gtest/gtest.h>

#include "heed/attention.h"
#include "heed/error.h"
#include "heed/train/video_colours.h"
#include "support/torch_support.h"

namespace heed::memory_propagation_test {
namespace {

using test::relative_error;
using torch::Tensor;

Tensor wide(std::vector<int64_t> sizes) { return torch::randn(sizes, torch::kFloat64); }

TEST(WeightedDistance, IsTheSumOfSquares) {
  torch::manual_seed(1);
  const auto k_m = wide({2, 7, 4}), s_m = wide({2, 7, 1}).square() + 1, k_q = wide({2, 5, 4}),
             e_q = torch::sigmoid(wide({2, 5, 4}));
  const auto apart = (k_m.unsqueeze(1) - k_q.unsqueeze(2)).square();  // [B, N, M, C]
  const auto expected = -(e_q.unsqueeze(2) * apart).sum(3) * s_m.transpose(1, 2) / 2;
  EXPECT_LT(relative_error(weighted_distance_scores(k_m, s_m, k_q, e_q), expected), 1e-12);
  // Without weights the order is that of distances.
  const auto plain = weighted_distance_scores(k_m, torch::ones_like(s_m), k_q, torch::ones_like(e_q));
  EXPECT_TRUE(torch::equal(std::get<1>(plain.sort(2, true)), std::get<1>(apart.sum(3).sort(2, false))));
}

TEST(PropagationMemory, ReadsSoftmaxOfTheMostAlike) {
  torch::manual_seed(2);
  const auto k = wide({2, 6, 4}), s = wide({2, 6, 1}).square() + 1, v = wide({2, 6, 3}), q = wide({2, 5, 4}),
             e = torch::sigmoid(wide({2, 5, 4}));
  const auto scores = weighted_distance_scores(k, s, q, e);
  for (const int64_t top : {6, 2}) {
    PropagationMemoryConfig config;
    config.top = top;
    PropagationMemory memory(config);
    memory.add(k, s, v);
    const auto least = std::get<0>(scores.topk(top, 2)).narrow(2, top - 1, 1);
    const auto weights = torch::softmax(scores.masked_fill(scores < least, -1e30), 2);
    EXPECT_LT(relative_error(memory.read(q, e), torch::bmm(weights, v)), 1e-12) << top;
  }
  // A frame seen again, with sharp shrinkage, gives its own values back.
  PropagationMemory memory;
  memory.add(k, s * 1e4, v);
  EXPECT_LT(relative_error(memory.read(k, torch::ones_like(k)), v), 1e-3);
}

TEST(PropagationMemory, StaysWithinItsCapAndKeepsTheFirstFrame) {
  torch::manual_seed(3);
  torch::NoGradGuard no_grad;
  PropagationMemoryConfig config;
  config.top = 1, config.working = 3, config.newest = 1, config.prototypes = 5, config.capacity = 12;
  PropagationMemory memory(config);
  EXPECT_THROW(memory.read(wide({1, 4, 4}), wide({1, 4, 4})), Error);
  const auto first = wide({1, 4, 4}) + 100, values = wide({1, 4, 3});
  const auto ones = torch::ones({1, 4, 1}, torch::kFloat64);
  memory.add(first, ones, values);
  for (int frame = 0; frame < 500; ++frame) {
    memory.add(wide({1, 4, 4}), ones, wide({1, 4, 3}));
    memory.read(wide({1, 4, 4}), torch::ones({1, 4, 4}, torch::kFloat64));
    ASSERT_LE(memory.cells(), 4 + 3 * 4 + 12) << frame;
  }
  EXPECT_LT(relative_error(memory.read(first, torch::ones_like(first)), values), 1e-9);
  config.newest = 3;
  EXPECT_THROW(PropagationMemory{config}, Error);
}

/// What is compressed: the cells that were read most for their age; their values are a softmax over what is given up.
TEST(PropagationMemory, KeepsWhatWasReadMost) {
  torch::NoGradGuard no_grad;
  torch::manual_seed(7);
  PropagationMemoryConfig config;
  config.top = 1, config.working = 2, config.newest = 1, config.prototypes = 2, config.capacity = 2;
  PropagationMemory memory(config);
  const auto ones = torch::ones({1, 3, 1}, torch::kFloat64);
  // Keys of frame f, cell i: far from each other.
  const auto keys = [](double f) {
    return torch::tensor({f, 0., f, 10., f, 20.}, torch::kFloat64).view({1, 3, 2}) * 10;
  };
  std::vector<Tensor> values;
  for (int64_t f = 0; f < 3; ++f) {
    values.push_back(wide({1, 3, 2}));
    memory.add(keys(f), ones, values.back());
  }
  EXPECT_EQ(memory.cells(), 9);
  // Of frame 1 cells 2 and 0 are asked for, one of them twice.
  const auto e = torch::ones({1, 1, 2}, torch::kFloat64);
  const auto ask = [&](int64_t f, int64_t cell) { return memory.read(keys(f).narrow(1, cell, 1), e); };
  ask(1, 2), ask(1, 2), ask(1, 0);
  EXPECT_LT(relative_error(ask(1, 1), values[1].narrow(1, 1, 1)), 1e-12);
  ask(1, 0);
  memory.add(keys(3), ones, wide({1, 3, 2}));  // frames 1 and 2 are too many: 1 and 2 are compressed
  EXPECT_EQ(memory.cells(), 3 + 3 + 2);
  for (const int64_t cell : {0, 2}) EXPECT_LT(relative_error(ask(1, cell), values[1].narrow(1, cell, 1)), 1e-9) << cell;
  EXPECT_GT(relative_error(ask(1, 1), values[1].narrow(1, 1, 1)), 1e-3);
  for (int64_t cell = 0; cell < 3; ++cell)  // the first frame is all there
    EXPECT_LT(relative_error(ask(0, cell), values[0].narrow(1, cell, 1)), 1e-9);
}

/// All pairs of cells: at most half a window apart, a logit for the offset beside the product.
TEST(LocalPropagation, WindowsEndAtTheBorder) {
  torch::manual_seed(8);
  torch::NoGradGuard no_grad;
  const int64_t height = 5, width = 7, key = 3;
  for (const int64_t window : {1, 3, 5, 9, 15}) {
    LocalPropagation local(key, 4, height, width, window);
    local->to(torch::kFloat64);
    const auto q = wide({2, 35, key}), k = wide({2, 35, key}), v = wide({2, 35, 4});
    const int64_t half = window / 2, rows = std::min(half, height - 1), columns = std::min(half, width - 1);
    const auto learned = local->offsets(q);
    ASSERT_EQ(learned.size(2), (2 * rows + 1) * (2 * columns + 1));
    auto logits = torch::full({2, 35, 35}, -INFINITY, torch::kFloat64);
    for (int64_t i = 0; i < 35; ++i)
      for (int64_t j = 0; j < 35; ++j) {
        const int64_t down = j / width - i / width, right = j % width - i % width;
        if (std::abs(down) > half || std::abs(right) > half) continue;
        logits.select(1, i).select(1, j) =
            (q.select(1, i) * k.select(1, j)).sum(1) / std::sqrt(double(key)) +
            learned.select(1, i).select(1, (down + rows) * (2 * columns + 1) + right + columns);
      }
    EXPECT_LT(relative_error(local->attend(q, k, v), torch::matmul(torch::softmax(logits, 2), v)), 1e-10) << window;
  }
  EXPECT_THROW(LocalPropagation(key, 4, height, width, 4), Error);
  EXPECT_THROW(LocalPropagation(key, 4, height, width, 0), Error);
}

TEST(LocalPropagation, AWindowOfTheImageIsDense) {
  torch::manual_seed(4);
  torch::NoGradGuard no_grad;
  LocalPropagation local(6, 5, 3, 4, 15);
  local->to(torch::kFloat64);
  const auto q = wide({2, 12, 6}), k = wide({2, 12, 6}), v = wide({2, 12, 5});
  const auto dense = attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)).squeeze(1);
  EXPECT_GT(relative_error(local->attend(q, k, v), dense), 1e-3);
  local->offsets->weight.zero_(), local->offsets->bias.zero_();
  EXPECT_LT(relative_error(local->attend(q, k, v), dense), 1e-12);
}

TEST(MemoryPropagation, IsCausalOverFrames) {
  torch::manual_seed(5);
  torch::NoGradGuard no_grad;
  MemoryPropagationConfig config;
  config.every = 2;
  MemoryPropagation model(config);
  auto lightness = torch::rand({2, 6, 1, 16, 16});
  const auto first = torch::randn({2, 2, 16, 16}).tanh();
  const auto before = model->forward(lightness, first);
  ASSERT_EQ(before.sizes(), (std::vector<int64_t>{2, 5, 2, 16, 16}));
  lightness.select(1, 4).add_(1);
  const auto after = model->forward(lightness, first);
  EXPECT_TRUE(torch::equal(after.slice(1, 0, 3), before.slice(1, 0, 3)));
  EXPECT_FALSE(torch::equal(after.select(1, 3), before.select(1, 3)));
  EXPECT_GT(relative_error(model->forward(lightness, -first), after), 1e-3);
  auto state = model->start();
  EXPECT_THROW(model->step(lightness.select(1, 0), state), Error);
  config.width = 18;
  EXPECT_THROW(MemoryPropagation{config}, Error);
}

/// Colours of a shape that was away are known again, better than grey.
TEST(MemoryPropagation, RemembersWhatWasHidden) {
  torch::manual_seed(6);
  MemoryPropagationConfig config;
  config.channels = 16, config.key = 8;
  MemoryPropagation model(config);
  tasks::MovingShapesOptions videos;
  videos.frames = 8, videos.hidden_from = 2, videos.hidden_to = 5;
  train::VideoTrainOptions training;
  training.steps = 800;
  train::train_video_colours(model, videos, training);
  const auto score = train::score_video_colours(model, videos, 16);
  EXPECT_NEAR(score.grey, 0.9, 1e-5);
  EXPECT_LT(score.error, 0.5 * score.grey);
}

}  // namespace
}  // namespace heed::memory_propagation_test
