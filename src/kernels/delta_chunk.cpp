#include "heed/kernels/delta_chunk.h"

namespace heed::kernels {

void delta_chunk(const DeltaChunkParams& p) { reference::delta_chunk(p); }

void delta_chunk_backward(const DeltaChunkParams& p, const DeltaChunkGrads& g) {
  reference::delta_chunk_backward(p, g);
}

}  // namespace heed::kernels
