// The searches, whatever computes the products, in float or in double: products(b, h, i, entries, to) sets to[place] of
// every entry; a Products::Block(products), of which begin(b, h, first, end, stride) has said which queries it holds,
// sets to[place] to the largest of their products by best(entries, to), where NaN lies below everything, and lists the
// places of the largest of a few scores by largest(scores, count), ascending, of equal ones the first.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "heed/kernels/key_search.h"
#include "heed/kernels/runtime.h"
#include "kernels/band_list.h"

namespace heed::kernels {

template <class Products>
using ScoreOf =
    std::conditional_t<std::is_invocable_v<Products, int64_t, int64_t, int64_t, const std::vector<BandEntry>&, float*>,
                       float, double>;

inline bool is_hidden(const SearchedKeys& keys, int64_t b, int64_t j) {
  return keys.hidden != nullptr && keys.hidden[b * keys.hidden_stride + j] != 0;
}

/// Calls visit(search, b, h, item) with a `Search` of the thread's own.
template <class Search, class Params, class Products>
void each_search(const Params& p, const Products& products, int64_t items) {
  const int64_t heads = p.keys.q.size[1], all = p.keys.q.size[0] * heads * items;
  if (all == 0) return;
  const int threads = static_cast<int>(std::min<int64_t>(num_threads(), all));
#pragma omp parallel num_threads(threads)
  {
    Search search(p, products);
#pragma omp for schedule(dynamic, 4)
    for (int64_t item = 0; item < all; ++item) search.run(item / items / heads, item / items % heads, item % items);
  }
}

template <class Products>
class TreeSearch {
 public:
  using Score = ScoreOf<Products>;
  TreeSearch(const TreeSearchParams& p, const Products& products) : p_(p), block_(products) {}

  void run(int64_t b, int64_t h, int64_t query_block) {
    const int64_t queries = p_.keys.q.size[2], keys = p_.keys.k.size[2];
    const int64_t first = query_block * p_.query_block, end = std::min(queries, first + p_.query_block);
    keys_ = end + keys - queries;  // up to the last position
    const int64_t all = keys_ <= 0 ? 0 : (keys_ + p_.key_block - 1) / p_.key_block, count = std::min(p_.blocks, all);
    nodes_.clear();
    for (int64_t n = 0; n < count; ++n) nodes_.push_back({n * all / count, (n + 1) * all / count});
    block_.begin(b, h, first, end, p_.row_stride);
    int64_t scored = 0;
    while (std::any_of(nodes_.begin(), nodes_.end(), [](const Node& n) { return n.end - n.begin > 1; })) {
      split();
      scored += score(b);
      keep(count);
    }
    int32_t* list = p_.lists.row(b, h, query_block);
    std::fill_n(list, p_.lists.size[3], -1);
    for (const Node& node : nodes_) *list++ = static_cast<int32_t>(node.begin);
    if (p_.scored) p_.scored.at(b, h, query_block) = scored;
  }

 private:
  /// Key blocks [begin, end).
  struct Node {
    int64_t begin, end;
    Score score = 0;
    bool known = false;  ///< the score
  };

  void split() {
    halves_.clear();
    for (const Node& node : nodes_) {
      if (node.end - node.begin == 1) {
        halves_.push_back(node);
        continue;
      }
      const int64_t middle = (node.begin + node.end + 1) / 2;
      // The first block of a node is that of its first half, too.
      const bool known = node.known && p_.representative == Representative::first;
      halves_.push_back({node.begin, middle, node.score, known});
      halves_.push_back({middle, node.end});
    }
  }

  /// Scores those of halves_ whose scores are not known; how many blocks that took.
  int64_t score(int64_t b) {
    entries_.clear();
    ends_.clear();
    int64_t blocks = 0;
    for (const Node& node : halves_) {
      if (node.known) continue;
      int64_t begin = node.begin, end = node.end;
      if (p_.representative == Representative::center) begin = (begin + end - 1) / 2;
      if (p_.representative != Representative::whole) end = begin + 1;
      blocks += end - begin;
      for (int64_t j = begin * p_.key_block; j < std::min(end * p_.key_block, keys_); ++j) {
        if (is_hidden(p_.keys, b, j)) continue;
        entries_.push_back({static_cast<int32_t>(j), static_cast<int32_t>(entries_.size())});
      }
      ends_.push_back(entries_.size());
    }
    best_.resize(entries_.size());
    block_.best(entries_, best_.data());
    size_t at = 0, next = 0;
    for (Node& node : halves_) {
      if (node.known) continue;
      node.score = -std::numeric_limits<Score>::infinity(), node.known = true;
      for (const size_t end = ends_[next++]; at < end; ++at) node.score = std::max(node.score, best_[at]);
    }
    return blocks;
  }

  /// nodes_ become the `count` best of halves_, in their order.
  void keep(int64_t count) {
    scores_.clear();
    for (const Node& node : halves_) scores_.push_back(node.score);
    const int32_t* kept = block_.largest(scores_, count);
    nodes_.clear();
    for (int64_t n = 0; n < count; ++n) nodes_.push_back(halves_[kept[n]]);
  }

  const TreeSearchParams& p_;
  typename Products::Block block_;
  int64_t keys_ = 0;
  std::vector<Node> nodes_, halves_;
  std::vector<BandEntry> entries_;
  std::vector<size_t> ends_;
  std::vector<Score> best_, scores_;
};

template <class Products>
class JumpSearch {
 public:
  using Score = ScoreOf<Products>;
  JumpSearch(const JumpSearchParams& p, const Products& products) : p_(p), products_(products) {}

  void run(int64_t b, int64_t h, int64_t i) {
    const int64_t position = i + p_.keys.k.size[2] - p_.keys.q.size[2], top = p_.anchors.size[3];
    entries_.clear();
    for (int64_t o = 0; o < p_.num_offsets && p_.offsets[o] <= position; ++o) {
      const int64_t j = position - p_.offsets[o];
      if (!is_hidden(p_.keys, b, j))
        entries_.push_back({static_cast<int32_t>(j), static_cast<int32_t>(entries_.size())});
    }
    scores_.resize(entries_.size());
    products_(b, h, i, entries_, scores_.data());
    for (Score& score : scores_)
      if (std::isnan(score)) score = -std::numeric_limits<Score>::infinity();
    const auto count = static_cast<size_t>(std::min<int64_t>(top, static_cast<int64_t>(entries_.size())));
    std::partial_sort(entries_.begin(), entries_.begin() + static_cast<int64_t>(count), entries_.end(),
                      [&](const BandEntry& x, const BandEntry& y) {
                        const Score a = scores_[x.place], c = scores_[y.place];
                        return a > c || (a == c && x.token < y.token);
                      });
    int32_t* to = p_.anchors.row(b, h, i);
    for (int64_t r = 0; r < top; ++r) to[r] = r < static_cast<int64_t>(count) ? entries_[r].token : -1;
  }

 private:
  const JumpSearchParams& p_;
  const Products& products_;
  std::vector<BandEntry> entries_;
  std::vector<Score> scores_;
};

template <class Products>
void search_tree(const TreeSearchParams& p, const Products& products) {
  each_search<TreeSearch<Products>>(p, products, (p.keys.q.size[2] + p.query_block - 1) / p.query_block);
}

template <class Products>
void search_jumps(const JumpSearchParams& p, const Products& products) {
  each_search<JumpSearch<Products>>(p, products, p.keys.q.size[2]);
}

}  // namespace heed::kernels
