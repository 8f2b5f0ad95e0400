#include "heed/nn/ragged_kv.h"

#include <gtest/gtest.h>

#include "heed/error.h"

namespace heed::nn::ragged_kv_test {
namespace {

using torch::Tensor;

/// Keys whose channels say which token they are of.
Tensor tokens(int64_t begin, int64_t end, int64_t batch = 2, int64_t heads = 3, int64_t dim = 4) {
  const auto row = torch::arange(batch * heads).view({batch, heads, 1, 1}) * 1000;
  return (row + torch::arange(begin, end).view({1, 1, -1, 1}))
      .expand({batch, heads, end - begin, dim})
      .to(torch::kFloat32);
}

std::vector<int64_t> held(const RaggedKv& kv, int64_t row) {
  std::vector<int64_t> tokens;
  for (int64_t s = 0; s < kv.length(row); ++s) tokens.push_back(kv.keys(row)[s][0].item<int64_t>() - 1000 * row);
  return tokens;
}

TEST(RaggedKv, RowsKeepTheirOwnSlotsAndPositions) {
  RaggedKv kv;
  kv.append(tokens(0, 40), tokens(0, 40), 0);
  EXPECT_TRUE(kv.uniform());
  EXPECT_TRUE(torch::equal(kv.keys(), tokens(0, 40)));
  std::vector<std::vector<int64_t>> kept(6);
  for (int64_t r = 0; r < 6; ++r)
    for (int64_t s = r; s < 40; s += r + 1) kept[r].push_back(s);
  kv.keep(kept);
  EXPECT_FALSE(kv.uniform());
  kv.append(tokens(40, 43), tokens(40, 43), 40);
  for (int64_t r = 0; r < 6; ++r) {
    auto want = kept[r];
    for (int64_t t = 40; t < 43; ++t) want.push_back(t);
    EXPECT_EQ(held(kv, r), want) << r;
    EXPECT_TRUE(torch::equal(kv.positions(r), torch::tensor(want))) << r;
    EXPECT_EQ(kv.offset(r) % RaggedKv::kPage, 0);
  }
  kv.replace(3, 2, torch::full({4}, 3077.0), torch::zeros({4}), 77);
  EXPECT_EQ(held(kv, 3)[2], 77);
  EXPECT_EQ(kv.positions(3)[2].item<int64_t>(), 77);
}

TEST(RaggedKv, TheTableFindsEverySlot) {
  RaggedKv kv;
  kv.append(tokens(0, 50), tokens(0, 50), 0);
  kv.keep({{1}, {}, {0, 49}, {5, 6, 7}, {}, {48}});
  kv.append(tokens(50, 67), tokens(50, 67), 50);
  const auto table = kv.page_table();
  const auto pages = kv.key_slab().data().view({-1, RaggedKv::kPage, 4});
  for (int64_t r = 0; r < 6; ++r)
    for (int64_t s = 0; s < kv.length(r); ++s) {
      const int64_t page = table[r / 3][r % 3][s / RaggedKv::kPage].item<int32_t>();
      EXPECT_TRUE(torch::equal(pages[page][s % RaggedKv::kPage], kv.keys(r)[s])) << r << " " << s;
    }
}

TEST(RaggedKv, WhatIsDroppedIsFreed) {
  RaggedKv kv;
  kv.reserve(1000);
  kv.append(tokens(0, 900), tokens(0, 900), 0);
  EXPECT_EQ(kv.bytes(), 6 * 1008 * 8 * 4);  // 1000 rounded up to pages
  std::vector<std::vector<int64_t>> kept(6);
  for (auto& row : kept)
    for (int64_t s = 100; s < 200; ++s) row.push_back(s);
  kv.keep(kept);
  const int64_t positions = 6 * 100 * 4;
  EXPECT_EQ(kv.bytes(), 6 * 112 * 8 * 4 + positions);
  EXPECT_EQ(kv.used_bytes(), 6 * 100 * 8 * 4);
  // What comes later does not bring the reservation back.
  kv.append(tokens(900, 920), tokens(900, 920), 900);
  EXPECT_LE(kv.bytes(), 6 * 160 * 8 * 4 + 6 * 120 * 4);
}

TEST(RaggedKv, AnyOrderMayBeKept) {
  RaggedKv kv;
  kv.append(tokens(0, 5, 1, 1), tokens(0, 5, 1, 1), 0);
  kv.keep({{4, 0, 2}});
  EXPECT_EQ(held(kv, 0), (std::vector<int64_t>{4, 0, 2}));
  EXPECT_TRUE(torch::equal(kv.positions(0), torch::tensor({4, 0, 2})));
  kv.shorten(1);
  EXPECT_EQ(held(kv, 0), (std::vector<int64_t>{4}));
  kv.keep({{}});
  EXPECT_EQ(kv.length(0), 0);
}

TEST(RaggedKv, RefusesWhatDoesNotFit) {
  RaggedKv kv;
  kv.append(tokens(0, 5, 1, 2), tokens(0, 5, 1, 2), 0);
  EXPECT_THROW(kv.append(tokens(5, 6, 2, 2), tokens(5, 6, 2, 2), 5), Error);
  EXPECT_THROW(kv.keep({{0}}), Error);
  EXPECT_THROW(kv.keep({{5}, {}}), Error);
  EXPECT_THROW(kv.replace(0, 5, torch::zeros({4}), torch::zeros({4}), 5), Error);
}

}  // namespace
}  // namespace heed::nn::ragged_kv_test
