// Layers of one model that have parameters in common.
#pragma once

namespace heed {

class TokenMixer;

class SharedParameters {
 public:
  virtual ~SharedParameters() = default;
  /// Uses what `first`, the first layer of this mixer in the model, has for the model, in place of its own; both hold
  /// the same tensors, which are registered in `first` alone. Throws heed::Error where they do not fit.
  virtual void take_from(TokenMixer& first) = 0;
};

}  // namespace heed
