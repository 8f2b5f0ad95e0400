// A model that learns a task and to be like a teacher, which has learned it before.
#pragma once

#include <memory>

#include "heed/train/task_model.h"

namespace heed::train {

/// Weights of what is added to the loss of the task. The defaults are those of Sparsifiner's second phase
/// (arXiv 2303.13755), whose teacher is the dense model that the student was made from.
struct DistillationTerms {
  double classes = 0.5;  ///< KL(teacher || student) of the classes of what is asked, mean over answers
  double tokens = 0.5;   ///< mean squared difference of the last states of all tokens that are no padding
};

/// terms.classes KL(teacher || student) of logits [R, classes], mean over R, plus terms.tokens times the mean squared
/// difference of tokens [B, N, dim] (`padding` bool [B, N] or undefined). The teacher gets no gradient. Throws
/// heed::Error for shapes that differ.
torch::Tensor distillation_loss(const torch::Tensor& logits, const torch::Tensor& teacher_logits,
                                const torch::Tensor& tokens, const torch::Tensor& teacher_tokens,
                                const torch::Tensor& padding = {}, const DistillationTerms& terms = {});

/// `student`, whose training minimises its own loss and the distillation_loss from `teacher`. Both answer with classes;
/// with terms.tokens above 0 their last states are of one size. The teacher stays as it is, and its parameters are none
/// of the model's.
std::unique_ptr<TaskModel> distilled_model(std::unique_ptr<TaskModel> student, std::shared_ptr<TaskModel> teacher,
                                           const DistillationTerms& terms = {});

}  // namespace heed::train
