#include "heed/kernels/key_search.h"
#include "kernels/key_search_walk.h"
#include "kernels/reference/element.h"

namespace heed::kernels::reference {
namespace {

struct Products {
  const SearchedKeys& keys;

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
