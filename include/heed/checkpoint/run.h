// Applying one mechanism to the tensors of a file: what `heed run` does, and how a doubted kernel is checked from
// outside.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

namespace heed::checkpoint {

struct RunRequest {
  std::string name;               ///< a mixer, core:MIXER, or op:OPERATOR
  std::filesystem::path in, out;  ///< safetensors
  nlohmann::json settings = nlohmann::json::object();
  uint64_t seed = 0;              ///< of a mixer's weights and of dropout
  std::filesystem::path weights;  ///< a mixer's parameters; empty: drawn from the seed
  std::filesystem::path save_weights;
  bool grad = false;  ///< also the gradients of sum(out * grad), as d_NAME of every floating input
};

/// Reads, applies, writes `out` and, where there is one, `lse` or `state`. A mixer takes x [B, N, C], and memory,
/// key_padding, cu_seqlens, positions, grid where given (of a mixer that needs one also as the setting grid, "16x24");
/// an operator or core takes q, k, v [B, H, N, D] and the optional tensors of attention or of the recurrence
/// (log_decay, beta, initial_state) under their names; scans and Toeplitz products take the arguments of their ops
/// (heed/ops/). float64 in gives float64 out. Throws heed::Error before anything is written.
void run(const RunRequest& request);

}  // namespace heed::checkpoint
