#include "heed/kernels/key_search.h"

#include "heed/kernels/runtime.h"
#include "kernels/cpu/band_task.h"
#include "kernels/key_search_walk.h"

namespace heed::kernels {
namespace {

/// Products of query rows with keys of their head, many keys at once.
class FastProducts {
 public:
  explicit FastProducts(const SearchedKeys& keys) : q_(keys.q.as<float>()), k_(keys.k.as<float>()) {}

  void operator()(int64_t b, int64_t h, int64_t i, const std::vector<BandEntry>& entries, float* to) const {
    const BandRow of{entries.data(), static_cast<int64_t>(entries.size()), k_.row(b, h * k_.size[1] / q_.size[1], 0),
                     k_.stride[2], k_.size[3]};
    band_row_scores(of, q_.row(b, h, i), 1, to);
  }

 private:
  View<float> q_, k_;
};

}  // namespace

void tree_search(const TreeSearchParams& p) {
  if (use_reference() || p.keys.q.dtype == DType::f64) return reference::tree_search(p);
  check(p);
  search_tree(p, FastProducts(p.keys));
}

void jump_search(const JumpSearchParams& p) {
  if (use_reference() || p.keys.q.dtype == DType::f64) return reference::jump_search(p);
  check(p);
  search_jumps(p, FastProducts(p.keys));
}

}  // namespace heed::kernels
