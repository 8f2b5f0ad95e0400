#include "heed/train/task_trainer.h"

#include <chrono>

#include "heed/error.h"
#include "heed/train/lm_trainer.h"

namespace heed::train {
namespace {

using tasks::TokenSample;
using torch::Tensor;

/// Cross-entropy of every position, 0 where nothing is asked: [B, T].
Tensor losses_of(const Tensor& logits, const Tensor& labels) {
  const auto losses = torch::nn::functional::cross_entropy(
      logits.flatten(0, 1), labels.flatten(),
      torch::nn::functional::CrossEntropyFuncOptions().reduction(torch::kNone).ignore_index(TokenSample::kNoLabel));
  return losses.view(labels.sizes());
}

}  // namespace

TaskBatch task_batch(const tasks::Task& task, tasks::Split split, uint64_t first, int64_t size) {
  require(size > 0, "a batch of {} samples; 1 or more is accepted", size);
  std::vector<TokenSample> samples;
  size_t length = 0;
  for (int64_t b = 0; b < size; ++b) {
    samples.push_back(task.tokens(split, first + static_cast<uint64_t>(b)));
    length = std::max(length, samples.back().inputs.size());
  }
  auto inputs = torch::zeros({size, static_cast<int64_t>(length)}, torch::kInt64);
  auto labels = torch::full_like(inputs, TokenSample::kNoLabel);
  for (int64_t b = 0; b < size; ++b) {
    const auto& sample = samples[static_cast<size_t>(b)];
    std::copy(sample.inputs.begin(), sample.inputs.end(), inputs[b].data_ptr<int64_t>());
    std::copy(sample.labels.begin(), sample.labels.end(), labels[b].data_ptr<int64_t>());
  }
  return {inputs, labels};
}

double train_task(DecoderLm& model, const tasks::Task& task, const TaskTrainOptions& options,
                  const std::function<bool(int64_t step, double loss)>& report) {
  require(options.steps > 0, "steps = {}: 1 or more is accepted", options.steps);
  LmTrainOptions schedule;
  schedule.steps = options.steps;
  schedule.learning_rate = options.learning_rate;
  schedule.warmup = std::min(options.warmup, options.steps);
  std::vector<Tensor> matrices, vectors;
  for (const auto& parameter : model->parameters()) (parameter.dim() >= 2 ? matrices : vectors).push_back(parameter);
  const auto group = [&](const std::vector<Tensor>& parameters, double decay) {
    return torch::optim::OptimizerParamGroup(
        parameters, std::make_unique<torch::optim::AdamWOptions>(
                        torch::optim::AdamWOptions(options.learning_rate).betas({0.9, 0.95}).weight_decay(decay)));
  };
  torch::optim::AdamW adamw({group(matrices, options.weight_decay), group(vectors, 0)});

  model->train();
  int64_t tokens = 0;
  const auto begin = std::chrono::steady_clock::now();
  for (int64_t step = 0; step < options.steps; ++step) {
    const auto first = options.seed * 0x100000001ull + static_cast<uint64_t>(step * options.batch);
    const auto batch = task_batch(task, tasks::Split::train, first, options.batch);
    const auto asked = (batch.labels != TokenSample::kNoLabel).sum().clamp_min(1);
    const auto loss =
        losses_of(model->forward(batch.inputs, nullptr, options.seed + uint64_t(step)), batch.labels).sum() / asked;
    const double value = loss.item<double>();
    require(std::isfinite(value), "training on {}: the loss is {} at step {}; a smaller learning rate than {} may help",
            task.name(), value, step, options.learning_rate);
    adamw.zero_grad();
    loss.backward();
    if (options.clip > 0) torch::nn::utils::clip_grad_norm_(model->parameters(), options.clip);
    for (auto& parameters : adamw.param_groups())
      static_cast<torch::optim::AdamWOptions&>(parameters.options()).lr(scheduled_rate(schedule, step));
    adamw.step();
    tokens += batch.inputs.numel();
    if (report && !report(step, value)) break;
  }
  model->eval();
  return double(tokens) / std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

TaskScore score_task(DecoderLm& model, const tasks::Task& task, tasks::Split split, int64_t samples, int64_t batch) {
  require(samples > 0, "{} samples to score; 1 or more is accepted", samples);
  torch::NoGradGuard no_grad;
  double right = 0, asked = 0, whole = 0, loss = 0;
  for (int64_t first = 0; first < samples; first += batch) {
    const auto part = task_batch(task, split, static_cast<uint64_t>(first), std::min(batch, samples - first));
    const auto logits = model->forward(part.inputs);
    const auto counts = part.labels != TokenSample::kNoLabel;
    const auto wrong = (logits.argmax(-1) != part.labels).logical_and(counts);
    asked += counts.sum().item<double>();
    right += (counts.sum() - wrong.sum()).item<double>();
    whole += wrong.any(1).logical_not().sum().item<double>();
    loss += losses_of(logits, part.labels).sum().item<double>();
  }
  require(asked > 0, "{}: its samples ask for nothing", task.name());
  return {right / asked, whole / double(samples), loss / asked};
}

}  // namespace heed::train
