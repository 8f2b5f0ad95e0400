// Searches for the keys of the largest products with a query, whose width trades what they scan for what they find.
#pragma once

#include <torch/torch.h>

#include <memory>
#include <vector>

namespace heed::probe {

class KeySearch {
 public:
  struct Found {
    std::vector<int64_t> keys;
    int64_t scanned = 0;  ///< vectors whose product or distance was taken
  };
  virtual ~KeySearch() = default;
  /// About `count` keys; with the largest width all are scanned.
  virtual Found search(const float* query, int64_t width, int64_t count) const = 0;
  /// From narrow to wide.
  virtual std::vector<int64_t> widths(int64_t count) const = 0;
};

/// KeyGraph of what `queries` float [n, D] find among `keys` float [m, D], which must outlive it.
std::unique_ptr<KeySearch> graph_search(const torch::Tensor& queries, const torch::Tensor& keys);
std::unique_ptr<KeySearch> hnsw_search(const torch::Tensor& keys, uint64_t seed);
/// Lists of keys around means; those of the means with the largest products are scanned.
std::unique_ptr<KeySearch> ivf_search(const torch::Tensor& keys, uint64_t seed);

}  // namespace heed::probe
