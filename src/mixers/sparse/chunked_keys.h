// A sequence cut into chunks while it grows: where they end, and a vector of each.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <vector>

#include "mixers/sparse/chunk_borders.h"

namespace heed::sparse {

struct ChunkRule {
  BorderRule borders;
  int64_t window = 16;  ///< keys on either side that tell a border; borders.lag at least, or 0 where nothing tells one
  double power = 0.5;   ///< the vector of a chunk of n real keys is their sum / n^power
};

/// Chunks of the keys of every batch item. A border before token i is known once i + lag tokens are there: what is told
/// of it then does not change. A call costs its own tokens and the chunks that it closes.
class ChunkedKeys {
 public:
  /// bool [B, tokens] of keys [B, Hk, tokens, D]: where a border may stand.
  using Candidates = std::function<torch::Tensor(const torch::Tensor& keys)>;

  explicit ChunkedKeys(const ChunkRule& rule) : rule_(rule) {}

  /// The next tokens: keys [B, Hk, n, D] and which of them are padding, bool [B, n].
  void append(const torch::Tensor& keys, const torch::Tensor& hidden, const Candidates& candidates);

  int64_t tokens() const { return tokens_; }
  /// Ends of the chunks of item b, ascending; a chunk begins where the one before ends.
  const std::vector<int64_t>& ends(int64_t b) const { return items_[size_t(b)].ends; }
  int64_t begin(int64_t b, int64_t chunk) const { return chunk == 0 ? 0 : ends(b)[size_t(chunk - 1)]; }
  /// Chunks whose ends the query at token t knows.
  int64_t closed(int64_t b, int64_t t) const;
  /// Tokens of [begin, end) that are no padding.
  int64_t real(int64_t b, int64_t begin, int64_t end) const {
    const auto& before = items_[size_t(b)].real_before;
    return before[size_t(end)] - before[size_t(begin)];
  }
  /// bool [B, tokens]: padding.
  torch::Tensor hidden() const;
  /// double [B, Hk, chunks or more, D].
  const torch::Tensor& vectors() const { return vectors_; }
  /// The first token of what no chunk of some item holds yet.
  int64_t first_open() const;
  int64_t bytes() const;
  ChunkedKeys clone() const;

 private:
  struct Item {
    std::vector<int64_t> ends;
    std::vector<int32_t> real_before{0};  ///< of every token, and of the end
  };
  void close(int64_t b, int64_t end, const torch::Tensor& recent);

  ChunkRule rule_;
  std::vector<Item> items_;
  torch::Tensor vectors_;
  torch::Tensor recent_;  ///< keys of the last tokens, those of open chunks and those that tell borders
  int64_t tokens_ = 0, settled_ = 0, recent_begin_ = 0;
};

/// What queries ask by: for each of the `count` tokens behind `past` the sum / n^power of the n real queries of what is
/// open to it, up to it, as double [B, Hq, count, D]. `queries` [B, Hq, n, D] are of tokens `first` on.
torch::Tensor open_queries(const ChunkedKeys& chunks, const torch::Tensor& queries, int64_t first, int64_t past,
                           int64_t count, double power);

}  // namespace heed::sparse
