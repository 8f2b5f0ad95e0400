#include "heed/train/distilled_model.h"

#include <utility>

#include "heed/error.h"

namespace heed::train {
namespace {

using torch::Tensor;

class DistilledModel final : public TaskModel {
 public:
  DistilledModel(std::unique_ptr<TaskModel> student, std::shared_ptr<TaskModel> teacher, const DistillationTerms& terms)
      : student_(std::move(student)), teacher_(std::move(teacher)), terms_(terms) {}

  Tensor hidden(const TaskBatch& batch, uint64_t seed) override { return states(batch, seed).hidden; }
  States states(const TaskBatch& batch, uint64_t seed) override {
    const auto own = student_->states(batch, seed);
    if (student_->module().is_training() && torch::GradMode::is_enabled()) distance_ = distance(batch, own);
    return own;
  }
  Tensor answers(const Tensor& hidden) override { return student_->answers(hidden); }
  Tensor training_loss(const Tensor& loss, const std::function<Tensor(const Tensor&)>& judge) override {
    require(distance_.defined(), "a distilled model has no loss of training before it has seen a batch in training");
    return student_->training_loss(loss, judge) + std::exchange(distance_, {});
  }
  bool learns_by_reward() override { return student_->learns_by_reward(); }
  Tensor reward_loss(const std::function<Tensor(const Tensor&)>& right) override {
    return student_->reward_loss(right);
  }
  torch::nn::Module& module() override { return student_->module(); }
  int64_t state_bytes(const TaskBatch& batch) override { return student_->state_bytes(batch); }
  bool causal() const override { return student_->causal(); }
  DecoderLm* decoder() override { return student_->decoder(); }

 private:
  Tensor distance(const TaskBatch& batch, const States& own) {
    const auto asked = batch.asked();
    const auto logits = [&](TaskModel& model, const States& states) {
      return model.answers(states.hidden.flatten(0, 1).index_select(0, asked));
    };
    States shown;
    Tensor wanted;
    {
      torch::NoGradGuard no_grad;
      auto& module = teacher_->module();
      const bool learns = module.is_training();
      module.eval();
      shown = teacher_->states(batch);
      wanted = logits(*teacher_, shown);
      module.train(learns);
    }
    const bool padded = batch.padding.defined() && own.tokens.size(1) == batch.padding.size(1);
    return distillation_loss(logits(*student_, own), wanted, own.tokens, shown.tokens,
                             padded ? batch.padding : Tensor(), terms_);
  }

  std::unique_ptr<TaskModel> student_;
  std::shared_ptr<TaskModel> teacher_;
  DistillationTerms terms_;
  Tensor distance_;  // of the last batch in training
};

}  // namespace

Tensor distillation_loss(const Tensor& logits, const Tensor& teacher_logits, const Tensor& tokens,
                         const Tensor& teacher_tokens, const Tensor& padding, const DistillationTerms& terms) {
  require(logits.sizes() == teacher_logits.sizes(),
          "distillation: answers of shape {} and a teacher's of shape {}: equal ones are accepted",
          c10::str(logits.sizes()), c10::str(teacher_logits.sizes()));
  const auto p = teacher_logits.detach().log_softmax(-1), q = logits.log_softmax(-1);
  auto loss = terms.classes * (p.exp() * (p - q)).sum(-1).mean();
  if (terms.tokens == 0) return loss;
  require(
      tokens.sizes() == teacher_tokens.sizes(),
      "distillation: last states of shape {} and a teacher's of shape {}: equal ones are accepted unless tokens = 0",
      c10::str(tokens.sizes()), c10::str(teacher_tokens.sizes()));
  auto apart = (tokens - teacher_tokens.detach()).square().mean(2);
  if (!padding.defined()) return loss + terms.tokens * apart.mean();
  apart = apart.masked_fill(padding, 0);
  return loss + terms.tokens * apart.sum() / padding.logical_not().sum().clamp_min(1);
}

std::unique_ptr<TaskModel> distilled_model(std::unique_ptr<TaskModel> student, std::shared_ptr<TaskModel> teacher,
                                           const DistillationTerms& terms) {
  require(student && teacher, "distillation: a student and a teacher are needed");
  require(terms.classes >= 0 && terms.tokens >= 0,
          "distillation: classes = {}, tokens = {}: weights of 0 or more are accepted", terms.classes, terms.tokens);
  return std::make_unique<DistilledModel>(std::move(student), std::move(teacher), terms);
}

}  // namespace heed::train
