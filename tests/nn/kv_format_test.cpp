// What formats do to the keys and values of a ragged cache.
#include "heed/nn/kv_format.h"

#include <gtest/gtest.h>

#include "heed/error.h"
#include "heed/nn/ragged_kv.h"
#include "support/naive_kv.h"

namespace heed::nn::kv_format_test {
namespace {

using testing::stored;
using torch::Tensor;

const std::vector<std::string> kCoded{"int8", "int4", "kivi2", "kivi2_token"};

Tensor random_rows(uint64_t seed, int64_t length, int64_t dim) {
  torch::manual_seed(seed);
  return 3 * torch::randn({2, 3, length, dim}) + torch::randn({1, 1, 1, dim});
}

/// A cache of these keys and values, the first `prompt` tokens quantised after they came.
RaggedKv cache_of(const Tensor& k, const Tensor& v, const KvFormat& format, int64_t prompt) {
  RaggedKv kv;
  if (prompt > 0) kv.append(k.narrow(2, 0, prompt), v.narrow(2, 0, prompt), 0);
  kv.quantise(format);
  for (int64_t t = prompt; t < k.size(2); ++t) kv.append(k.narrow(2, t, 1), v.narrow(2, t, 1), t);
  return kv;
}

TEST(KvFormat, WhatIsStoredIsTheDefinition) {
  for (const auto& name : kCoded) {
    for (const int64_t dim : {8, 40, 64}) {
      auto format = KvFormat::parse(name);
      if (format.recent) format.recent = 40;
      const auto k = random_rows(1, 150, dim), v = random_rows(2, 150, dim);
      for (const int64_t prompt : {0, 101, 150}) {
        const auto kv = cache_of(k, v, format, prompt);
        for (int64_t r = 0; r < 6; ++r) {
          EXPECT_TRUE(torch::equal(kv.keys(r), stored(k[r / 3][r % 3], format, true))) << name << " " << dim;
          EXPECT_TRUE(torch::equal(kv.values(r), stored(v[r / 3][r % 3], format, false))) << name << " " << dim;
          EXPECT_TRUE(torch::equal(kv.keys()[r / 3][r % 3], kv.keys(r)));
        }
      }
    }
  }
}

TEST(KvFormat, ElementsMoveByHalfAStepAtMost) {
  const auto x = random_rows(3, 96, 64);
  const auto largest = x.abs().max().item<double>();
  for (const auto& name : kCoded) {
    auto format = KvFormat::parse(name);
    if (format.recent) format.recent = 1;
    const auto kv = cache_of(x, x, format, 96);
    for (const auto* slab : {&kv.key_slab(), &kv.value_slab()}) {
      const auto codes = slab->codes();
      const auto step = codes.scale.to(torch::kFloat32)
                            .repeat_interleave(codes.slot_group, 0)
                            .repeat_interleave(format.bits == 8 ? 64 : codes.channel_group, 1);
      for (int64_t r = 0; r < 6; ++r) {
        // The last group has the newest token. Rounding: of the difference, its quotient, the product and the sum.
        const auto error = (slab->read(kv.offset(r), 64) - x[r / 3][r % 3].narrow(0, 0, 64)).abs();
        const auto bound = step.narrow(0, kv.offset(r), 64) / 2 + 4 * largest * 6e-8;
        EXPECT_TRUE((error <= bound).all().item<bool>()) << name;
      }
    }
  }
}

TEST(KvFormat, EqualNumbersStayExact) {
  for (const auto& name : kCoded) {
    for (const double constant : {0.0, 1.0, -2.5, 0.333251953125}) {  // all are float16
      const auto x = torch::full({2, 3, 300, 32}, constant);
      const auto kv = cache_of(x, x, KvFormat::parse(name), 300);
      // int8 has no level at any number but multiples of the largest / 127, of which 127 is the number up to rounding.
      const double rounding = name == "int8" ? std::abs(constant) * 1.2e-7 : 0;
      EXPECT_LE((kv.keys() - x).abs().max().item<double>(), rounding) << name << " " << constant;
      EXPECT_LE((kv.values() - x).abs().max().item<double>(), rounding) << name << " " << constant;
    }
  }
}

TEST(KvFormat, EveryCodeComesBack) {
  // Numbers on a grid of float16 steps are stored as they are.
  for (const auto& [name, levels] : {std::pair{"int4", 16}, {"kivi2", 4}, {"kivi2_token", 4}, {"int8", 255}}) {
    auto format = KvFormat::parse(name);
    if (format.recent) format.recent = 1;
    torch::manual_seed(4);
    auto codes = torch::randint(levels, {2, 3, 288, 64}, torch::kFloat32);
    // Every group has both ends.
    codes.slice(3, 0, 64, 32).fill_(0), codes.slice(3, 1, 64, 32).fill_(levels - 1);
    codes.slice(2, 0, 288, 32).fill_(0), codes.slice(2, 1, 288, 32).fill_(levels - 1);
    const auto x = format.bits == 8 ? codes - 127 : 0.375 * codes - 2.5;
    const auto kv = cache_of(x, x, format, 288);
    EXPECT_TRUE(torch::equal(kv.keys(), x)) << name;
    EXPECT_TRUE(torch::equal(kv.values(), x)) << name;
  }
}

TEST(KvFormat, ALargeChannelSpoilsItsTokensUnlessKeysGoByChannel) {
  const auto x = random_rows(5, 256, 32);
  auto outlying = x.clone();
  outlying.select(3, 7).mul_(100);
  const auto error = [&](const char* name, const Tensor& keys) {
    auto format = KvFormat::parse(name);
    format.recent = 1;
    auto of_others = (cache_of(keys, keys, format, 256).keys() - keys).abs().slice(2, 0, 224);
    of_others.select(3, 7).zero_();
    return of_others;
  };
  EXPECT_TRUE(torch::equal(error("kivi2", outlying), error("kivi2", x)));
  // A step is a third of the range, which that channel makes at least ten times as wide in most tokens.
  EXPECT_GT(error("kivi2_token", outlying).mean().item<double>(), 5 * error("kivi2_token", x).mean().item<double>());
}

TEST(KvFormat, TheNewestTokensStayExact) {
  const auto k = random_rows(6, 400, 16), v = random_rows(7, 400, 16);
  for (const char* name : {"kivi2", "kivi2_token"}) {
    const auto format = KvFormat::parse(name);
    EXPECT_TRUE(torch::equal(cache_of(k.narrow(2, 0, 128), v, format, 0).keys(), k.narrow(2, 0, 128)));
    const auto kv = cache_of(k, v, format, 300);
    EXPECT_TRUE(torch::equal(kv.keys().slice(2, 400 - 128), k.slice(2, 400 - 128)));
    EXPECT_TRUE(torch::equal(kv.values().slice(2, 400 - 128), v.slice(2, 400 - 128)));
    EXPECT_FALSE(torch::equal(kv.keys().slice(2, 0, 32), k.slice(2, 0, 32)));
  }
}

TEST(KvFormat, BytesAreThoseOfTheFormat) {
  const int64_t n = 1024, d = 64, rows = 6;
  const auto x = random_rows(8, n, d);
  const auto bytes = [&](const char* name) { return cache_of(x, x, KvFormat::parse(name), n).bytes(); };
  EXPECT_EQ(bytes("exact"), rows * 2 * n * d * 4);
  EXPECT_EQ(bytes("int8"), rows * 2 * n * (d + 4));
  EXPECT_EQ(bytes("int4"), rows * 2 * n * (d / 2 + d / 32 * 4));
  // 2 bits and a float16 step and end for 32 elements, 4 bytes for each group of 32 slots, and the exact ones: 128
  // tokens are 4 groups of a row; room for them grows by a quarter or four groups.
  const int64_t codes = rows * n * (2 * (d / 4 + d / 32 * 4)) + rows * 2 * n / 32 * 4, group = 32 * d * 4;
  for (const char* name : {"kivi2", "kivi2_token"}) {
    EXPECT_GE(bytes(name), codes + 2 * rows * 4 * group) << name;
    EXPECT_LE(bytes(name), codes + 2 * (rows * 4 + rows + 4) * group) << name;
  }
}

TEST(KvFormat, CodesMoveWithTheirSlots) {
  const auto x = random_rows(9, 200, 32);
  for (const char* name : {"int8", "int4"}) {
    auto kv = cache_of(x, x, KvFormat::parse(name), 200);
    const auto before = kv.keys();
    std::vector<std::vector<int64_t>> kept(6);
    for (int64_t r = 0; r < 6; ++r)
      for (int64_t s = r; s < 200; s += r + 1) kept[r].push_back(s);
    kv.keep(kept);
    kv.keep(std::vector<std::vector<int64_t>>(6, {0, 2, 3}));
    for (int64_t r = 0; r < 6; ++r)
      for (const int64_t i : {0, 2, 3})
        EXPECT_TRUE(torch::equal(kv.values(r)[i == 0 ? 0 : i - 1], before[r / 3][r % 3][kept[r][i]])) << name;
  }
}

TEST(KvFormat, GroupsWithHolesAreMadeAnew) {
  auto format = KvFormat::parse("kivi2");
  format.recent = 40;
  const auto k = random_rows(10, 200, 16), v = random_rows(11, 200, 16);
  auto kv = cache_of(k, v, format, 150);
  std::vector<std::vector<int64_t>> kept(6);
  for (int64_t r = 0; r < 6; ++r)
    for (int64_t s = 0; s < 200; ++s)
      if (s >= 160 || s % (r + 2) != 0) kept[r].push_back(s);
  const auto before = kv.keys();
  kv.keep(kept);
  for (int64_t r = 0; r < 6; ++r) {
    const auto index = torch::tensor(kept[r], torch::kInt64), positions = kv.positions(r);
    EXPECT_TRUE(torch::equal(positions, index));
    const auto held = before[r / 3][r % 3].index_select(0, index);
    int64_t groups = 0;
    while ((groups + 1) * 32 <= held.size(0) && positions[groups * 32 + 31].item<int64_t>() <= 199 - 40) ++groups;
    auto want = held.clone();
    for (int64_t g = 0; g < groups; ++g)
      want.narrow(0, g * 32, 32).copy_(testing::stored_by_channel(held.narrow(0, g * 32, 32).contiguous(), 2));
    EXPECT_GT(groups, 1);
    EXPECT_TRUE(torch::equal(kv.keys(r), want)) << r;
    // The newest are as they came.
    EXPECT_TRUE(torch::equal(kv.keys(r).slice(0, held.size(0) - 40), k[r / 3][r % 3].slice(0, 160)));
  }
}

TEST(KvFormat, AnOverwrittenSlotIsExactUntilItIsOld) {
  auto format = KvFormat::parse("kivi2");
  format.recent = 33;
  const auto k = random_rows(12, 300, 16), v = random_rows(13, 300, 16);
  auto kv = cache_of(k.narrow(2, 0, 128), v.narrow(2, 0, 128), format, 128);
  const auto before = kv.keys(2);
  for (int64_t t = 128; t < 300; ++t)
    for (int64_t r = 0; r < 6; ++r) kv.replace(r, t % 128, k[r / 3][r % 3][t], v[r / 3][r % 3][t], t);
  for (int64_t r = 0; r < 6; ++r) {
    // Slot s holds token 256 + s below 44, 128 + s above; the newest 33 are 267 .. 299, slots 11 .. 43.
    EXPECT_TRUE(torch::equal(kv.keys(r).slice(0, 11, 44), k[r / 3][r % 3].slice(0, 267, 300)));
    // Groups of slots 64 .. 95 and 96 .. 127 were packed once, from what came.
    for (const int64_t s : {64, 96})
      EXPECT_TRUE(torch::equal(kv.keys(r).narrow(0, s, 32),
                               testing::stored_by_channel(k[r / 3][r % 3].narrow(0, 128 + s, 32).contiguous(), 2)));
  }
}

TEST(KvFormat, ForgettingTheNewestKeepsTheOthers) {
  for (const auto& name : kCoded) {
    const auto k = random_rows(14, 300, 16);
    auto kv = cache_of(k, k, KvFormat::parse(name), 200);
    const auto before = kv.keys().slice(2, 0, 70);
    kv.shorten(70);
    EXPECT_TRUE(torch::equal(kv.keys(), before)) << name;
    for (int64_t t = 70; t < 90; ++t) kv.append(k.narrow(2, t, 1), k.narrow(2, t, 1), t);
    EXPECT_TRUE(torch::equal(kv.keys().slice(2, 0, 70), before)) << name;
  }
}

TEST(KvFormat, NotFiniteNumbersStayInTheirGroups) {
  auto format = KvFormat::parse("kivi2");
  format.recent = 1;
  auto k = random_rows(15, 96, 32);
  const auto clean = cache_of(k, k, format, 96).keys().clone();
  k[0][0][3][5] = NAN;
  const auto got = cache_of(k, k, format, 96).keys();
  EXPECT_TRUE(got[0][0].select(1, 5).slice(0, 0, 32).isnan().all().item<bool>());
  EXPECT_EQ(got.isnan().sum().item<int64_t>(), 32);
  EXPECT_TRUE(torch::equal(got[1], clean[1]));
}

TEST(KvFormat, RefusesWhatItCantPack) {
  EXPECT_THROW(KvFormat::parse("int3"), Error);
  RaggedKv kv;
  kv.quantise(KvFormat::parse("kivi2"));
  const auto x = torch::randn({1, 1, 4, 18});
  EXPECT_THROW(kv.append(x, x, 0), Error);
  EXPECT_THROW(kv.quantise(KvFormat::parse("int8")), Error);
}

}  // namespace
}  // namespace heed::nn::kv_format_test
