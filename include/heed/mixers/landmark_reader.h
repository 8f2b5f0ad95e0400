// Layers that read landmark tokens, which stand for the block of tokens before them (landmark_attention).
#pragma once

#include <cstdint>

namespace heed {

class LandmarkReader {
 public:
  virtual ~LandmarkReader() = default;
  /// Tokens of a block, the last of which is a landmark that the model inserts (heed/models/landmarks.h); 0: the text
  /// has landmarks of its own.
  virtual int64_t inserted_block() const = 0;
};

}  // namespace heed
