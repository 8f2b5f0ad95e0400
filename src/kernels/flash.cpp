#include "heed/kernels/flash.h"

namespace heed::kernels {

void flash_forward(const FlashParams& params) { reference::flash_forward(params); }
void flash_backward(const FlashParams& params, const FlashGrads& grads) { reference::flash_backward(params, grads); }
int64_t flash_forward_bytes(const FlashParams& p) {
  return 8 * (p.q.size[2] * p.q.size[3] + p.k.size[2] * (p.k.size[3] + p.v.size[3] + 6));
}
int64_t flash_backward_bytes(const FlashParams& p) { return flash_forward_bytes(p); }

}  // namespace heed::kernels
