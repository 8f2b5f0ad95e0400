// Keys with a large inner product, found along the edges of a graph that was built with queries in mind.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace heed::cache {

/// Rows of float keys in memory that the caller owns.
struct KeyRows {
  const float* data = nullptr;
  int64_t count = 0, dim = 0;
  int64_t stride = 0;  ///< floats from row to row

  const float* row(int64_t i) const { return data + i * stride; }
};

/// The search index of RetrievalAttention (arXiv 2409.10516): queries and keys of attention are distributed apart, so
/// neighbours are what queries found together (RoarGraph, arXiv 2408.08933), not what lies together. The queries are
/// not kept. Keys are not copied: every call gets the same rows.
class KeyGraph {
 public:
  KeyGraph() = default;
  /// `found`: lists of `width` keys, best first, one a query; below 0: none. Each list's best key is linked with its
  /// others; a key keeps at most `degree` of its links, those to keys nearer to it than to links already kept first.
  /// Then keys that can't be reached from the entry, the longest key, get a link from a near one that can.
  KeyGraph(const KeyRows& keys, std::span<const int32_t> found, int64_t width, int64_t degree);

  struct Found {
    std::vector<int32_t> keys;  ///< best first
    int64_t scanned = 0;        ///< keys whose product was taken
  };
  /// The `count` best keys of a best-first search that keeps `beam` (at least `count`); with as many as there are keys
  /// it is exact.
  Found search(const KeyRows& keys, const float* query, int64_t beam, int64_t count) const;

  /// Keys that lie on paths from the entry; all of them.
  int64_t reachable() const;
  int64_t bytes() const { return int64_t((offsets_.size() + edges_.size()) * sizeof(int32_t)); }

 private:
  std::span<const int32_t> links(int64_t key) const {
    return {edges_.data() + offsets_[key], size_t(offsets_[key + 1] - offsets_[key])};
  }

  int32_t entry_ = 0;
  std::vector<int32_t> offsets_, edges_;
};

}  // namespace heed::cache
