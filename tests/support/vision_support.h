// A small model of images, for tests.
#pragma once

#include "heed/models/vision_backbone.h"

namespace heed::test {

/// Two heads of 8 channels, `layers` layers of dense attention, 3 labels; images of height x width pixels, one channel,
/// patches of 2.
inline VisionSpec vision_spec(int64_t layers, int64_t height = 8, int64_t width = 8) {
  VisionSpec spec;
  spec.image_height = height, spec.image_width = width;
  spec.labels = 3;
  spec.base.dim = 16, spec.base.heads = spec.base.kv_heads = 2, spec.base.head_dim = 8, spec.base.hidden = 20;
  spec.base.block = vision_block();
  spec.base.layers.resize(static_cast<size_t>(layers));
  return spec;
}

}  // namespace heed::test
