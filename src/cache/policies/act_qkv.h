// The probe of ActQKV, and how its layers share a budget.
#pragma once

#include <torch/torch.h>

#include <vector>

namespace heed::cache {

/// How unusual each of the queries q [B, Hq, n, D] is among them: float64 [B, n], the squared deviation from the mean
/// in units of the variance, averaged over all channels that vary. 1 on average; the same for a q + b per channel.
torch::Tensor activation_bias(const torch::Tensor& q);

/// The mean of q [B, Hq, n, D] weighted by activation bias, float [B, Hq, 1, D]; the plain one where queries are equal.
torch::Tensor probe_query(const torch::Tensor& q);

/// Shares of layers that want `wanted` blocks each (1 or more), in proportion as far as `least` to 2 * `mean` allows;
/// they are `mean` on average exactly. `least` is at most `mean`.
std::vector<int64_t> layer_budgets(const std::vector<int64_t>& wanted, int64_t mean, int64_t least);

}  // namespace heed::cache
