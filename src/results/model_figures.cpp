#include "results/model_figures.h"

#include <algorithm>
#include <cmath>

namespace heed::results {

using torch::Tensor;

ModelFigures::ModelFigures(std::vector<std::string> quantities, Measure measure)
    : quantities_(std::move(quantities)), measure_(std::move(measure)) {}

Inspect ModelFigures::inspect() {
  return [this](const Learner& learner, train::TaskModel& model, const tasks::Task&) {
    torch::NoGradGuard no_grad;
    model.module().eval();
    if (figures_.empty() || figures_.back().first != learner.name) {
      auto& row = figures_.emplace_back(learner.name, std::vector<Figure>()).second;
      for (const auto& quantity : quantities_) row.push_back({quantity + ", " + learner.name, {}});
    }
    const auto values = measure_(model);
    for (size_t i = 0; i < quantities_.size(); ++i) figures_.back().second[i].values.push_back(values[i]);
  };
}

const Figure& ModelFigures::of(const std::string& learner, const std::string& quantity) const {
  const auto row = std::find_if(figures_.begin(), figures_.end(), [&](const auto& r) { return r.first == learner; });
  const auto column = std::find(quantities_.begin(), quantities_.end(), quantity);
  require(row != figures_.end() && column != quantities_.end(), "{} was not measured for {}", quantity, learner);
  return row->second[size_t(column - quantities_.begin())];
}

Table ModelFigures::table(const std::string& title) const {
  Table table{title, {"mixer"}, {}};
  table.columns.insert(table.columns.end(), quantities_.begin(), quantities_.end());
  for (const auto& [learner, figures] : figures_) {
    auto& row = table.rows.emplace_back(1, learner);
    for (const auto& figure : figures) row.push_back(std::isnan(figure.mean()) ? "-" : figure.text());
  }
  return table;
}

Tensor answers_of(train::TaskModel& model, const train::TaskBatch& batch) {
  torch::NoGradGuard no_grad;
  const auto hidden = model.hidden(batch);
  return model.answers(hidden.flatten(0, 1)).unflatten(0, {hidden.size(0), hidden.size(1)});
}

double dice(train::TaskModel& model, const tasks::Task& task, int64_t samples) {
  const auto batch = train::task_batch(task, tasks::Split::test, 0, samples);
  const auto told = answers_of(model, batch).argmax(2);
  const auto right = ((told == batch.labels).logical_and(told > 0)).sum().item<double>();
  return 2 * right / ((told > 0).sum() + (batch.labels > 0).sum()).item<double>();
}

ModelFigures dice_of(const Lesson& lesson) {
  const std::shared_ptr<tasks::Task> task = tasks::make_task(lesson.task, lesson.parameters);
  return ModelFigures({"Dice"}, [task, samples = lesson.samples](train::TaskModel& model) {
    return std::vector{dice(model, *task, samples)};
  });
}

}  // namespace heed::results
