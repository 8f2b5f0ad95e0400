// Visible pairs against counting them one by one.
#include <gtest/gtest.h>

#include "heed/kernels/flash.h"
#include "heed/kernels/runtime.h"
#include "support/tensor.h"

namespace heed::testing::visible_pairs_test {
namespace {

using namespace kernels;

int64_t counted(const FlashParams& p) {
  int64_t pairs = 0;
  for (int64_t b = 0; b < p.q.size[0]; ++b) {
    for (int64_t h = 0; h < p.q.size[1]; ++h) {
      const int64_t n = p.q_lengths ? p.q_lengths[b] : p.q.size[2], m = p.k_lengths ? p.k_lengths[b] : p.k.size[2];
      const MaskScope scope{b, h, n, m};
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < m; ++j) {
          bool listed = p.blocks == nullptr;
          if (!listed) {
            const auto& list = *p.blocks;
            const int64_t row =
                ((list.batch == 1 ? 0 : b) * list.heads + (list.heads == 1 ? 0 : h)) * list.query_blocks +
                i / list.query_block;
            for (int64_t c = list.offsets[row]; c < list.offsets[row + 1]; ++c)
              listed |= list.columns[c] == j / list.key_block;
          }
          pairs += listed && p.mask.visible(scope, i, j);
        }
      }
    }
  }
  return pairs;
}

TEST(VisiblePairs, AreWhatMasksShowAndListsVisit) {
  HEED_SEED(random, 99);
  const Mask masks[] = {{},         Causal{}, Causal{} & (Window{37} | SinkTokens{3}), Window{5, 70}, ~Mask(Causal{}),
                        Dilation{3}};
  for (auto [n, m] : {std::pair<int64_t, int64_t>{130, 130}, {40, 201}, {150, 90}}) {
    FlashParams p;
    p.q.size = {2, 3, n, 8};
    p.k.size = {2, 1, m, 8};
    std::vector<int64_t> q_lengths{n, n / 2}, k_lengths{m / 3, m};
    for (const Mask& mask : masks) {
      p.mask = mask;
      p.q_lengths = p.k_lengths = nullptr;
      EXPECT_EQ(visible_pairs(p), counted(p));
      p.q_lengths = q_lengths.data();
      p.k_lengths = k_lengths.data();
      EXPECT_EQ(visible_pairs(p), counted(p));

      BlockList list{
          .heads = 3, .query_blocks = (n + 15) / 16, .key_blocks = (m + 79) / 80, .query_block = 16, .key_block = 80};
      std::vector<int64_t> offsets{0};
      std::vector<int32_t> columns;
      for (int64_t row = 0; row < 3 * list.query_blocks; ++row) {
        for (int64_t j = 0; j < list.key_blocks; ++j)
          if (random() % 2) columns.push_back(int32_t(j));
        offsets.push_back(int64_t(columns.size()));
      }
      list.offsets = offsets.data();
      list.columns = columns.data();
      p.q_lengths = p.k_lengths = nullptr;
      p.blocks = &list;
      EXPECT_EQ(visible_pairs(p), counted(p));
      p.blocks = nullptr;
    }
  }
}

int64_t live_scratch = 0, most_scratch = 0;
void listen(int64_t bytes) { most_scratch = std::max(most_scratch, live_scratch += bytes); }

TEST(ScratchObserver, HearsOfAllThatIsTakenAndGivenBack) {
  HEED_SEED(random, 3);
  Tensor q(DType::f32, {1, 2, 300, 32}), k(DType::f32, {1, 2, 300, 32}), out(DType::f32, {1, 2, 300, 32});
  q.normal(random), k.normal(random);
  FlashParams p;
  p.q = q, p.k = k, p.v = k, p.out = out;
  const auto before = set_scratch_observer(listen);
  flash_forward(p);
  EXPECT_EQ(set_scratch_observer(before), &listen);
  EXPECT_EQ(live_scratch, 0);
  EXPECT_GT(most_scratch, 0);
  // The formula counts the same blocks, and the small lists of the plan; pages round a block up.
  EXPECT_NEAR(double(most_scratch), double(flash_forward_bytes(p)), 16384);
}

}  // namespace
}  // namespace heed::testing::visible_pairs_test
