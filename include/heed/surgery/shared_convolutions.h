// A vision transformer becomes one whose linear maps are convolutions with kernels that all tokens share (ConvShareViT,
// arXiv 2504.11517).
#pragma once

#include "heed/models/vision.h"

namespace heed::surgery {

/// Dense layers become conv_share_attention with kernels as large as a token's map, MLPs conv_share_mlp: the same
/// function, up to rounding. `optical`: attention's maps go through the Fourier plane. Throws heed::Error for layers of
/// other mixers or with more than queries, keys and values, and for other channel mixers than mlp.
VisionTransformer with_shared_convolutions(const VisionTransformer& model, bool optical = false);

}  // namespace heed::surgery
