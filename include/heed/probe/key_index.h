// How much of a layer's keys different indices scan for the ones that queries attend to, and how far apart queries and
// keys lie (RetrievalAttention, arXiv 2409.10516).
#pragma once

#include <torch/torch.h>

#include <functional>
#include <string>
#include <vector>

#include "heed/models/decoder_lm.h"

namespace heed::probe {

struct KeyIndexOptions {
  int64_t ask = 64;             ///< last tokens of the text, whose queries ask for keys before them
  int64_t top = 20;             ///< keys of the largest products that are to be found
  double recall = 0.95;         ///< share of them
  int64_t sinks = 4;            ///< first tokens, which are read anyway
  std::vector<int64_t> layers;  ///< empty: all of plain dense attention
};

/// A search index over the keys of one KV head.
struct KeyIndex {
  std::string name;    ///< query graph, key graph, hnsw, ivf
  double scanned = 1;  ///< share of keys whose product is taken until the recall is reached; 1 where it is not
  double build_seconds = 0;
};

/// Means over KV heads.
struct KeyIndexReport {
  int64_t layer = 0;
  int64_t keys = 0;               ///< of each head
  std::vector<KeyIndex> indices;  ///< the same ones in every layer
  /// Mean Mahalanobis distances to the distribution of every other key: of the keys between, and of queries. Queries
  /// that lie farther away are what an index built of keys alone is bad at.
  double key_distance = 0, query_distance = 0;
};

/// Of tokens int64 [1, N]. The query graph is built from the queries before the asking ones, the key graph from the
/// keys in their place; HNSW (arXiv 1603.09320) by hnswlib with M = 16 and ef_construction = 200; IVF with sqrt(N)
/// lists of 10 rounds of k-means. Throws heed::Error for texts too short for `ask` and `top`.
std::vector<KeyIndexReport> compare_key_indices(DecoderLm& model, const torch::Tensor& tokens,
                                                const KeyIndexOptions& options,
                                                const std::function<void(int64_t done, int64_t total)>& progress = {});

/// Queries [n, D] and keys [m, D] of one head: the indices, for `asked` [a, D].
std::vector<KeyIndex> key_indices(const torch::Tensor& queries, const torch::Tensor& keys, const torch::Tensor& asked,
                                  int64_t top, double recall, uint64_t seed = 0);

/// Mean Mahalanobis distance of x [n, D] to the distribution of `keys` [m, D].
double mahalanobis(const torch::Tensor& x, const torch::Tensor& keys);

}  // namespace heed::probe
