// What trained models of images show beside their scores.
#pragma once

#include "results/learning.h"

namespace heed::results {

/// Quantities of trained models, by learner, once a seed.
class ModelFigures {
 public:
  /// `measure` gives one number a quantity, NaN where a model has none; models come in evaluation, without gradients.
  using Measure = std::function<std::vector<double>(train::TaskModel&)>;
  ModelFigures(std::vector<std::string> quantities, Measure measure);

  Inspect inspect();
  const Figure& of(const std::string& learner, const std::string& quantity) const;
  /// A row a learner, a column a quantity.
  Table table(const std::string& title) const;

 private:
  std::vector<std::string> quantities_;
  Measure measure_;
  std::vector<std::pair<std::string, std::vector<Figure>>> figures_;
};

/// The answers [B, P, outputs] of a model.
torch::Tensor answers_of(train::TaskModel& model, const train::TaskBatch& batch);

/// Dice's coefficient of the patches that are not of class 0, over `samples` test samples of a task that asks of every
/// patch: twice the patches told rightly, by those that are told to be there and those that are.
double dice(train::TaskModel& model, const tasks::Task& task, int64_t samples);

/// Dice of a lesson's models.
ModelFigures dice_of(const Lesson& lesson);

}  // namespace heed::results
