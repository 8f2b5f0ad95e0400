// Softmax attention of blocks of queries to keys of their own: those of a block are gathered once, and bits say which
// of them each query sees.
#pragma once

#include <cstdint>

#include "heed/kernels/flash.h"

namespace heed::kernels {

/// The keys of every block of queries. Block t of chooser c of batch item b is list row
/// r = (b * choosers + c) * blocks() + t, its keys are keys[offsets[r] .. offsets[r+1]), ascending and without repeats.
/// Its bits are `block` rows of ceil(keys / 64) words each, list row after list row: query i of the block sees its key
/// c where bit c % 64 of word c / 64 is set. A query that sees nothing has output 0 and lse -inf.
struct KeyPanels {
  const int64_t* offsets = nullptr;  ///< [batch * choosers * blocks() + 1]
  const int32_t* keys = nullptr;     ///< [offsets.back()]
  const uint64_t* seen = nullptr;
  int64_t batch = 1;     ///< B
  int64_t choosers = 1;  ///< neighbouring query heads share a choice: a divisor of Hq, and of Hk or a multiple of it
  int64_t queries = 0;   ///< N
  int64_t block = 64;    ///< queries that share gathered keys; 1 or more

  int64_t blocks() const { return (queries + block - 1) / block; }
  int64_t list_rows() const { return batch * choosers * blocks(); }
};

/// Of `attention`, q, k, v, out, lse, scale and soft cap may be used.
struct PanelParams {
  FlashParams attention;
  KeyPanels panels;
};

/// Throws heed::Error naming what does not fit. Called by every entry below.
void check(const PanelParams& params);

void panel_attention(const PanelParams& params);
/// As flash_backward; of the gradients d_q, d_k and d_v may be asked.
void panel_attention_backward(const PanelParams& params, const FlashGrads& grads);

/// Pairs of query and key that are seen, over batch items and choosers.
int64_t visible_pairs(const KeyPanels& panels);

namespace reference {
/// The formula in double: any dtype, O(N * M) time.
void panel_attention(const PanelParams& params);
void panel_attention_backward(const PanelParams& params, const FlashGrads& grads);
}  // namespace reference

}  // namespace heed::kernels
