// How far an estimate of attention lies from the attention.
#pragma once

#include <torch/torch.h>

namespace heed::cache {

/// Root of the Jensen-Shannon divergence, in nats, of distributions along the last dimension: 0 to sqrt(ln 2).
torch::Tensor jensen_shannon_distance(const torch::Tensor& p, const torch::Tensor& q);

}  // namespace heed::cache
