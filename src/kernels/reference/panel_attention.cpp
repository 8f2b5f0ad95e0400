#include "heed/kernels/panel_attention.h"

#include <algorithm>
#include <vector>

#include "kernels/panel_order.h"

namespace heed::kernels::reference {
namespace {

/// Pairs of a call as the mask of the plain formula.
struct PanelPairs {
  const PanelParams& p;
  std::vector<int64_t> words{0};  ///< of each list row's first word

  explicit PanelPairs(const PanelParams& params) : p(params) {
    for (int64_t r = 0; r < p.panels.list_rows(); ++r)
      words.push_back(words.back() + words_of_block(p.panels, p.panels.offsets[r + 1] - p.panels.offsets[r]));
  }

  static bool visible(const void* context, int64_t b, int64_t h, int64_t i, int64_t j) {
    const auto& pairs = *static_cast<const PanelPairs*>(context);
    const KeyPanels& panels = pairs.p.panels;
    const int64_t chooser = h * panels.choosers / pairs.p.attention.q.size[1],
                  row = (b * panels.choosers + chooser) * panels.blocks() + i / panels.block;
    const int32_t *first = panels.keys + panels.offsets[row], *last = panels.keys + panels.offsets[row + 1],
                  *at = std::lower_bound(first, last, j);
    if (at == last || *at != j) return false;
    const int64_t c = at - first;
    return (panels.seen[pairs.words[row] + i % panels.block * ((last - first + 63) / 64) + c / 64] >> (c % 64) & 1) !=
           0;
  }
};

}  // namespace

void panel_attention(const PanelParams& params) {
  kernels::check(params);
  const PanelPairs pairs(params);
  FlashParams p = params.attention;
  p.mask = Predicate{PanelPairs::visible, &pairs};
  reference::flash_forward(p);
}

void panel_attention_backward(const PanelParams& params, const FlashGrads& grads) {
  kernels::check(params);
  const PanelPairs pairs(params);
  FlashParams p = params.attention;
  p.mask = Predicate{PanelPairs::visible, &pairs};
  reference::flash_backward(p, grads);
}

}  // namespace heed::kernels::reference
