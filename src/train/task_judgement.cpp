#include "train/task_judgement.h"

#include <numbers>

#include "heed/nn/huber.h"
#include "train/event_law.h"

namespace heed::train {

using tasks::Face;
using tasks::Metric;
using torch::Tensor;

Judgement judge(const Face& face, const Tensor& answers, const TaskBatch& batch, const Tensor& asked) {
  const auto labels = batch.labels.defined() ? batch.labels.flatten().index_select(0, asked) : Tensor();
  const auto targets = batch.targets.defined() ? batch.targets.flatten(0, 1).index_select(0, asked) : Tensor();
  switch (face.answer) {
    case Face::Answer::classes: {
      const auto loss = torch::nll_loss(torch::log_softmax(answers, 1), labels, {}, at::Reduction::None);
      const auto right = (answers.argmax(1) == labels).to(torch::kFloat32);
      if (face.metric == Metric::bits) return {loss, loss / std::numbers::ln2, {{"accuracy", right}}};
      return {loss, right, {}};
    }
    case Face::Answer::values: {
      const auto errors = (answers - targets) / face.unit;
      const auto squares = errors.square().mean(1);
      const auto loss = face.huber > 0 ? nn::huber(errors, face.huber).mean(1) : squares;
      return {loss, squares, {{"absolute_error", errors.abs().mean(1)}}};
    }
    case Face::Answer::events:
      break;
  }
  const auto likelihood = event_likelihood(answers, targets.squeeze(1), labels);
  const auto nats = -(likelihood.time + likelihood.mark);
  return {nats,
          nats,
          {{"time_nats", -likelihood.time},
           {"mark_accuracy", (mark_scores(answers).argmax(1) == labels).to(torch::kFloat32)}}};
}

}  // namespace heed::train
