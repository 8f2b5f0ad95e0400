// The card of orion_msp: who sees whom, from a row's tokens to the rows of a table.
#include "heed/models/orion_msp.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "support/gradient_check.h"

namespace heed::orion_msp_test {
namespace {

using test::relative_error;
using torch::Tensor;

OrionConfig small() {
  OrionConfig c;
  c.dim = 8, c.column_blocks = 2, c.inducing = 4, c.column_heads = 2;
  c.scales = {1, 2}, c.row_blocks = 2, c.row_heads = 2, c.window = 2;
  c.latents = 3, c.memory_blocks = 1, c.icl_blocks = 2, c.icl_heads = 2, c.classes = 4;
  return c;
}

OrionMsp drawn(const OrionConfig& config, torch::ScalarType type = torch::kFloat32) {
  OrionMsp model(config);
  model->eval();
  torch::NoGradGuard no_grad;
  for (auto& parameter : model->parameters()) parameter.add_(torch::randn_like(parameter) * 0.1);
  model->to(type);
  return model;
}

TEST(OrionMsp, RowsSeeWindowsSpecialTokensAndRandomLinks) {
  auto c = small();
  c.random_links = 3;
  const int64_t n = 30;
  const auto mask = orion_row_mask(n, c);
  EXPECT_TRUE(mask.slice(0, 0, 6).all().item<bool>() && mask.slice(1, 0, 6).all().item<bool>());
  for (int64_t i = 6; i < n; ++i) {
    int64_t band = 0;
    for (int64_t j = 6; j < n; ++j) {
      if (std::abs(i - j) > c.window) continue;
      ++band;
      EXPECT_TRUE(mask[i][j].item<bool>());
    }
    EXPECT_EQ(mask[i].sum().item<int64_t>(), 6 + band + c.random_links) << i;
  }
  EXPECT_TRUE(torch::equal(mask, orion_row_mask(n, c)));
}

TEST(OrionMsp, AWideWindowIsDenseAttention) {
  torch::manual_seed(1);
  SetBlock block(8, 2, 1e5);
  block->to(torch::kFloat64);
  auto c = small();
  c.window = 40;
  const auto x = torch::randn({3, 40, 8}, torch::kFloat64);
  EXPECT_LT(relative_error(block->forward(x, x, orion_row_mask(40, c)), block->forward(x, x)), 1e-12);
  c.window = 2;
  EXPECT_GT(relative_error(block->forward(x, x, orion_row_mask(40, c)), block->forward(x, x)), 1e-4);
}

TEST(OrionMsp, ARowWithoutALabelIsSeenByNobody) {
  torch::manual_seed(2);
  torch::NoGradGuard no_grad;
  auto model = drawn(small());
  const auto table = torch::randn({2, 12, 5});
  const auto labels = torch::randint(4, {2, 7}, torch::kInt64);
  const auto before = model->forward(table, labels);
  EXPECT_EQ(before.sizes(), (std::vector<int64_t>{2, 5, 4}));
  const auto held = model->memory(model->rows(model->columns(table, 7)), 7);
  auto changed = table.clone();
  changed.select(1, 9).add_(2);
  const auto after = model->forward(changed, labels);
  for (const int64_t row : {0, 1, 3, 4}) EXPECT_TRUE(torch::equal(after.select(1, row), before.select(1, row)));
  EXPECT_FALSE(torch::equal(after.select(1, 2), before.select(1, 2)));
  EXPECT_TRUE(torch::equal(model->memory(model->rows(model->columns(changed, 7)), 7), held));
  // A training row is seen by all.
  changed = table.clone();
  changed.select(1, 3).add_(2);
  EXPECT_FALSE(torch::equal(model->memory(model->rows(model->columns(changed, 7)), 7), held));
}

TEST(OrionMsp, TheOrderOfTrainingRowsDoesNotMatter) {
  torch::manual_seed(3);
  torch::NoGradGuard no_grad;
  auto model = drawn(small());
  const auto table = torch::randn({1, 11, 6});
  const auto labels = torch::randint(4, {1, 8}, torch::kInt64), order = torch::randperm(8);
  const auto shuffled = torch::cat({table.slice(1, 0, 8).index_select(1, order), table.slice(1, 8)}, 1);
  EXPECT_LT(relative_error(model->forward(shuffled, labels.index_select(1, order)), model->forward(table, labels)),
            1e-5);
}

TEST(OrionMsp, AScaleIsTheMeanOfNeighbouringFeatures) {
  torch::manual_seed(8);
  torch::NoGradGuard no_grad;
  auto coarse = small(), fine = small();
  coarse.scales = {3}, fine.scales = {1};
  auto model = drawn(coarse, torch::kFloat64), reference = drawn(fine, torch::kFloat64);
  auto target = reference->named_parameters();
  for (const auto& entry : model->named_parameters()) target[entry.key()].copy_(entry.value());
  const auto cells = torch::randn({2, 4, 8, 8}, torch::kFloat64);  // groups of 3, 3 and 2 of 8 features
  std::vector<Tensor> means;
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 3}, {3, 6}, {6, 8}})
    means.push_back(cells.slice(2, begin, end).mean(2));
  EXPECT_LT(relative_error(model->rows(cells), reference->rows(torch::stack(means, 2))), 1e-12);
  // Several scales: the mean of what each says, before the norm.
  auto both = small();
  both.scales = {1, 1};
  auto twice = drawn(both, torch::kFloat64);
  auto own = twice->named_parameters();
  for (const auto& entry : reference->named_parameters()) {
    if (auto* found = own.find(entry.key())) found->copy_(entry.value());
    if (entry.key().rfind("row_0_", 0) != 0) continue;
    // One scale has two blocks; two have one each.
    if (auto* found = own.find("row_1_" + entry.key().substr(6))) found->copy_(entry.value());
  }
  auto single = small();
  single.scales = {1}, single.row_blocks = 1;
  auto once = drawn(single, torch::kFloat64);
  auto first = once->named_parameters();
  for (const auto& entry : reference->named_parameters())
    if (auto* found = first.find(entry.key())) found->copy_(entry.value());
  EXPECT_LT(relative_error(twice->rows(cells), once->rows(cells)), 1e-12);
}

