#include "tasks/baselines.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace heed::tasks {

double commonest_share(const Task& task, Split split, uint64_t samples) {
  std::map<int64_t, double> counts;
  double all = 0, most = 0;
  for (uint64_t i = 0; i < samples; ++i)
    for (const int64_t label : task.example(split, i).labels)
      if (label != Example::kNoLabel) most = std::max(most, ++counts[label]), ++all;
  return most / all;
}

double mean_error(const Task& task, Split split, uint64_t samples) {
  const double unit = task.face().unit;
  std::vector<double> sums, squares, counts;
  for (uint64_t i = 0; i < samples; ++i) {
    const auto targets = task.example(split, i).targets;
    for (auto* list : {&sums, &squares, &counts}) list->resize(std::max(list->size(), targets.size()));
    for (size_t j = 0; j < targets.size(); ++j) {
      if (std::isnan(targets[j])) continue;
      const double y = static_cast<double>(targets[j]) / unit;
      sums[j] += y, squares[j] += y * y, ++counts[j];
    }
  }
  double error = 0, all = 0;
  for (size_t j = 0; j < sums.size(); ++j) {
    if (counts[j] == 0) continue;
    error += squares[j] - sums[j] * sums[j] / counts[j];
    all += counts[j];
  }
  return error / all;
}

}  // namespace heed::tasks
