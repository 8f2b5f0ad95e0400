#include "heed/train/task_batch.h"

#include <limits>

#include "heed/error.h"

namespace heed::train {
namespace {

using tasks::Example;
using tasks::Face;
using torch::Tensor;

/// One row an item, filled up with `filling`: [B, longest].
template <class T>
Tensor rows_of(const std::vector<Example>& samples, std::vector<T> Example::*list, T filling) {
  size_t longest = 0;
  for (const auto& sample : samples) longest = std::max(longest, (sample.*list).size());
  auto rows = torch::full({int64_t(samples.size()), int64_t(longest)}, filling, torch::CppTypeToScalarType<T>::value);
  for (size_t b = 0; b < samples.size(); ++b)
    std::copy((samples[b].*list).begin(), (samples[b].*list).end(), rows[int64_t(b)].template data_ptr<T>());
  return rows;
}

/// True behind the end of the shorter samples.
Tensor padding_of(const std::vector<Example>& samples, int64_t longest) {
  auto lengths = torch::empty({int64_t(samples.size()), 1}, torch::kInt64);
  for (size_t b = 0; b < samples.size(); ++b) lengths[int64_t(b)][0] = int64_t(samples[b].tokens.size());
  const auto padding = torch::arange(longest).unsqueeze(0) >= lengths;
  return padding.any().item<bool>() ? padding : Tensor();
}

}  // namespace

int64_t TaskBatch::positions(const Face& face) const {
  return face.input == Face::Input::image ? (face.height / face.patch) * (face.width / face.patch) : inputs.size(1);
}

Tensor TaskBatch::asked() const {
  const auto wanted = labels.defined() ? labels != Example::kNoLabel : targets.select(-1, 0).isnan().logical_not();
  return wanted.flatten().nonzero().squeeze(1);
}

TaskBatch task_batch(const tasks::Task& task, tasks::Split split, uint64_t first, int64_t size) {
  require(size > 0, "a batch of {} samples; 1 or more is accepted", size);
  const auto face = task.face();
  std::vector<Example> samples;
  for (int64_t b = 0; b < size; ++b) samples.push_back(task.example(split, first + uint64_t(b)));
  TaskBatch batch;
  if (face.input == Face::Input::tokens) {
    batch.inputs = rows_of<int64_t>(samples, &Example::tokens, 0);
    batch.padding = padding_of(samples, batch.inputs.size(1));
  } else {
    batch.inputs = rows_of<float>(samples, &Example::values, 0);
    if (face.input == Face::Input::image)
      batch.inputs = batch.inputs.view({size, face.channels, face.height, face.width});
    else
      batch.inputs = batch.inputs.view({size, -1, face.channels});
  }
  if (face.answer != Face::Answer::values)
    batch.labels = rows_of<int64_t>(samples, &Example::labels, Example::kNoLabel);
  if (face.answer != Face::Answer::classes) {
    const auto rows = rows_of<float>(samples, &Example::targets, std::numeric_limits<float>::quiet_NaN());
    batch.targets = rows.view({size, -1, face.answer == Face::Answer::events ? 1 : face.outputs});
  }
  return batch;
}

}  // namespace heed::train
