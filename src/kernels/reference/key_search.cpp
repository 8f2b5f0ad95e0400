#include "heed/kernels/key_search.h"

#include <numeric>

#include "kernels/key_search_walk.h"
#include "kernels/reference/element.h"

namespace heed::kernels::reference {
namespace {

struct Products {
  const SearchedKeys& keys;

  struct Block {
    const Products& of;
    int64_t b = 0, h = 0, first = 0, end = 0, stride = 1;
    std::vector<double> row = {};
    std::vector<int32_t> places = {};

    explicit Block(const Products& products) : of(products) {}
    void begin(int64_t batch, int64_t head, int64_t from, int64_t to, int64_t step) {
      b = batch, h = head, first = from, end = to, stride = step;
    }
    void best(const std::vector<BandEntry>& entries, double* to) {
      row.resize(entries.size());
      std::fill_n(to, entries.size(), -std::numeric_limits<double>::infinity());
      for (int64_t i = first; i < end; i += stride) {
        of(b, h, i, entries, row.data());
        for (size_t e = 0; e < row.size(); ++e)
          if (row[e] > to[e]) to[e] = row[e];
      }
    }
    const int32_t* largest(const std::vector<double>& scores, int64_t count) {
      places.resize(scores.size());
      std::iota(places.begin(), places.end(), 0);
      std::stable_sort(places.begin(), places.end(), [&](int32_t x, int32_t y) { return scores[x] > scores[y]; });
      std::sort(places.begin(), places.begin() + count);
      return places.data();
    }
  };

  void operator()(int64_t b, int64_t h, int64_t i, const std::vector<BandEntry>& entries, double* to) const {
    for (const auto& entry : entries) {
      double sum = 0;
      for (int64_t d = 0; d < keys.q.size[3]; ++d)
        sum += load_element(keys.q, b, h, i, d) *
               load_element(keys.k, b, h * keys.k.size[1] / keys.q.size[1], entry.token, d);
      to[entry.place] = sum;
    }
  }
};

}  // namespace

void tree_search(const TreeSearchParams& p) {
  check(p);
  search_tree(p, Products{p.keys});
}

void jump_search(const JumpSearchParams& p) {
  check(p);
  search_jumps(p, Products{p.keys});
}

}  // namespace heed::kernels::reference
