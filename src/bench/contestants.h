// What takes part in a comparison: the registry's rows that have a core.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "heed/bench/compare.h"
#include "heed/mixers/token_mixer.h"
#include "heed/registry.h"

namespace heed::bench {

/// Shape of the tensors a mechanism is built for.
struct CoreShape {
  int64_t heads = 1, kv_heads = 1, head_dim = 1, length = 1, trained_length = 1;
  torch::ScalarType dtype = torch::kFloat32;
};

struct Contestant {
  const RegistryRow* row = nullptr;
  std::string name;
  bool one_query = false;
  bool causal = true;
  bool configured = false;  ///< the user gave settings: what they don't fit is an error, not a reason to skip
  nlohmann::json settings = nlohmann::json::object();

  /// The core for tensors of a shape. Throws heed::Error where the mechanism can't be built for it.
  std::function<torch::Tensor(const CoreInput&)> prepare(const CoreShape& shape) const;
};

/// Those of the registry that `options` leave. Throws heed::Error for a name that is not there.
std::vector<Contestant> contestants(const CompareOptions& options);

}  // namespace heed::bench
