#include "heed/train/task_trainer.h"

#include <chrono>
#include <cmath>
#include <map>
#include <optional>

#include "heed/error.h"
#include "heed/mixers/subsampling.h"
#include "heed/train/lm_trainer.h"
#include "train/task_judgement.h"
#include "train/weight_decay.h"

namespace heed::train {
namespace {

using tasks::Metric;
using torch::Tensor;

/// Only what is asked is answered: a vocabulary is wide.
Judgement judge_batch(TaskModel& model, const tasks::Face& face, const TaskBatch& batch, const Tensor& asked,
                      uint64_t seed) {
  const auto rows = model.hidden(batch, seed).flatten(0, 1).index_select(0, asked);
  return judge(face, model.answers(rows), batch, asked);
}

/// float [B]: the share of each sample's answers that is right, of states as TaskModel::hidden gives them.
Tensor right_shares(TaskModel& model, const tasks::Face& face, const TaskBatch& batch, const Tensor& asked,
                    const Tensor& hidden) {
  require(face.answer == tasks::Face::Answer::classes && face.metric == Metric::accuracy,
          "ia_red2 learns by right answers: tasks of classes, measured by accuracy, or reward_weight = 0 are accepted");
  const auto score = judge(face, model.answers(hidden.flatten(0, 1).index_select(0, asked)), batch, asked).score;
  const auto sample = asked.div(hidden.size(1), "floor");
  const auto of_samples = [&](const Tensor& x) {
    return torch::zeros({hidden.size(0)}, score.options()).index_add_(0, sample, x);
  };
  return of_samples(score) / of_samples(torch::ones_like(score)).clamp_min(1);
}

torch::optim::AdamW optimizer_of(TaskModel& model, const TaskTrainOptions& options) {
  const auto adamw = torch::optim::AdamWOptions(options.learning_rate).betas({0.9, 0.95});
  return torch::optim::AdamW(weight_decay_groups(model.module().named_parameters(),
                                                 torch::optim::AdamWOptions(adamw).weight_decay(options.weight_decay)));
}

}  // namespace

double train_task(TaskModel& model, const tasks::Task& task, const TaskTrainOptions& options,
                  const std::function<bool(const TaskStep&)>& report) {
  require(options.steps > 0, "steps = {}: 1 or more is accepted", options.steps);
  const auto face = task.face();
  LmTrainOptions schedule;
  schedule.steps = options.steps;
  schedule.learning_rate = options.learning_rate;
  schedule.warmup = std::min(options.warmup, options.steps);
  auto adamw = optimizer_of(model, options);

  const int64_t dense_from = first_dense_step(options.steps, options.dense_end);
  model.module().train();
  int64_t positions = 0;
  double rate = 0;
  std::chrono::duration<double> spent{0};  // without what the reports take
  for (int64_t step = 0; step < options.steps; ++step) {
    const auto begin = std::chrono::steady_clock::now();
    const auto first = options.seed * 0x100000001ull + uint64_t(step * options.batch);
    const auto batch = task_batch(task, tasks::Split::train, first, options.batch);
    const auto asked = batch.asked();
    require(asked.numel() > 0, "{}: its samples ask for nothing", task.name());
    std::optional<SubsamplingScope> dense;
    if (step >= dense_from) dense.emplace(model.module(), Subsampling::When::never);
    const auto answered = judge_batch(model, face, batch, asked, options.seed + uint64_t(step)).loss.mean();
    const auto loss = model.training_loss(
        answered, [&](const Tensor& answers) { return judge(face, answers, batch, asked).loss.mean(); });
    const double value = loss.item<double>();
    require(std::isfinite(value), "training on {}: the loss is {} at step {}; a smaller learning rate than {} may help",
            task.name(), value, step, options.learning_rate);
    adamw.zero_grad();
    if (model.learns_by_reward()) {
      const auto reward =
          model.reward_loss([&](const Tensor& hidden) { return right_shares(model, face, batch, asked, hidden); });
      if (reward.requires_grad()) reward.backward();  // else the policies are frozen
    }
    loss.backward();
    dense.reset();
    if (options.clip > 0) torch::nn::utils::clip_grad_norm_(model.module().parameters(), options.clip);
    for (auto& parameters : adamw.param_groups())
      static_cast<torch::optim::AdamWOptions&>(parameters.options()).lr(scheduled_rate(schedule, step));
    adamw.step();
    positions += batch.inputs.size(0) * batch.positions(face);
    spent += std::chrono::steady_clock::now() - begin;
    rate = double(positions) / spent.count();
    if (report && !report({step, value, rate})) break;
  }
  model.module().eval();
  return rate;
}

double TaskScore::detail(const std::string& name) const {
  for (const auto& [key, value] : details)
    if (key == name) return value;
  return std::nan("");
}

TaskScore score_task(TaskModel& model, const tasks::Task& task, tasks::Split split, int64_t samples, int64_t batch) {
  require(samples > 0, "{} samples to score; 1 or more is accepted", samples);
  torch::NoGradGuard no_grad;
  const bool in_training = model.module().is_training();
  model.module().eval();
  const auto face = task.face();
  if (const auto size = task.size(split); size > 0) samples = std::min(samples, size);
  TaskScore result;
  double answers = 0, whole = 0;
  std::map<int64_t, std::pair<double, double>> places;
  std::map<std::string, double> details;
  for (int64_t first = 0; first < samples; first += batch) {
    const auto part = task_batch(task, split, uint64_t(first), std::min(batch, samples - first));
    const auto asked = part.asked();
    if (asked.numel() == 0) continue;
    const auto judged = judge_batch(model, face, part, asked, 0);
    answers += double(asked.numel());
    result.loss += judged.loss.sum().item<double>();
    result.score += judged.score.sum().item<double>();
    for (const auto& [name, values] : judged.details) details[name] += values.sum().item<double>();
    const auto& grid = part.labels.defined() ? part.labels : part.targets;
    const auto score = judged.score.to(torch::kFloat64).contiguous();
    std::vector<bool> right(size_t(grid.size(0)), true);
    for (int64_t r = 0; r < asked.numel(); ++r) {
      const int64_t at = asked.data_ptr<int64_t>()[r];
      const double value = score.data_ptr<double>()[r];
      auto& place = places[at % grid.size(1)];
      place.first += value, place.second += 1;
      if (value != 1) right[size_t(at / grid.size(1))] = false;
    }
    whole += double(std::count(right.begin(), right.end(), true));
  }
  model.module().train(in_training);
  require(answers > 0, "{}: its samples ask for nothing", task.name());
  result.loss /= answers;
  result.score /= answers;
  if (face.metric == Metric::accuracy && !face.whole) result.details.push_back({"samples", whole / double(samples)});
  for (const auto& [name, sum] : details) result.details.push_back({name, sum / answers});
  for (const auto& [place, sum] : places) result.places.push_back({place, sum.first / sum.second});
  return result;
}

}  // namespace heed::train
