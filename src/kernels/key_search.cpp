#include "heed/kernels/key_search.h"

#include "heed/kernels/runtime.h"
#include "kernels/cpu/key_maxima.h"
#include "kernels/cpu/radix_select.h"
#include "kernels/key_search_walk.h"

namespace heed::kernels {
namespace {

/// Products of query rows with keys of their head, many keys at once.
class FastProducts {
 public:
  explicit FastProducts(const SearchedKeys& keys) : q_(keys.q.as<float>()), k_(keys.k.as<float>()) {}

  void operator()(int64_t b, int64_t h, int64_t i, const std::vector<BandEntry>& entries, float* to) const {
    band_row_scores(rows(b, h, entries), q_.row(b, h, i), 1, to);
  }

  /// A block of queries, packed.
  class Block {
   public:
    explicit Block(const FastProducts& of) : of_(of) {}

    void begin(int64_t b, int64_t h, int64_t first, int64_t end, int64_t stride) {
      const View<float>& q = of_.q_;
      b_ = b, h_ = h, count_ = (end - first + stride - 1) / stride;
      const int64_t floats = packed_queries_floats(count_, q.size[3]);
      if (floats > floats_) packed_ = allocate(floats * static_cast<int64_t>(sizeof(float))), floats_ = floats;
      pack_queries(q.row(b, h, first), stride * q.stride[2], count_, q.size[3], static_cast<float*>(packed_.get()));
    }
    void best(const std::vector<BandEntry>& entries, float* to) const {
      key_maxima(of_.rows(b_, h_, entries), static_cast<const float*>(packed_.get()), count_, to);
    }
    const int32_t* largest(const std::vector<float>& scores, int64_t count) {
      const auto length = static_cast<int64_t>(scores.size());
      if (length > scores_) selection_ = allocate(RadixScratch::bytes(length)), scores_ = length;
      const RadixScratch scratch(selection_.get(), scores_);
      list_largest(scores.data(), length, Forced(0, 0, length), count, scratch);
      return scratch.list;
    }

   private:
    const FastProducts& of_;
    int64_t b_ = 0, h_ = 0, count_ = 0, floats_ = 0, scores_ = 0;
    kernels::Block packed_, selection_;
  };

 private:
  BandRow rows(int64_t b, int64_t h, const std::vector<BandEntry>& entries) const {
    return {entries.data(), static_cast<int64_t>(entries.size()), k_.row(b, h * k_.size[1] / q_.size[1], 0),
            k_.stride[2], k_.size[3]};
  }

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
