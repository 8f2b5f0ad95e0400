// A vision transformer learns images without labels: it sees some of the patches and paints the others (SimMIM, arXiv
// 2111.09886).
#pragma once

#include <functional>

#include "heed/models/vision.h"
#include "heed/tasks/task.h"

namespace heed::train {

struct MaskedImageOptions {
  double share = 0.6;  ///< of the patches that are hidden
  int64_t steps = 500, batch = 64;
  double learning_rate = 2e-3;
  uint64_t seed = 0;
};

/// Trains `model` on the images of `task`. Hidden patches are blank; a linear map that is thrown away afterwards paints
/// them. Returns the mean squared error of the hidden pixels over the last tenth of the steps, in units of the pixels'
/// variance. Throws heed::Error for a task without images, or of another size, and for shares outside (0, 1).
double train_masked_images(VisionTransformer& model, const tasks::Task& task, const MaskedImageOptions& options,
                           const std::function<void(int64_t done, int64_t total)>& report = {});

}  // namespace heed::train
