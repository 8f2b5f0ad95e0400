// What answers score that look at no sample.
#pragma once

#include "heed/tasks/task.h"

namespace heed::tasks {

/// The share of the commonest class among the answers to the first `samples` of a split.
double commonest_share(const Task& task, Split split, uint64_t samples);

/// The error, in squares of the face's unit, of the mean answer at each place over the first `samples` of a split.
double mean_error(const Task& task, Split split, uint64_t samples);

}  // namespace heed::tasks