TEST(OrionMsp, ProbabilitiesAreMeansOverNamesOfTheClasses) {
  // One feature and two classes: every draw keeps the names or exchanges them.
  torch::manual_seed(9);
  torch::NoGradGuard no_grad;
  auto model = drawn(small(), torch::kFloat64);
  const auto table = torch::randn({1, 9, 1}, torch::kFloat64);
  const auto labels = torch::randint(2, {1, 5}, torch::kInt64);
  const auto p_of = [&](const Tensor& named) {
    return torch::softmax(model->forward(table, named).narrow(2, 0, 2) / model->config().temperature, 2);
  };
  const auto kept = p_of(labels), exchanged = p_of(1 - labels).flip(2);
  constexpr int64_t kDraws = 16;
  const auto p = model->probabilities(table, labels, 2, kDraws, 3);
  const double share = ((p - exchanged) / (kept - exchanged))[0][0][0].item<double>() * double(kDraws);
  EXPECT_NEAR(share, std::round(share), 1e-8);
  EXPECT_GT(share, 0.5);
  EXPECT_LT(share, double(kDraws) - 0.5);
  const double a = std::round(share) / double(kDraws);
  EXPECT_LT(relative_error(p, a * kept + (1 - a) * exchanged), 1e-12);
}

TEST(OrionMsp, AMemoryThatIsNotReadChangesNothing) {
  torch::manual_seed(10);
  torch::NoGradGuard no_grad;
  auto without = small(), unread = small();
  without.latents = 0, unread.memory_blocks = 0;
  auto model = drawn(without), reference = drawn(unread), whole = drawn(small());
  const auto source = model->named_parameters();
  for (auto* other : {&reference, &whole})
    for (auto& entry : (*other)->named_parameters())
      if (const auto* found = source.find(entry.key())) entry.value().copy_(*found);
  const auto table = torch::randn({2, 8, 4});
  const auto labels = torch::randint(4, {2, 5}, torch::kInt64);
  EXPECT_TRUE(torch::equal(model->forward(table, labels), reference->forward(table, labels)));
  EXPECT_GT(relative_error(model->forward(table, labels), whole->forward(table, labels)), 1e-4);
}

