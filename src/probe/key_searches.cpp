#include "probe/key_searches.h"

#include <hnswlib/hnswlib.h>

#include <cmath>

#include "cache/key_graph.h"
#include "heed/nn/generator.h"

namespace heed::probe {
namespace {

using torch::Tensor;

constexpr int64_t kNear = 32, kDegree = 32;               // of the graph: what a query links, and links a key keeps
constexpr int64_t kNeighbours = 16, kConstruction = 200;  // of HNSW
constexpr int64_t kRounds = 10;                           // of k-means

std::vector<int64_t> growing(int64_t from, int64_t to) {
  std::vector<int64_t> widths;
  for (int64_t width = from; width < to; width += std::max<int64_t>(1, width / 4)) widths.push_back(width);
  widths.push_back(to);
  return widths;
}

class GraphSearch final : public KeySearch {
 public:
  GraphSearch(const Tensor& queries, const Tensor& keys) : keys_(keys) {
    const int64_t near = std::min<int64_t>(kNear, keys.size(0));
    std::vector<Tensor> lists;
    for (const auto& part : queries.split(256))
      lists.push_back(std::get<1>(part.matmul(keys.t()).topk(near, 1)).to(torch::kInt32));
    const auto found = torch::cat(lists).contiguous();
    graph_ = cache::KeyGraph(rows(), {found.data_ptr<int32_t>(), size_t(found.numel())}, near, kDegree);
  }
  Found search(const float* query, int64_t width, int64_t count) const override {
    const auto found = graph_.search(rows(), query, width, count);
    return {{found.keys.begin(), found.keys.end()}, found.scanned};
  }
  std::vector<int64_t> widths(int64_t count) const override { return growing(count, keys_.size(0)); }

 private:
  cache::KeyRows rows() const { return {keys_.data_ptr<float>(), keys_.size(0), keys_.size(1), keys_.size(1)}; }

  Tensor keys_;
  cache::KeyGraph graph_;
};

/// Minus the inner product, counted.
class CountedProduct final : public hnswlib::SpaceInterface<float> {
 public:
  explicit CountedProduct(size_t dim) : state_{dim, 0} {}
  size_t get_data_size() override { return state_.dim * sizeof(float); }
  hnswlib::DISTFUNC<float> get_dist_func() override { return distance; }
  void* get_dist_func_param() override { return &state_; }
  ~CountedProduct() override = default;

  int64_t counted() const { return state_.count; }

 private:
  struct State {
    size_t dim;
    int64_t count;
  };
  static float distance(const void* a, const void* b, const void* state) {
    auto& own = *static_cast<State*>(const_cast<void*>(state));
    ++own.count;
    const auto *x = static_cast<const float*>(a), *y = static_cast<const float*>(b);
    float sum = 0;
    for (size_t i = 0; i < own.dim; ++i) sum += x[i] * y[i];
    return -sum;
  }
  State state_;
};

class HnswSearch final : public KeySearch {
 public:
  HnswSearch(const Tensor& keys, uint64_t seed)
      : count_(keys.size(0)),
        space_(size_t(keys.size(1))),
        index_(&space_, size_t(keys.size(0)), kNeighbours, kConstruction, seed) {
    for (int64_t i = 0; i < count_; ++i) index_.addPoint(keys[i].data_ptr<float>(), size_t(i));
  }
  Found search(const float* query, int64_t width, int64_t count) const override {
    index_.setEf(size_t(width));
    const int64_t before = space_.counted();
    Found found;
    for (auto best = index_.searchKnn(query, size_t(count)); !best.empty(); best.pop())
      found.keys.push_back(int64_t(best.top().second));
    found.scanned = space_.counted() - before;
    return found;
  }
  std::vector<int64_t> widths(int64_t count) const override { return growing(count, count_); }

 private:
  int64_t count_;
  CountedProduct space_;
  mutable hnswlib::HierarchicalNSW<float> index_;
};

class IvfSearch final : public KeySearch {
 public:
  IvfSearch(const Tensor& keys, uint64_t seed) : keys_(keys) {
    const auto lists = std::max<int64_t>(1, std::llround(std::sqrt(double(keys.size(0)))));
    auto generator = nn::seeded_generator(seed);
    means_ = keys.index_select(0, torch::randperm(keys.size(0), generator).slice(0, 0, lists)).clone();
    Tensor nearest;
    for (int64_t round = 0; round < kRounds; ++round) {
      nearest = std::get<1>(torch::cdist(keys, means_).min(1));
      const auto counts = torch::zeros({lists}).index_add_(0, nearest, torch::ones({keys.size(0)}));
      const auto sums = torch::zeros_like(means_).index_add_(0, nearest, keys);
      // A mean that no key is nearest to stays where it is.
      means_ = torch::where(counts.unsqueeze(1) > 0, sums / counts.clamp_min(1).unsqueeze(1), means_);
    }
    nearest = std::get<1>(torch::cdist(keys, means_).min(1));
    lists_.resize(size_t(lists));
    for (int64_t i = 0; i < keys.size(0); ++i) lists_[size_t(nearest[i].item<int64_t>())].push_back(i);
  }
  Found search(const float* query, int64_t width, int64_t count) const override {
    const auto q = torch::from_blob(const_cast<float*>(query), {keys_.size(1)});
    const auto order = means_.mv(q).argsort(0, true);
    Found found;
    for (int64_t i = 0; i < std::min<int64_t>(width, order.size(0)); ++i)
      for (const int64_t key : lists_[size_t(order[i].item<int64_t>())]) found.keys.push_back(key);
    found.scanned = means_.size(0) + int64_t(found.keys.size());
    if (int64_t(found.keys.size()) <= count) return found;
    const auto candidates = torch::tensor(found.keys);
    const auto best = std::get<1>(keys_.index_select(0, candidates).mv(q).topk(count));
    const auto chosen = candidates.index_select(0, best);
    found.keys.assign(chosen.data_ptr<int64_t>(), chosen.data_ptr<int64_t>() + count);
    return found;
  }
  std::vector<int64_t> widths(int64_t) const override { return growing(1, means_.size(0)); }

 private:
  Tensor keys_, means_;
  std::vector<std::vector<int64_t>> lists_;
};

}  // namespace

std::unique_ptr<KeySearch> graph_search(const Tensor& queries, const Tensor& keys) {
  return std::make_unique<GraphSearch>(queries, keys);
}
std::unique_ptr<KeySearch> hnsw_search(const Tensor& keys, uint64_t seed) {
  return std::make_unique<HnswSearch>(keys, seed);
}
std::unique_ptr<KeySearch> ivf_search(const Tensor& keys, uint64_t seed) {
  return std::make_unique<IvfSearch>(keys, seed);
}

}  // namespace heed::probe
