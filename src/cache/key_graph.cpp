#include "cache/key_graph.h"

#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <queue>

namespace heed::cache {
namespace {

using Links = std::vector<std::vector<int32_t>>;

/// Beam of the searches that connect what no query found.
constexpr int64_t kConnectBeam = 16;

/// NaN is below everything.
float product(const float* a, const float* b, int64_t dim) {
  constexpr int64_t kLanes = 16;
  std::array<float, kLanes> sums{};
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) sums[l] += a[i + l] * b[i + l];
  float sum = 0;
  for (const float lane : sums) sum += lane;
  for (; i < dim; ++i) sum += a[i] * b[i];
  return sum == sum ? sum : -std::numeric_limits<float>::infinity();
}

struct Scored {
  float score;
  int32_t key;
  /// Of equal scores the lower key is better.
  bool operator<(const Scored& other) const { return score != other.score ? score < other.score : key > other.key; }
  bool operator>(const Scored& other) const { return other < *this; }
};

/// Best-first over links_of(key). Returns the best `beam`, best first, and counts products.
template <class LinksOf>
std::vector<Scored> best_first(const KeyRows& keys, const float* query, int32_t entry, int64_t beam,
                               const LinksOf& links_of, int64_t& scanned) {
  std::vector<bool> seen(size_t(keys.count), false);
  std::priority_queue<Scored> open;
  std::priority_queue<Scored, std::vector<Scored>, std::greater<>> best;  // the worst of the beam on top
  const auto look = [&](int32_t key) {
    if (seen[key]) return;
    seen[key] = true;
    ++scanned;
    const Scored scored{product(query, keys.row(key), keys.dim), key};
    if (int64_t(best.size()) == beam && scored < best.top()) return;
    open.push(scored);
    best.push(scored);
    if (int64_t(best.size()) > beam) best.pop();
  };
  look(entry);
  while (!open.empty()) {
    const auto next = open.top();
    open.pop();
    if (int64_t(best.size()) == beam && next < best.top()) break;
    for (const int32_t key : links_of(next.key)) look(key);
  }
  std::vector<Scored> found(best.size());
  for (size_t i = found.size(); i-- > 0; best.pop()) found[i] = best.top();
  return found;
}

/// Of the keys linked with `pivot` at most `degree`: nearest first, those nearer to a kept one put back.
std::vector<int32_t> pruned(const KeyRows& keys, int32_t pivot, std::vector<int32_t> linked, int64_t degree) {
  std::sort(linked.begin(), linked.end());
  linked.erase(std::unique(linked.begin(), linked.end()), linked.end());
  const auto distance = [&](int32_t a, int32_t b) {
    const float* x = keys.row(a);
    const float* y = keys.row(b);
    float sum = 0;
    for (int64_t i = 0; i < keys.dim; ++i) sum += (x[i] - y[i]) * (x[i] - y[i]);
    return sum == sum ? sum : std::numeric_limits<float>::infinity();
  };
  std::vector<std::pair<float, int32_t>> nearest;
  for (const int32_t key : linked)
    if (key != pivot) nearest.emplace_back(distance(pivot, key), key);
  std::sort(nearest.begin(), nearest.end());
  std::vector<int32_t> kept, behind;
  for (const auto& [far, key] : nearest) {
    if (int64_t(kept.size()) == degree) break;
    const bool alone = std::none_of(kept.begin(), kept.end(), [&](int32_t k) { return distance(k, key) < far; });
    (alone ? kept : behind).push_back(key);
  }
  for (size_t i = 0; i < behind.size() && int64_t(kept.size()) < degree; ++i) kept.push_back(behind[i]);
  return kept;
}

/// Marks what can be reached from `from` over keys not yet marked, and counts it.
template <class LinksOf>
int64_t flood(int32_t from, const LinksOf& links_of, std::vector<bool>& reached) {
  std::vector<int32_t> open;
  int64_t count = 0;
  const auto mark = [&](int32_t key) {
    if (reached[key]) return;
    reached[key] = true;
    ++count;
    open.push_back(key);
  };
  mark(from);
  while (!open.empty()) {
    const int32_t key = open.back();
    open.pop_back();
    for (const int32_t next : links_of(key)) mark(next);
  }
  return count;
}

/// Links every key that the entry does not reach with the nearest one found that has room, so that all are reached.
void connect(const KeyRows& keys, int32_t entry, int64_t degree, Links& links) {
  const auto links_of = [&](int32_t key) -> const std::vector<int32_t>& { return links[key]; };
  std::vector<bool> reached(size_t(keys.count), false);
  flood(entry, links_of, reached);
  int32_t newest = entry;
  for (int32_t key = 0; key < keys.count; ++key) {
    if (reached[key]) continue;
    int64_t scanned = 0;
    // Where all that are near have no room, keys hang on one another in a chain.
    int32_t parent = newest;
    for (const auto& near : best_first(keys, keys.row(key), entry, kConnectBeam, links_of, scanned)) {
      if (int64_t(links[near.key].size()) >= 2 * degree) continue;
      parent = near.key;
      break;
    }
    links[parent].push_back(key);
    links[key].push_back(parent);
    flood(key, links_of, reached);
    newest = key;
  }
}

}  // namespace

KeyGraph::KeyGraph(const KeyRows& keys, std::span<const int32_t> found, int64_t width, int64_t degree) {
  float longest = -1;
  for (int32_t key = 0; key < keys.count; ++key) {
    const float norm = product(keys.row(key), keys.row(key), keys.dim);
    if (norm > longest) longest = norm, entry_ = key;
  }
  Links links{size_t(keys.count)};
  for (size_t list = 0; list + size_t(width) <= found.size(); list += size_t(width)) {
    const int32_t best = found[list];
    for (int64_t i = 1; best >= 0 && i < width && found[list + i] >= 0; ++i) {
      links[best].push_back(found[list + i]);
      links[found[list + i]].push_back(best);
    }
  }
  for (int32_t key = 0; key < keys.count; ++key) links[key] = pruned(keys, key, std::move(links[key]), degree);
  if (keys.count > 0) connect(keys, entry_, degree, links);
  offsets_.push_back(0);
  for (const auto& of_key : links) {
    edges_.insert(edges_.end(), of_key.begin(), of_key.end());
    offsets_.push_back(int32_t(edges_.size()));
  }
  edges_.shrink_to_fit();
  offsets_.shrink_to_fit();
}

KeyGraph::Found KeyGraph::search(const KeyRows& keys, const float* query, int64_t beam, int64_t count) const {
  Found found;
  if (keys.count == 0) return found;
  const auto links_of = [&](int32_t key) { return links(key); };
  for (const auto& scored : best_first(keys, query, entry_, beam, links_of, found.scanned)) {
    if (int64_t(found.keys.size()) == count) break;
    found.keys.push_back(scored.key);
  }
  return found;
}

int64_t KeyGraph::reachable() const {
  if (offsets_.size() < 2) return 0;
  std::vector<bool> reached(offsets_.size() - 1, false);
  return flood(
      entry_, [&](int32_t key) { return links(key); }, reached);
}

}  // namespace heed::cache
