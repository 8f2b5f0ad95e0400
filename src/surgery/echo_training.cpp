#include "heed/surgery/echo_training.h"

#include <algorithm>

#include "heed/cache/evaluate.h"
#include "heed/error.h"
#include "heed/train/lm_data.h"

namespace heed::surgery {

using torch::Tensor;

void train_echo(const checkpoint::LanguageModel& teacher, DecoderLm& student, const std::vector<LayerBlock>& blocks,
                const tasks::Corpus& corpus, const EchoTraining& o) {
  require(o.distill_steps >= 0 && o.text_steps >= 0 && o.batch >= 1 && o.context >= 1,
          "distillation: {} and {} steps of {} x {} tokens: 0 or more steps of 1 or more are accepted", o.distill_steps,
          o.text_steps, o.batch, o.context);
  std::vector<int64_t> ends;
  for (const auto& block : blocks)
    if (block.followers() > 0) ends.push_back(block.end - 1);
  auto original = teacher.model;
  train::LmTrainOptions training;
  training.learning_rate = o.learning_rate;
  training.weight_decay = 0;
  training.seed = o.seed;
  int64_t first = 0;
  const auto train = [&](int64_t steps, const train::LossFunction& loss) {
    if (steps == 0) return;
    training.steps = steps;
    training.warmup = std::max<int64_t>(1, steps / 20);
    training.loss = loss;
    train::train_lm(student,
                    [&](int64_t step) {
                      return train::text_batch(teacher.tokenizer, corpus, tasks::Split::train, first + step, o.batch,
                                               o.context, o.seed);
                    },
                    training, {});
    first += steps;
  };
  train(o.distill_steps, [&](DecoderLm& model, const train::LmBatch& batch, uint64_t seed) {
    return distill_loss(original, model, batch, ends, o.weights, seed);
  });
  train(o.text_steps, {});
  student->eval();
}

double valid_nats(const checkpoint::LanguageModel& lm, const DecoderLm& model, const tasks::Corpus& corpus,
                  const EchoTraining& o) {
  const checkpoint::LanguageModel scored{model, lm.tokenizer, lm.eos};
  return cache::score_text(scored, nullptr, corpus, tasks::Split::valid, o.context, o.windows).nats;
}

std::vector<EchoScore> compare_blocks(const checkpoint::LanguageModel& lm, const Tensor& similarity,
                                      const BlockChoice& choice, const tasks::Corpus& corpus, const EchoTraining& o) {
  std::vector<LayerBlock> inner;
  for (int64_t l = choice.first; l + choice.size <= similarity.size(0) - choice.last; ++l)
    inner.push_back({l, l + choice.size});
  require(choice.size >= 2 && inner.size() >= 2,
          "blocks of {} between {} first and {} last of {} layers: two inner blocks or more are accepted", choice.size,
          choice.first, choice.last, similarity.size(0));
  const auto less = [&](const LayerBlock& a, const LayerBlock& b) {
    return mean_similarity(similarity, a) < mean_similarity(similarity, b);
  };
  const auto [least, most] = std::minmax_element(inner.begin(), inner.end(), less);
  std::vector<EchoScore> scores{{"most similar", *most}, {"least similar", *least}, {"first layers", {0, choice.size}}};
  auto original = lm.model;
  for (auto& score : scores) {
    score.similarity = mean_similarity(similarity, score.block);
    auto student = share_attention(original, {score.block});
    score.converted = valid_nats(lm, student, corpus, o);
    train_echo(lm, student, {score.block}, corpus, o);
    score.distilled = valid_nats(lm, student, corpus, o);
  }
  return scores;
}

}  // namespace heed::surgery
