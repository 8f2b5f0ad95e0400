#include "heed/kernels/linear_chunk.h"

namespace heed::kernels {

void linear_chunk(const LinearChunkParams& p) { reference::linear_chunk(p); }

void linear_chunk_backward(const LinearChunkParams& p, const LinearChunkGrads& g) {
  reference::linear_chunk_backward(p, g);
}

}  // namespace heed::kernels
