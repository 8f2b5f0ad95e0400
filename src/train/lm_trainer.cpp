#include "heed/train/lm_trainer.h"

#include <ATen/autocast_mode.h>
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <numbers>
#include <optional>

#include "heed/checkpoint/tensor_file.h"
#include "heed/error.h"
#include "heed/mixers/subsampling.h"
#include "heed/progress.h"
#include "train/weight_decay.h"

namespace heed::train {
namespace {

using torch::Tensor;
using Clock = std::chrono::steady_clock;

constexpr const char* kStateFile = "training.safetensors";

/// Matrix products in bfloat16 while alive.
class Autocast {
 public:
  explicit Autocast(bool on) : before_(at::autocast::is_cpu_enabled()) {
    at::autocast::set_autocast_cpu_dtype(torch::kBFloat16);
    at::autocast::set_cpu_enabled(on);
  }
  ~Autocast() {
    at::autocast::clear_cache();
    at::autocast::set_cpu_enabled(before_);
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  bool before_;
};

/// AdamW over a model's parameters, whose state goes to and from one file.
class Optimizer {
 public:
  Optimizer(DecoderLm& model, const LmTrainOptions& options) {
    const auto named = model->named_parameters();
    for (const auto& entry : named) named_.emplace_back(entry.key(), entry.value());
    auto base = torch::optim::AdamWOptions(options.learning_rate).betas({0.9, 0.95}).eps(1e-8);
    base.weight_decay(options.weight_decay);
    adamw_ = std::make_unique<torch::optim::AdamW>(weight_decay_groups(named, base), base);
  }

  void step(double rate) {
    for (auto& group : adamw_->param_groups()) static_cast<torch::optim::AdamWOptions&>(group.options()).lr(rate);
    adamw_->step();
    adamw_->zero_grad();
  }

  void save(const std::filesystem::path& path, int64_t step) const {
    checkpoint::TensorMap tensors;
    for (const auto& [name, parameter] : named_) {
      tensors["weight." + name] = parameter;
      const auto& states = adamw_->state();
      const auto found = states.find(c10::guts::to_string(parameter.unsafeGetTensorImpl()));
      if (found == states.end()) continue;
      const auto& state = static_cast<const torch::optim::AdamWParamState&>(*found->second);
      tensors["first." + name] = state.exp_avg();
      tensors["second." + name] = state.exp_avg_sq();
    }
    checkpoint::save_tensors(path, tensors, {{"step", std::to_string(step)}});
  }

  /// Returns the step the file was saved at.
  int64_t load(const std::filesystem::path& path) {
    const auto file = formats::SafetensorsFile::open(path);
    const auto found = file.metadata().find("step");
    require(found != file.metadata().end() && !found->second.empty() &&
                found->second.find_first_not_of("0123456789") == std::string::npos,
            "{}: no training state: metadata step is missing", path.string());
    const int64_t step = std::stoll(found->second);
    torch::NoGradGuard no_grad;
    for (const auto& [name, parameter] : named_) {
      auto tensor = [&](const char* part) {
        auto t = checkpoint::read_tensor(file, part + name);
        require(t.sizes() == parameter.sizes(), "{}: tensor {}{} does not have the shape of the model's parameter",
                path.string(), part, name);
        return t;
      };
      Tensor(parameter).copy_(tensor("weight."));
      if (!file.tensors().contains("first." + name)) continue;
      auto state = std::make_unique<torch::optim::AdamWParamState>();
      state->step(step);
      state->exp_avg(tensor("first."));
      state->exp_avg_sq(tensor("second."));
      adamw_->state()[c10::guts::to_string(parameter.unsafeGetTensorImpl())] = std::move(state);
    }
    return step;
  }

