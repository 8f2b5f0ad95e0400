#include "mixers/sparse/panels.h"

#include "heed/nn/row_attention.h"

namespace heed::sparse {
namespace {

using torch::Tensor;

/// bool [B, choosers, rows, M]: what queries [first, first + rows) see.
Tensor seen_of(const ops::KeyPanels& panels, int64_t first, int64_t rows, int64_t m) {
  const auto view = panels.view();
  auto seen = torch::zeros({view.batch, view.choosers, rows, m}, torch::kBool);
  bool* const to = seen.data_ptr<bool>();
  const uint64_t* bits = view.seen;
  for (int64_t r = 0; r < view.list_rows(); ++r) {
    const int64_t chooser = r / view.blocks(), begin = r % view.blocks() * view.block,
                  keys = view.offsets[r + 1] - view.offsets[r], words = (keys + 63) / 64;
    for (int64_t i = std::max(first, begin); i < std::min(first + rows, begin + view.block); ++i) {
      const uint64_t* const row = bits + (i - begin) * words;
      for (int64_t c = 0; c < keys; ++c)
        if ((row[c / 64] >> (c % 64) & 1) != 0)
          to[(chooser * rows + i - first) * m + view.keys[view.offsets[r] + c]] = true;
    }
    bits += view.block * words;
  }
  return seen;
}

/// Keys that some query of each block sees, in their order. `dropped` [M].
std::vector<std::vector<int32_t>> keys_of_blocks(const int64_t* dropped, int64_t m, int64_t queries, int64_t block) {
  std::vector<std::vector<int32_t>> blocks;
  std::vector<int32_t> held;
  int64_t next = 0;
  for (int64_t first = m - queries; first < m; first += block) {
    std::erase_if(held, [&](int32_t j) { return dropped[j] <= first; });
    for (; next < std::min(m, first + block); ++next)
      if (dropped[next] > std::max(next, first)) held.push_back(int32_t(next));
    blocks.push_back(held);
  }
  return blocks;
}

}  // namespace

Tensor attend_panels(const Tensor& q, const Tensor& k, const Tensor& v, const ops::KeyPanels& panels,
                     const AttentionOptions& options, nn::CoreReport* report) {
  if (options.bias || options.dropout > 0) {
    const auto choice = [panels, m = k.size(2)](int64_t first, int64_t rows) {
      return seen_of(panels, first, rows, m);
    };
    return nn::row_attention(q, k, v, options, choice, report);
  }
  const auto result = ops::panel_attention(q, k, v, panels, options.scale, options.softcap);
  if (report) {
    report->pairs = kernels::visible_pairs(panels.view()) * (q.size(1) / panels.choosers);
    if (options.softcap == 0 && options.scale == 0) report->lse = result.lse;
  }
  return result.out;
}

ops::KeyPanels panels_until_dropped(const Tensor& dropped, int64_t queries) {
  constexpr int64_t kBlock = 96;
  const auto until = dropped.contiguous();
  const int64_t batch = until.size(0), heads = until.size(1), m = until.size(2), past = m - queries;
  const auto* const rows = until.data_ptr<int64_t>();
  std::vector<std::vector<std::vector<int32_t>>> keys(size_t(batch * heads));
  at::parallel_for(0, batch * heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t h = begin; h < end; ++h) keys[size_t(h)] = keys_of_blocks(rows + h * m, m, queries, kBlock);
  });
  return ops::key_panels(batch, heads, queries, kBlock, [&](int64_t b, int64_t h, int64_t first, int64_t count) {
    const int64_t *const until_of = rows + (b * heads + h) * m, from = past + first, to = from + count;
    ops::KeyPanel panel(kBlock, std::move(keys[size_t(b * heads + h)][size_t(first / kBlock)]));
    const auto& held = panel.keys();
    std::vector<uint64_t> by_all(size_t(panel.words()), 0);
    for (size_t c = 0; c < held.size(); ++c)
      if (held[c] <= from && until_of[held[c]] >= to) by_all[c / 64] |= uint64_t{1} << (c % 64);
    for (int64_t r = 0; r < count; ++r) std::copy(by_all.begin(), by_all.end(), panel.row(r));
    for (size_t c = 0; c < held.size(); ++c) {
      if ((by_all[c / 64] >> (c % 64) & 1) != 0) continue;
      const int64_t begin = std::max<int64_t>(held[c], from), end = std::min(until_of[held[c]], to);
      for (int64_t at = begin; at < end; ++at) panel.row(at - from)[c / 64] |= uint64_t{1} << (c % 64);
    }
    return panel;
  });
}

ops::KeyPanels panels_of_all(const Tensor& seen, int64_t queries) {
  constexpr int64_t kBlock = 192;
  const auto rows = seen.contiguous();
  const int64_t heads = rows.size(1), m = rows.size(2);
  return ops::key_panels(rows.size(0), heads, queries, kBlock, [&](int64_t b, int64_t h, int64_t, int64_t count) {
    const bool* const row = rows.data_ptr<bool>() + (b * heads + h) * m;
    std::vector<int32_t> keys;
    for (int64_t j = 0; j < m; ++j)
      if (row[j]) keys.push_back(int32_t(j));
    ops::KeyPanel panel(kBlock, std::move(keys));
    for (int64_t r = 0; r < count; ++r) panel.see(r, 0, int64_t(panel.keys().size()));
    return panel;
  });
}

}  // namespace heed::sparse
