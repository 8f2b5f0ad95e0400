// Partitions of images: bijections whose padding and seams are told apart.
#include "heed/nn/windows.h"

#include <gtest/gtest.h>

#include "heed/error.h"

namespace heed::nn::windows_test {
namespace {

using torch::Tensor;
using Kind = Windows::Kind;

Tensor numbered(int64_t batch, int64_t height, int64_t width) {
  return torch::arange(1, 1 + batch * height * width).view({batch, height, width, 1});
}

TEST(Windows, JoinUndoesSplit) {
  for (const auto kind : {Kind::block, Kind::grid}) {
    for (const auto& [height, width] : {std::pair<int64_t, int64_t>{6, 8}, {5, 7}, {1, 3}, {4, 4}}) {
      for (const int64_t shift : {0, 1}) {
        if (shift > 0 && kind == Kind::grid) continue;
        const Windows windows(kind, height, width, 2, 4, shift);
        const auto image = numbered(3, height, width);
        const auto split = windows.split(image);
        EXPECT_EQ(split.size(0), 3 * windows.count());
        // Windows larger than the image are cut to it.
        EXPECT_EQ(windows.rows(), std::min<int64_t>(2, height));
        EXPECT_EQ(windows.columns(), std::min<int64_t>(4, width));
        EXPECT_EQ(split.size(1), windows.rows() * windows.columns());
        EXPECT_TRUE(torch::equal(windows.join(split), image)) << height << " " << width << " " << shift;
        // Every cell once, the rest is padding.
        EXPECT_EQ((split > 0).sum().item<int64_t>(), 3 * height * width);
        EXPECT_EQ(split.sum().item<int64_t>(), image.sum().item<int64_t>());
      }
    }
  }
}

TEST(Windows, BlocksAreNeighboursAndGridsAreFar) {
  const auto image = numbered(1, 4, 4).sub(1);
  const auto block = Windows(Kind::block, 4, 4, 2, 2).split(image).squeeze(2);
  EXPECT_TRUE(torch::equal(block[0], torch::tensor({0, 1, 4, 5}, torch::kInt64)));
  EXPECT_TRUE(torch::equal(block[3], torch::tensor({10, 11, 14, 15}, torch::kInt64)));
  const auto grid = Windows(Kind::grid, 4, 4, 2, 2).split(image).squeeze(2);
  EXPECT_TRUE(torch::equal(grid[0], torch::tensor({0, 2, 8, 10}, torch::kInt64)));
  EXPECT_TRUE(torch::equal(grid[1], torch::tensor({1, 3, 9, 11}, torch::kInt64)));
  // A grid of the whole image is a block of it.
  EXPECT_TRUE(
      torch::equal(Windows(Kind::grid, 4, 4, 4, 4).split(image), Windows(Kind::block, 4, 4, 4, 4).split(image)));
}

TEST(Windows, DocumentsKeepPaddingAndSeamsApart) {
  EXPECT_FALSE(Windows(Kind::block, 4, 4, 2, 2).documents({}).defined());
  const auto padded = Windows(Kind::block, 3, 4, 2, 2).documents({});
  EXPECT_TRUE(torch::equal(padded[2], torch::tensor({0, 0, -1, -1}, torch::kInt32)));

  // Shifted by one: the last window has one cell of each corner of the image.
  const Windows shifted(Kind::block, 4, 4, 2, 2, 1);
  const auto corners = shifted.split(numbered(1, 4, 4).sub(1)).squeeze(2)[3];
  EXPECT_TRUE(torch::equal(corners, torch::tensor({15, 12, 3, 0}, torch::kInt64)));
  const auto documents = shifted.documents({});
  EXPECT_EQ(std::get<0>(at::_unique(documents[3])).numel(), 4);
  EXPECT_EQ(std::get<0>(at::_unique(documents[0])).numel(), 1);

  auto hidden = torch::zeros({2, 4, 4}, torch::kBool);
  hidden[1][0][1] = true;
  const auto masked = Windows(Kind::block, 4, 4, 2, 2).documents(hidden);
  EXPECT_EQ(masked.size(0), 8);
  EXPECT_TRUE(torch::equal(masked[0], torch::tensor({0, 0, 0, 0}, torch::kInt32)));
  EXPECT_TRUE(torch::equal(masked[4], torch::tensor({0, -1, 0, 0}, torch::kInt32)));
}

TEST(Halos, KeysAreWhatLiesAround) {
  const int64_t height = 5, width = 7;
  const auto image = numbered(2, height, width);
  for (const int64_t block : {1, 2, 3}) {
    for (const int64_t halo : {0, 1, 3}) {
      const Halos halos(height, width, block, halo);
      EXPECT_TRUE(torch::equal(halos.join(halos.queries(image)), image));
      const auto keys = halos.keys(image).view({2, -1, halos.side(), halos.side()});
      const auto documents = halos.key_documents(2, {}).view({2, -1, halos.side(), halos.side()});
      const int64_t across = (width + block - 1) / block;
      for (int64_t b = 0; b < 2; ++b) {
        for (int64_t g = 0; g < halos.count(); ++g) {
          for (int64_t r = 0; r < halos.side(); ++r) {
            for (int64_t c = 0; c < halos.side(); ++c) {
              const int64_t row = g / across * block + r - halo, column = g % across * block + c - halo;
              const bool inside = row >= 0 && row < height && column >= 0 && column < width;
              ASSERT_EQ(keys[b][g][r][c].item<int64_t>(), inside ? 1 + (b * height + row) * width + column : 0);
              ASSERT_EQ(documents[b][g][r][c].item<int32_t>(), inside ? 0 : -1);
            }
          }
        }
      }
    }
  }
}

TEST(Windows, BadSizesAreNamed) {
  EXPECT_THROW(Windows(Kind::block, 4, 4, 0, 2), Error);
  EXPECT_THROW(Windows(Kind::block, 0, 4, 2, 2), Error);
  EXPECT_THROW(Windows(Kind::block, 4, 4, 2, 2, 2), Error);
  EXPECT_THROW(Windows(Kind::grid, 4, 4, 2, 2, 1), Error);
  EXPECT_THROW(Halos(4, 4, 2, -1), Error);
}

}  // namespace
}  // namespace heed::nn::windows_test
