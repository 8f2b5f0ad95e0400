// A mechanism's core on given tensors, and how far it is from exact attention.
#pragma once

#include "heed/bench/qkv_source.h"

namespace heed::results::sparse {

/// What a core makes of tensors, and the log-sum-exp of what it attends to, where it says it.
struct Mixed {
  torch::Tensor out, lse;
};
/// `settings`: beyond the sizes of the tensors.
Mixed mixed(const std::string& mixer, nlohmann::json settings, const bench::LayerTensors& tensors);

/// Relative L2 error.
double error_of(const torch::Tensor& out, const torch::Tensor& exact);

}  // namespace heed::results::sparse
