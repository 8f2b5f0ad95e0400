// Kernels against this machine's own limits, measured beside each of them, and against what libtorch offers.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "heed/bench/kernel_case.h"

namespace heed::bench {

/// One measured case. Times are medians.
struct KernelResult {
  KernelCase shape;
  double time_ms = 0;
  /// GFLOP/s, GB/s or 1e9 states a second, by the case's bound, measured beside it; of tiles the peak times what of
  /// their work is useful.
  double limit = 0;
  double rate = 0;  ///< useful work in the limit's unit
  double peak_gflops = 0, read_gbps = 0;
  int64_t extra_bytes = 0;  ///< most scratch that was allocated at once, beside the outputs
  double error = 0;         ///< of the check, relative L2
  int repetitions = 0;
  double ratio = 0;  ///< to the partner, by the case's rule; 0: none

  double share() const { return rate / limit; }
};

/// Checks a case against the double reference, times it, and measures its limit before, between and after. `partner`,
/// where the case has one, is timed in turn with it. Throws Refused when the check fails or the rate exceeds the limit.
KernelResult measure_kernel(const KernelCase& c, const KernelCase* partner = nullptr);

/// Median seconds of a case, unchecked.
double time_kernel(const KernelCase& c);

/// Scratch of a dense forward call of one head, head size 64, at a length: by formula and as allocated.
struct MemoryResult {
  int64_t length, formula_bytes, measured_bytes;
};
MemoryResult measure_memory(int64_t length);

/// How a peer of heed did on a case; skipped ones say why.
struct PeerResult {
  KernelCase shape;
  std::string peer;
  double peer_ms = 0, heed_ms = 0;
  std::string skipped;

  double ratio() const { return peer_ms / heed_ms; }
};

/// The same case through libtorch's scaled_dot_product_attention and through a product, a softmax and a product, in
/// turn with heed. A case whose N x M tensors would not fit the free memory is skipped.
std::vector<PeerResult> measure_peers(const KernelCase& c);

/// {"kernel","case","dtype","B","Hq","Hkv","N","M","D","time_ms","limit","share","extra_bytes","checked", ...}
nlohmann::ordered_json to_json(const KernelResult& result);
nlohmann::ordered_json to_json(const PeerResult& result);

}  // namespace heed::bench