TEST(OrionMsp, WithoutLatentsThereIsNoMemory) {
  torch::manual_seed(4);
  torch::NoGradGuard no_grad;
  auto config = small();
  config.latents = 0;
  auto model = drawn(config);
  EXPECT_FALSE(model->memory(torch::randn({1, 4, 32}), 3).defined());
  EXPECT_TRUE(test::all_finite(model->forward(torch::randn({1, 6, 3}), torch::zeros({1, 4}, torch::kInt64))));
}

TEST(OrionMsp, GradientsAgreeWithDifferences) {
  torch::manual_seed(5);
  auto model = drawn(small(), torch::kFloat64);
  auto table = torch::randn({1, 9, 5}, torch::kFloat64).requires_grad_();
  const auto labels = torch::randint(4, {1, 6}, torch::kInt64);
  std::vector<Tensor> inputs{table};
  for (auto& parameter : model->parameters()) inputs.push_back(parameter);
  test::expect_gradient([&] { return model->forward(table, labels); }, inputs);
}

TEST(OrionMsp, ProbabilitiesAreOfTheClassesAskedFor) {
  torch::manual_seed(6);
  auto model = drawn(small());
  const auto p = model->probabilities(torch::randn({2, 8, 4}), torch::randint(3, {2, 5}, torch::kInt64), 3, 4, 9);
  EXPECT_EQ(p.sizes(), (std::vector<int64_t>{2, 3, 3}));
  EXPECT_LT((p.sum(2) - 1).abs().max().item<double>(), 1e-5);
}

TEST(OrionMsp, LearnsToClassifyInContext) {
  // Tables whose label is the sign of one feature, another one each table.
  torch::manual_seed(7);
  auto config = small();
  config.scales = {1}, config.icl_heads = 4, config.classes = 2;
  OrionMsp model(config);
  torch::optim::Adam optimizer(model->parameters(), torch::optim::AdamOptions(3e-3));
  const auto draw = [](int64_t batch) {
    const auto table = torch::randn({batch, 24, 2});
    const auto feature = torch::randint(2, {batch, 1, 1}, torch::kInt64).expand({batch, 24, 1});
    return std::pair(table, (table.gather(2, feature).squeeze(2) > 0).to(torch::kInt64));
  };
  for (int64_t step = 0; step < 200; ++step) {
    const auto [table, labels] = draw(32);
    const auto logits = model->forward(table, labels.narrow(1, 0, 16));
    optimizer.zero_grad();
    torch::nn::functional::cross_entropy(logits.flatten(0, 1), labels.slice(1, 16).flatten()).backward();
    optimizer.step();
  }
  torch::NoGradGuard no_grad;
  const auto [table, labels] = draw(64);
  const auto hits = model->forward(table, labels.narrow(1, 0, 16)).argmax(2) == labels.slice(1, 16);
  EXPECT_GT(hits.to(torch::kFloat32).mean().item<double>(), 0.7);
}

TEST(OrionMsp, BadInputIsNamed) {
  auto model = drawn(small());
  EXPECT_THROW(model->forward(torch::randn({2, 5, 3}), torch::zeros({2, 6}, torch::kInt64)), Error);
  EXPECT_THROW(model->forward(torch::randn({2, 5, 3}), torch::full({2, 3}, 4, torch::kInt64)), Error);
  EXPECT_THROW(model->probabilities(torch::randn({1, 5, 3}), torch::zeros({1, 3}, torch::kInt64), 9), Error);
  auto config = small();
  config.scales = {};
  EXPECT_THROW(OrionMsp{config}, Error);
}

}  // namespace
}  // namespace heed::orion_msp_test
