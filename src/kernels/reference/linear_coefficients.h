// Linear attention whose pairs and states are weighed by given coefficients.
#pragma once

#include "heed/kernels/linear_chunk.h"

namespace heed::kernels::reference {

/// Pair by pair in double. Calls are checked and have coefficients.
void linear_coefficients(const LinearChunkParams& params);
void linear_coefficients_backward(const LinearChunkParams& params, const LinearChunkGrads& grads);

}  // namespace heed::kernels::reference
