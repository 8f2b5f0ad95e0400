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

}  // namespace
}  // namespace heed::nn::kv_storage_test
