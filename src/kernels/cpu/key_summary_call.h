// One call of summarize_keys, resolved, and the entries behind the dispatch.
#pragma once

#include "kernels/cpu/decode_call.h"
#include "kernels/page_scores_problem.h"

namespace heed::kernels {

struct KeySummaryCall {
  /// Pages [begin, end) of a (sequence, KV head).
  struct Item {
    int64_t b, h, begin, end;
  };

  KeySummaryCall(const KeySummaryParams& params, std::vector<int64_t> row_lengths)
      : p(params), lengths(std::move(row_lengths)), keys(p.k, p.num_kv_heads, true, true) {
    // Every scale is applied as keys are read: there is no product to wait for.
    if (keys.cache.scale) keys.scale_use = ScaleUse::general;
    const int64_t most = std::max<int64_t>(1, kItemSlots / p.page_slots);
    for (int64_t b = 0; b < batch_of(p); ++b) {
      for (int64_t h = 0; h < p.num_kv_heads; ++h) {
        const int64_t length = lengths[b * p.num_kv_heads + h], seen = summarized_slots(p, b, h);
        const int64_t pages = seen == length ? 0 : blocks_of(length, p.page_slots);
        for (int64_t page = seen / p.page_slots; page < pages; page += most)
          items.push_back({b, h, page, std::min(page + most, pages)});
      }
    }
  }

  static constexpr int64_t kItemSlots = 1024;
  const KeySummaryParams& p;
  std::vector<int64_t> lengths;  ///< per (sequence, KV head)
  SlotSource keys;
  std::vector<Item> items;
};

void run_summary_item(const KeySummaryCall& call, const KeySummaryCall::Item& item, void* scratch);
int64_t summary_scratch_bytes(const KeySummaryCall& call);

/// split [B, Hq, N, 2 * D] = max(q, 0), then min(q, 0), dense last dimension. NaN goes to both.
void split_queries(const AnyView& q, const View<float>& split);

}  // namespace heed::kernels
