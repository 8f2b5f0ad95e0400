// Softmax attention from its formula, in double, independent of the kernels that it judges.
#include <cmath>

#include "heed/bench/compare.h"

namespace heed::bench {

ExactResult exact_attention(const torch::Tensor& q_in, const torch::Tensor& k_in, const torch::Tensor& v_in,
                            bool causal) {
  torch::NoGradGuard no_grad;
  constexpr int64_t kRows = 128;  // of queries at a time: nothing of N x M is held
  const int64_t batch = q_in.size(0), heads = q_in.size(1), n = q_in.size(2), m = k_in.size(2), kv_heads = k_in.size(1);
  // Heads that share keys stand in a dimension of their own.
  const auto q = q_in.to(torch::kFloat64).reshape({batch, kv_heads, heads / kv_heads, n, q_in.size(3)}) /
                 std::sqrt(static_cast<double>(q_in.size(3)));
  const auto k = k_in.to(torch::kFloat64).unsqueeze(2).transpose(3, 4), v = v_in.to(torch::kFloat64).unsqueeze(2);
  ExactResult result;
  result.out = torch::empty({batch, kv_heads, heads / kv_heads, n, v_in.size(3)}, torch::kFloat64);
  result.lse = torch::empty({batch, kv_heads, heads / kv_heads, n}, torch::kFloat64);
  for (int64_t begin = 0; begin < n; begin += kRows) {
    const int64_t end = std::min(begin + kRows, n);
    const int64_t seen = causal ? std::max<int64_t>(end + m - n, 0) : m;
    auto logits = torch::matmul(q.narrow(3, begin, end - begin), k.narrow(4, 0, seen));
    if (causal) {
      const auto own = torch::arange(begin, end).unsqueeze(1) + (m - n);
      logits.masked_fill_(torch::arange(seen).unsqueeze(0) > own, -INFINITY);
    }
    const auto lse = torch::logsumexp(logits, -1);
    result.lse.narrow(3, begin, end - begin).copy_(lse);
    const auto weights = torch::exp(logits - lse.unsqueeze(-1));
    result.out.narrow(3, begin, end - begin).copy_(torch::matmul(weights, v.narrow(3, 0, seen)));
  }
  result.out = result.out.flatten(1, 2);
  result.lse = result.lse.flatten(1, 2);
  return result;
}

}  // namespace heed::bench