 private:
  std::vector<std::pair<std::string, Tensor>> named_;
  std::unique_ptr<torch::optim::AdamW> adamw_;
};

}  // namespace

double scheduled_rate(const LmTrainOptions& o, int64_t step) {
  if (step < o.warmup) return o.learning_rate * double(step + 1) / double(o.warmup);
  const double progress = std::min(1.0, double(step - o.warmup) / double(std::max<int64_t>(o.steps - o.warmup, 1)));
  const double cosine = 0.5 * (1 + std::cos(std::numbers::pi * progress));
  return o.learning_rate * (o.final_rate + (1 - o.final_rate) * cosine);
}

int64_t first_dense_step(int64_t steps, double dense_end) {
  require(dense_end >= 0 && dense_end <= 1, "dense_end = {}: 0 to 1 is accepted", dense_end);
  return int64_t(std::llround((1 - dense_end) * double(steps)));
}

Tensor lm_loss(DecoderLm& model, const LmBatch& batch, uint64_t seed) {
  const int64_t length = batch.tokens.size(1) - 1;
  const auto logits = model->forward(batch.tokens.narrow(1, 0, length), nullptr, seed);
  const auto targets = batch.tokens.narrow(1, 1, length);
  const auto losses =
      torch::nn::functional::cross_entropy(logits.flatten(0, 1), targets.flatten(),
                                           torch::nn::functional::CrossEntropyFuncOptions().reduction(torch::kNone));
  const auto weights = batch.weights.flatten();
  return (losses * weights).sum() / weights.sum().clamp_min(1e-6);
}

double train_lm(DecoderLm& model, const BatchSource& batches, const LmTrainOptions& options,
                const std::function<void(DecoderLm&)>& save, const std::function<void(const LmEvaluation&)>& report) {
  require(options.steps > 0, "steps = {}: 1 or more is accepted", options.steps);
  const auto state_path = options.out / kStateFile;
  require(!options.resume || std::filesystem::exists(state_path), "{}: there is no training to resume",
          state_path.string());
  if (!options.out.empty()) std::filesystem::create_directories(options.out);
  Optimizer optimizer(model, options);
  int64_t step = 0;
  if (options.resume) step = optimizer.load(state_path);

  const LossFunction loss_of = options.loss ? options.loss : LossFunction(lm_loss);
  const auto keep = [&](int64_t done) {
    if (options.out.empty()) return;
    optimizer.save(state_path, done);
    save(model);
  };
  model->train();
  Progress progress("train", options.steps, step);
  double loss_sum = 0, last_loss = 0;
  int64_t loss_count = 0, tokens = 0;
  auto since = Clock::now();
  const int64_t dense_from = first_dense_step(options.steps, options.dense_end);
  for (; step < options.steps; ++step) {
    std::optional<SubsamplingScope> dense;
    if (step >= dense_from) dense.emplace(*model, Subsampling::When::never);
    const auto batch = batches(step);
    torch::Tensor loss;
    {
      const Autocast autocast(options.bfloat16);
      loss = loss_of(model, batch, options.seed + uint64_t(step));
    }
    last_loss = loss.item<double>();
    if (!std::isfinite(last_loss)) fail("step {}: the loss is {}: a lower --lr may help", step, last_loss);
    loss.backward();
    dense.reset();
    if (options.clip > 0) torch::nn::utils::clip_grad_norm_(model->parameters(), options.clip);
    optimizer.step(scheduled_rate(options, step));

    loss_sum += last_loss;
    ++loss_count;
    tokens += batch.weights.numel();
    const double seconds = std::chrono::duration<double>(Clock::now() - since).count();
    progress.update(
        step + 1, fmt::format("loss {:.3f}  {:.0f} tokens/s", loss_sum / double(loss_count), double(tokens) / seconds));
    const int64_t done = step + 1;
    if (done % options.save_every == 0 && done < options.steps) keep(done);
    if (report && (done % options.eval_every == 0 || done == options.steps)) {
      report({done, loss_sum / double(loss_count), double(tokens) / seconds});
      model->train();
      loss_sum = 0;
      loss_count = tokens = 0;
      since = Clock::now();
    }
  }
  keep(options.steps);
  return last_loss;
}

}  // namespace heed::train
