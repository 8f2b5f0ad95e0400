// What an answer costs in training, and what it scores.
#pragma once

#include <torch/torch.h>

#include <string>
#include <utility>
#include <vector>

#include "heed/train/task_batch.h"

namespace heed::train {

/// One number an asked answer, [R] each.
struct Judgement {
  torch::Tensor loss;   ///< what training lowers
  torch::Tensor score;  ///< by the face's metric; scores are means of it
  std::vector<std::pair<std::string, torch::Tensor>> details;
};

/// `answers` [R, answer_width(face)] at the places `asked` of the batch.
Judgement judge(const tasks::Face& face, const torch::Tensor& answers, const TaskBatch& batch,
                const torch::Tensor& asked);

}  // namespace heed::train
