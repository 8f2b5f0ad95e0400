#include "heed/kernels/neighborhood.h"

namespace heed::kernels::reference {
namespace {

/// Pairs of a call as the mask of the plain formula.
struct Pairs {
  const NeighborhoodParams* n;

  static bool visible(const void* context, int64_t b, int64_t, int64_t i, int64_t j) {
    const NeighborhoodParams& n = *static_cast<const Pairs*>(context)->n;
    if (n.hidden_keys != nullptr && n.hidden_keys[b * n.attention.k.size[2] + j] != 0) return false;
    return j >= n.around.tokens() || sees(n.around, i, j);
  }
};

}  // namespace

void neighborhood_forward(const NeighborhoodParams& n) {
  kernels::check(n);
  const Pairs pairs{&n};
  FlashParams p = n.attention;
  p.mask = Predicate{Pairs::visible, &pairs};
  reference::flash_forward(p);
}

void neighborhood_backward(const NeighborhoodParams& n, const FlashGrads& grads) {
  kernels::check(n);
  const Pairs pairs{&n};
  FlashParams p = n.attention;
  p.mask = Predicate{Pairs::visible, &pairs};
  reference::flash_backward(p, grads);
}

}  // namespace heed::kernels::reference
