#include "heed/nn/block_pattern.h"

#include <algorithm>

#include "heed/error.h"

namespace heed::nn {
namespace {

/// `count` rows of zeros before the first row of dimension `dim`.
torch::Tensor pad_front(const torch::Tensor& x, int64_t dim, int64_t count) {
  auto sizes = x.sizes().vec();
  sizes[dim] = count;
  return torch::cat({torch::zeros(sizes, x.options()), x}, dim);
}

}  // namespace

BlockListTensors block_lists(const BlockRule& rule, const BlockScope& scope, int64_t heads, int64_t first,
                             int64_t query_blocks, int64_t block) {
  std::vector<int64_t> offsets{0};
  std::vector<int32_t> columns;
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t b = 0; b < query_blocks; ++b) {
      auto seen = rule(scope, h, first + b);
      std::erase_if(seen, [&](int32_t j) { return j < 0 || j >= scope.key_blocks || (scope.causal && j > first + b); });
      std::sort(seen.begin(), seen.end());
      seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
      columns.insert(columns.end(), seen.begin(), seen.end());
      offsets.push_back(int64_t(columns.size()));
    }
  return {torch::tensor(offsets, torch::kInt64), torch::tensor(columns, torch::kInt32), 1, heads, block, block};
}

torch::Tensor block_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                              AttentionOptions options, const BlockRule& rule, int64_t block, bool causal,
                              CoreReport* report) {
  const int64_t n = q.size(2), m = k.size(2);
  require(m >= n, "block-sparse attention with {} queries and {} keys: at least as many keys as queries are accepted",
          n, m);
  // Query blocks are counted from the first key, so a chunk that starts inside a block is brought to its start.
  const int64_t past = m - n, lead = past % block;
  const int64_t query_blocks = (lead + n + block - 1) / block;
  options.blocks = block_lists(rule, {(m + block - 1) / block, causal}, q.size(1), past / block, query_blocks, block);
  if (lead == 0) return attention(q, k, v, options, report);
  if (options.q_documents) options.q_documents = pad_front(*options.q_documents, 1, lead);
  const auto out = attention(pad_front(q, 2, lead), k, v, options, report);
  if (report) {
    report->pairs = -1;
    if (report->lse.defined()) report->lse = report->lse.narrow(2, lead, n);
  }
  return out.narrow(2, lead, n);
}

}  // namespace heed::nn
