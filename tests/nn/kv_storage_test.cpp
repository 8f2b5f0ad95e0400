#include "heed/nn/kv_storage.h"

#include <gtest/gtest.h>

namespace heed::nn::kv_storage_test {
namespace {

TEST(KvStorage, GrowsAndErases) {
  KvStorage storage;
  EXPECT_EQ(storage.bytes(), 0);
  const auto k = torch::randn({2, 3, 100, 4}), v = torch::randn({2, 3, 100, 5});
  for (int64_t at = 0; at < 100; at += 7)
    storage.append(k.slice(2, at, std::min<int64_t>(at + 7, 100)), v.slice(2, at, std::min<int64_t>(at + 7, 100)));
  EXPECT_TRUE(torch::equal(storage.keys(), k));
  EXPECT_TRUE(torch::equal(storage.values(), v));
  auto copy = storage.clone();
  storage.erase(2, 98);
  EXPECT_TRUE(torch::equal(storage.keys(), torch::cat({k.slice(2, 0, 2), k.slice(2, 98)}, 2)));
  EXPECT_TRUE(torch::equal(copy.values(), v));
  EXPECT_LT(storage.bytes(), copy.bytes() / 2);  // what was erased is given back
}

// What is held for a window is of the window's size, however long the prompt was.
TEST(KvStorage, HoldsLittleBesideAWindow) {
  constexpr int64_t kRow = 9 * int64_t(sizeof(float));
  for (const int64_t window : {1, 3, 16, 100}) {
    KvStorage storage;
    const auto rows = [](int64_t n) { return std::pair(torch::randn({1, 1, n, 4}), torch::randn({1, 1, n, 5})); };
    const auto slide = [&](int64_t n) {
      const auto [k, v] = rows(n);
      storage.append(k, v);
      storage.erase(0, storage.length() - window);
    };
    slide(1000);
    for (int step = 0; step < 50; ++step) {
      slide(1);
      EXPECT_LE(storage.bytes(), (2 * window + 4) * kRow) << window << " step " << step;
    }
  }
}

}  // namespace
}  // namespace heed::nn::kv_storage_test
