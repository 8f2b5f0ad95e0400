// Configurations come from strangers: what a model takes while it is made is bounded by what its files can fill.
#pragma once

#include <functional>

#include "checkpoint/weights.h"

namespace heed::checkpoint {

/// Calls `make`, which makes a model for the tensors of `source`. Throws heed::Error as soon as its tensors take
/// several times what those of the files do, and where memory ends.
void within_files(const TensorSource& source, const std::function<void()>& make);

}  // namespace heed::checkpoint
